"""Where data and weights come from, in a whole house: events name an object store; a large file comes in pieces."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import os
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from nats.aio.client import Client

from finery.client import Finery
from finery.resources import uploads
from finery.transport import Transport
from finery_contracts.inbound import TASK_REQUESTED
from finery_kit.testing import flushed
from tests.flows.conftest import ended
from tests.model_lake import KEYS, WEIGHTS, a_lake, model_files

LINE = b'{"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]}\n'
FILES = model_files()


@pytest.fixture
def near(monkeypatch: pytest.MonkeyPatch) -> None:
    """The operator lets data come from loopback; asked for before the house is built."""
    monkeypatch.setenv("FINERY_SOURCES_ALLOW_NETWORKS", "127.0.0.0/8")


@pytest.fixture
def lake(near: None) -> Iterator[str]:
    with a_lake() as made:
        made.put("day", {"b.jsonl": LINE, "a.jsonl": LINE})
        made.put("tiny", FILES)
        yield made.url


@pytest.fixture
async def bus(lake: str, api: httpx.AsyncClient) -> AsyncIterator[Client]:
    client = Client()
    await client.connect(api.ready.nats_url)  # type: ignore[attr-defined]
    yield client
    await client.close()


def contents(home: Path) -> Iterator[tuple[Path, bytes]]:
    """Every file that is there; job folders of attempts that have ended may go meanwhile."""
    for folder, _, names in os.walk(home):
        for name in names:
            with contextlib.suppress(OSError):
                yield Path(folder, name), Path(folder, name).read_bytes()


async def said_after(
    api: httpx.AsyncClient, bus: Client, lake: str, *, granted: str, noun: str, data: dict[str, Any]
) -> list[dict[str, Any]]:
    """What is said of the noun until it is settled, when an event asks for it twice."""
    project = api.ready.project  # type: ignore[attr-defined]
    store = {"kind": "s3", "name": "lake", "endpoint": lake, **KEYS}
    assert (await api.post("/api/v1/connections", json=store)).status_code == 201
    grant = {"action": "read", "resource": granted, "target": {"kind": "user", "name": "event:warehouse"}}
    assert (await api.post("/api/v1/grants", json=grant)).status_code == 201
    facts = await bus.subscribe(f"finery.evt.{project}.{noun}.>")
    event = {"specversion": "1.0", "id": "n1", "source": "warehouse", "type": TASK_REQUESTED, "data": data}
    for _ in range(2):
        await bus.publish(f"finery.in.{project}.lake", json.dumps(event).encode())
    await flushed(bus)

    said = list[dict[str, Any]]()
    async with asyncio.timeout(30):
        async for message in facts.messages:
            said.append(json.loads(message.data)["data"])
            if said[-1]["state"] in ("ready", "rejected", "invalid"):
                break
    return said


async def test_an_event_that_names_an_object_store_ends_in_a_dataset(
    lake: str, api: httpx.AsyncClient, bus: Client
) -> None:
    data = {"kind": "ingest", "source": "s3://lake/day", "output": "today"}

    said = await said_after(api, bus, lake, granted="s3://lake/day", noun="dataset", data=data)

    assert [one["state"] for one in said] == ["fetching", "ready"]
    lines = "".join(f"{hashlib.sha256(LINE).hexdigest()}  {name}.jsonl\n" for name in ("a", "b"))
    assert (said[-1]["name"], said[-1]["size_bytes"]) == ("today", 2 * len(LINE))
    assert said[-1]["sha256"] == hashlib.sha256(lines.encode()).hexdigest()
    home = Path(api.ready.home)  # type: ignore[attr-defined]
    told = [path for path in home.rglob("*") if path.is_file() and KEYS["secret_key"].encode() in path.read_bytes()]
    assert told == []


async def test_an_event_that_names_weights_of_an_object_store_ends_in_a_model(
    lake: str, api: httpx.AsyncClient, bus: Client
) -> None:
    data = {"kind": "import", "model": "tiny", "source": {"url": "s3://lake/tiny"}}

    said = await said_after(api, bus, lake, granted="s3://lake", noun="model", data=data)

    assert [one["state"] for one in said] == ["importing", "validating", "ready"]
    assert (said[-1]["origin"]["url"], said[-1]["max_length"]) == ("s3://lake/tiny", 256)
    home = Path(api.ready.home)  # type: ignore[attr-defined]
    kept = dict(contents(home))
    assert [path for path, content in kept.items() if KEYS["secret_key"].encode() in content] == []
    assert [content for path, content in kept.items() if path.name == WEIGHTS] == [FILES[WEIGHTS]]


async def test_a_large_file_survives_a_line_that_breaks(
    api: httpx.AsyncClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "large.jsonl"
    file.write_bytes(LINE * 120_000)
    monkeypatch.setattr(uploads, "PIECE", 1 << 20)
    told = list[tuple[int, int]]()
    broken = list[int]()
    send = Transport.send

    def breaks(self: Transport, method: str, path: str, **said: Any) -> httpx.Response:
        if method == "PATCH" and len(told) >= 3 and not broken:
            broken.append(1)
            raise BrokenPipeError(32, "the line is cut")
        return send(self, method, path, **said)

    def first() -> None:
        with Finery(api.ready.url, api.ready.api_key) as finery:  # type: ignore[attr-defined]
            finery.datasets.upload(file, told=lambda come, every: told.append((come, every)))

    def second() -> tuple[Any, int]:
        with Finery(api.ready.url, api.ready.api_key) as finery:  # type: ignore[attr-defined]
            begun = finery.uploads.unfinished(file)
            assert begun is not None
            return finery.datasets.resume(file), begun.offset

    monkeypatch.setattr(Transport, "send", breaks)
    with pytest.raises(BrokenPipeError):
        await asyncio.to_thread(first)
    made, offset = await asyncio.to_thread(second)
    await ended(api, made.task)
    assert offset == 3 << 20
    assert made.sha256 == hashlib.sha256(file.read_bytes()).hexdigest()
    assert (await api.get(f"/api/v1/datasets/{made.id}")).json()["state"] == "ready"
