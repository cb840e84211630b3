"""Every service in its own process, by ``finery run SERVICE``, does its part of the main job."""

from __future__ import annotations

import contextlib
import os
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from finery.cli.house import SERVICES
from finery_kit.ports import free_port
from finery_kit.testing import nats_server
from tests.bench.house import FINERY

RECORD = b'{"messages": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "hello"}]}\n'


@pytest.fixture(scope="module")
def apart(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    """A broker, and eleven processes on one home."""
    folder = tmp_path_factory.mktemp("apart")
    gateway, studio = free_port(), free_port()
    with nats_server(folder / "nats") as url, contextlib.ExitStack() as stack:
        environment = {
            **os.environ, "FINERY_HOME": str(folder / "home"), "FINERY_NATS_URL": url,
            "FINERY_GATEWAY_PORT": str(gateway),
            "FINERY_STUDIO_PORT": str(studio), "FINERY_STUDIO_URL": f"http://127.0.0.1:{studio}",
            "FINERY_PUBLIC_URL": f"http://127.0.0.1:{gateway}",
        }  # fmt: skip
        subprocess.run([str(FINERY), "bus-init"], env=environment, check=True, stdout=subprocess.DEVNULL)
        for service in SERVICES:
            stack.enter_context(_process(service, environment, folder))
            if service == "studio":
                _until(lambda: (folder / "home" / "api_key").exists())
        key = (folder / "home" / "api_key").read_text()
        with httpx.Client(
            base_url=f"http://127.0.0.1:{gateway}", headers={"authorization": f"Bearer {key}"}, timeout=30
        ) as client:
            _until(lambda: _up(client))
            yield client


@contextlib.contextmanager
def _process(service: str, environment: dict[str, str], folder: Path) -> Iterator[None]:
    with (folder / f"{service}.log").open("wb") as log:
        process = subprocess.Popen([str(FINERY), "run", service], env=environment, stdout=log, stderr=log)
    try:
        yield
    finally:
        process.terminate()
        assert process.wait(60) == 0, (folder / f"{service}.log").read_text()[-2000:]


def _until(true: Callable[[], Any], within_s: float = 60) -> Any:
    end = time.monotonic() + within_s
    while not (found := true()):
        assert time.monotonic() < end
        time.sleep(0.1)
    return found


def _up(client: httpx.Client) -> bool:
    with contextlib.suppress(httpx.TransportError):
        return client.get("/api/v1/deployments").status_code == 200
    return False


def test_data_is_ingested_and_billed_across_processes(apart: httpx.Client) -> None:
    made = apart.post("/api/v1/datasets", files={"file": ("one.jsonl", RECORD)}).json()

    _until(lambda: apart.get(f"/api/v1/datasets/{made['id']}").json()["state"] == "ready")
    lines = _until(lambda: apart.get("/api/v1/bill/lines", params={"noun_id": made["task"]}).json()["data"])

    assert len(lines) == 1


def test_owners_answer_for_their_nouns_across_processes(apart: httpx.Client) -> None:
    assert apart.post("/api/v1/topics", json={"name": "jobs"}).status_code == 201
    assert apart.get("/api/v1/deployments").json()["data"] == []
    refused = apart.post("/api/v1/subscriptions", json={"topic": "jobs", "url": "http://127.0.0.1:1/hook"})
    assert (refused.status_code, refused.json()["error"]["code"]) == (400, "url_not_allowed")
    called = apart.post("/v1/chat/completions", json={"model": "x", "messages": [{"role": "user", "content": "hi"}]})
    assert called.status_code == 404
