"""A house for flow tests: every service and a real broker in this process, quick engines as real child processes."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from finery.embedded import Options, house
from finery_kit import executor as executor_module
from finery_kit.ports import free_port

QUICK = Path(__file__).with_name("quick_engine.py")


@dataclass
class QuickProcess:
    """A child process of the test."""

    pid: int
    process: asyncio.subprocess.Process

    async def wait(self) -> int:
        return await self.process.wait()


class QuickExecutor:
    """Runs the quick engine whatever module is asked for."""

    async def start(self, module: str, folder: Path, **_: Any) -> QuickProcess:
        with (folder / "log.txt").open("ab") as log:
            process = await asyncio.create_subprocess_exec(
                sys.executable, str(QUICK), str(folder), stdout=log, stderr=log, start_new_session=True,
                env={**os.environ},
            )  # fmt: skip
        return QuickProcess(process.pid, process)

    def site_packages(self, environment: str) -> Path:
        return Path("/nowhere")

    async def close(self) -> None:
        return None


@pytest.fixture
async def api(tmp_path: Path, house_database: str, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[httpx.AsyncClient]:
    """A client of a running house, with the operator's key."""
    monkeypatch.setattr("finery.embedded.LocalExecutor", QuickExecutor)
    options = Options(home=tmp_path / "home", port=free_port(), allow_webhook_networks=("127.0.0.0/8",))
    async with (
        house(options) as ready,
        httpx.AsyncClient(
            base_url=ready.url, headers={"authorization": f"Bearer {ready.api_key}"}, timeout=30
        ) as client,
    ):
        client.ready = ready  # type: ignore[attr-defined]
        yield client


async def ended(api: httpx.AsyncClient, task_id: str, *, within_s: float = 20) -> dict[str, Any]:
    """The task, once it has ended."""
    async with asyncio.timeout(within_s):
        while True:
            task = (await api.get(f"/api/v1/tasks/{task_id}")).json()
            if task["state"] in ("succeeded", "failed", "terminated"):
                return task
            await asyncio.sleep(0.05)


__all__ = ["api", "ended", "executor_module"]
