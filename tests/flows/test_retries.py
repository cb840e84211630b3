"""Killed engines and restarts: a task resumes from its newest checkpoint, is billed once, nothing is forgotten."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from finery.embedded import Options, house
from finery_kit.ports import free_port
from tests.flows.conftest import QUICK, QuickExecutor, ended
from tests.flows.test_main_thread import tune, upload


@contextlib.asynccontextmanager
async def at_home(home: Path) -> AsyncIterator[httpx.AsyncClient]:
    """A house on this home."""
    async with (
        house(Options(home=home, port=free_port())) as ready,
        httpx.AsyncClient(
            base_url=ready.url, headers={"authorization": f"Bearer {ready.api_key}"}, timeout=30
        ) as client,
    ):
        yield client


async def with_checkpoints(api: httpx.AsyncClient, task_id: str, count: int) -> dict[str, Any]:
    """The task, once it has announced so many checkpoints."""
    async with asyncio.timeout(20):
        while True:
            task = (await api.get(f"/api/v1/tasks/{task_id}")).json()
            if len(task["checkpoints"]) >= count:
                return task
            await asyncio.sleep(0.05)


async def test_a_killed_engine_is_tried_again_from_its_checkpoint_and_billed_once(
    api: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("QUICK_TUNE_S", "3")
    job = (await tune(api, (await upload(api))["id"])).json()
    task_id = job["x_finery"]["task"]
    await with_checkpoints(api, task_id, 5)

    for process in psutil.Process().children(recursive=True):
        if str(QUICK) in process.cmdline() and task_id in " ".join(process.cmdline()):
            os.kill(process.pid, signal.SIGKILL)
    task = await ended(api, task_id)

    assert task["state"] == "succeeded"
    assert [attempt["reason"] for attempt in task["attempts"]] == ["crashed", "succeeded"]
    steps = [checkpoint["step"] for checkpoint in task["checkpoints"]]
    assert steps == sorted(set(steps))
    second = (await api.get(f"/api/v1/tasks/{task_id}/metrics")).json()["data"]
    first_of_second = min(point["step"] for point in second if point["attempt"] == 2)
    assert first_of_second >= 5  # it did not begin anew
    async with asyncio.timeout(10):
        while not (lines := await _lines(api, task_id)):
            await asyncio.sleep(0.05)
    assert len(lines) == 1
    good = task["attempts"][1]["running_s"]
    assert abs(float(lines[0]["quantity"]) * 3600 - good) < 1e-3


async def test_what_runs_when_the_house_stops_goes_on_after_the_next_start(
    tmp_path: Path, house_database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("finery.embedded.LocalExecutor", QuickExecutor)
    monkeypatch.setenv("QUICK_TUNE_S", "3")
    home = tmp_path / "home"
    async with at_home(home) as api:
        file = await upload(api)
        job = (await tune(api, file["id"])).json()
        await with_checkpoints(api, job["x_finery"]["task"], 3)
        before = (await api.get("/api/v1/events", params={"limit": 1000})).json()["data"]

    async with at_home(home) as api:
        task = await ended(api, job["x_finery"]["task"])
        after = (await api.get("/api/v1/events", params={"limit": 1000})).json()["data"]
        files = (await api.get("/v1/files")).json()["data"]

    assert task["state"] == "succeeded"
    assert len(task["attempts"]) == 2
    assert task["attempts"][0]["error"]["code"] == "worker_left"
    assert [entry["event"]["id"] for entry in after[: len(before)]] == [entry["event"]["id"] for entry in before]
    assert files[0]["id"] == file["id"]


async def _lines(api: httpx.AsyncClient, noun: str) -> list[dict[str, Any]]:
    return (await api.get("/api/v1/bill/lines", params={"noun_id": noun})).json()["data"]
