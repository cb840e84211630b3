"""The outside world of the deployer: engine processes and their HTTP, and the routes on the bus.

A process is known by pid and birth: a pid that was given to a stranger is never signalled. It refuses to decide.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import shutil
import signal
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import aiohttp
import psutil
from nats.js import JetStreamContext
from pydantic import ValidationError

from finery_contracts.errors import ErrorBody
from finery_contracts.jobs import JobResult, ServeJob, ServeReady, ServeStatus
from finery_contracts.streams import KV_ROUTES
from finery_deployer import store
from finery_kit.db import Database
from finery_kit.executor import EngineProcess

log = logging.getLogger("finery.deployer")
ENGINE = "finery_deployer.engine.cpu"
PROBE_TIMEOUT = aiohttp.ClientTimeout(total=5)
LOG_TAIL_BYTES = 8192
LOG_TAIL_LINES = 12
BIRTH_TOLERANCE_S = 2.0
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


@dataclass(frozen=True)
class Started:
    """A process, and what tells it from a later one with its pid."""

    pid: int
    born: str | None


class InstanceRunner(Protocol):
    """Where instances run."""

    async def open(self) -> None:
        """Make what is needed to reach instances."""
        ...

    async def close(self) -> None:
        """Let that go; instances live on."""
        ...

    async def start(self, job: ServeJob) -> Started:
        """Start an instance; FineryError when that cannot be."""
        ...

    def ready(self, instance_id: str) -> ServeReady | None:
        """What it published when it got ready."""
        ...

    def alive(self, pid: int, born: str | None) -> bool:
        """Whether the process lives."""
        ...

    async def status(self, url: str, token: str) -> ServeStatus | None:
        """What it says of itself; None when it is not healthy or does not answer."""
        ...

    def drain(self, pid: int, born: str | None) -> None:
        """Ask it to finish what it has and leave."""
        ...

    def kill(self, pid: int, born: str | None) -> None:
        """End it now."""
        ...

    def refusal(self, instance_id: str) -> ErrorBody | None:
        """The coded reason it left behind when it would not serve."""
        ...

    def last_words(self, instance_id: str) -> str:
        """The last lines of its log."""
        ...

    def clear(self, instance_id: str) -> None:
        """Remove what it left."""
        ...


Starter = Callable[[str, Path], Awaitable[EngineProcess]]
"""Module and folder in, process out: the one place to swap how instances are started."""


class LocalRunner:
    """Instances as processes of this machine, each with a folder of its own under ``home/serve``."""

    def __init__(self, home: Path, starter: Starter) -> None:
        self._root = (home / "serve").resolve()
        self._starter = starter
        self._http: aiohttp.ClientSession | None = None
        self._ends: set[asyncio.Task[int]] = set()

    async def open(self) -> None:
        """See ``InstanceRunner``."""
        self._root.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._http = aiohttp.ClientSession(timeout=PROBE_TIMEOUT, trust_env=False)

    async def close(self) -> None:
        """See ``InstanceRunner``."""
        ends = list(self._ends)
        for end in ends:
            end.cancel()
        await asyncio.gather(*ends, return_exceptions=True)
        if self._http is not None:
            await self._http.close()

    async def start(self, job: ServeJob) -> Started:
        """See ``InstanceRunner``."""
        folder = self._root / job.instance_id
        folder.mkdir(mode=0o700)
        (folder / "serve.json").write_text(job.model_dump_json(indent=1))
        process = await self._starter(ENGINE, folder)
        # Nobody here asks for the status, but the executor lets go of what it holds for a process only at its end.
        end = asyncio.create_task(process.wait(), name=f"end of {job.instance_id}")
        self._ends.add(end)
        end.add_done_callback(self._ends.discard)
        return Started(process.pid, birth_of(process.pid))

    def ready(self, instance_id: str) -> ServeReady | None:
        """See ``InstanceRunner``."""
        with contextlib.suppress(OSError, ValidationError):
            return ServeReady.model_validate_json((self._root / instance_id / "ready.json").read_bytes())
        return None

    def alive(self, pid: int, born: str | None) -> bool:
        """See ``InstanceRunner``."""
        now = birth_of(pid)
        return now is not None and (born is None or same_birth(born, now))

    async def status(self, url: str, token: str) -> ServeStatus | None:
        """See ``InstanceRunner``."""
        assert self._http is not None
        try:
            async with self._http.get(f"{url}/health") as health:
                if health.status != 200:
                    return None
            async with self._http.get(f"{url}/status", headers={"Authorization": f"Bearer {token}"}) as answer:
                return ServeStatus.model_validate_json(await answer.read()) if answer.status == 200 else None
        except (aiohttp.ClientError, TimeoutError, ValidationError):
            return None

    def drain(self, pid: int, born: str | None) -> None:
        """See ``InstanceRunner``."""
        self._signal(pid, born, signal.SIGTERM)

    def kill(self, pid: int, born: str | None) -> None:
        """See ``InstanceRunner``."""
        self._signal(pid, born, signal.SIGKILL)

    def refusal(self, instance_id: str) -> ErrorBody | None:
        """See ``InstanceRunner``."""
        with contextlib.suppress(OSError, ValidationError):
            return JobResult.model_validate_json((self._root / instance_id / "result.json").read_bytes()).error
        return None

    def last_words(self, instance_id: str) -> str:
        """See ``InstanceRunner``."""
        try:
            with (self._root / instance_id / "log.txt").open("rb") as file:
                file.seek(max(0, file.seek(0, os.SEEK_END) - LOG_TAIL_BYTES))
                lines = file.read().decode(errors="replace").splitlines()
        except OSError:
            return ""
        return "\n".join([line for line in lines if line.strip()][-LOG_TAIL_LINES:])

    def clear(self, instance_id: str) -> None:
        """See ``InstanceRunner``."""
        shutil.rmtree(self._root / instance_id, ignore_errors=True)

    def _signal(self, pid: int, born: str | None, number: signal.Signals) -> None:
        if self.alive(pid, born):
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(pid, number)


def birth_of(pid: int) -> str | None:
    """When a process was born, as boot and seconds after it; None for one that is gone or only waits to be reaped.

    Where the system tells no boot, the wall clock stands in for it, hence the tolerance of ``same_birth``.
    """
    try:
        process = psutil.Process(pid)
        if process.status() == psutil.STATUS_ZOMBIE:
            return None
        if not _BOOT_ID.exists():
            return f"wall {process.create_time():.2f}"
        fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
        return f"{_BOOT_ID.read_text().strip()} {int(fields[19]) / os.sysconf('SC_CLK_TCK'):.2f}"
    except (psutil.Error, OSError, IndexError):
        return None


def same_birth(one: str, other: str) -> bool:
    """Whether two births are the same."""
    boot, at = one.rsplit(" ", 1)
    other_boot, other_at = other.rsplit(" ", 1)
    return boot == other_boot and abs(float(at) - float(other_at)) < BIRTH_TOLERANCE_S


class RoutePublisher:
    """Puts on the bus what the route table holds: written with the change it tells of, told afterwards, like a fact."""

    def __init__(self, database: Database, jetstream: Callable[[], JetStreamContext]) -> None:
        self._database, self._jetstream = database, jetstream
        self._wake = asyncio.Event()

    def wake(self) -> None:
        """Look now."""
        self._wake.set()

    async def run(self) -> None:
        """Tell everything once, as after a loss of the bus's storage; then whatever changes. Until cancelled."""
        await self.tell_all()
        while True:
            self._wake.clear()
            try:
                while await self.publish_page():
                    pass
            except Exception as fault:  # the bus is away: what is untold stays so
                log.warning("routes_wait", extra={"error": repr(fault)})
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(1.0):
                    await self._wake.wait()

    async def tell_all(self) -> None:
        """Tell every route again: the bucket may be empty."""
        await self._database.write(store.republish_routes)
        self.wake()

    async def publish_page(self) -> bool:
        """Tell what is untold; False when nothing is left."""
        rows = await self._database.read(store.unpublished_routes)
        if not rows:
            return False
        bucket = await self._jetstream().key_value(KV_ROUTES)
        for row in rows:
            key = f"{row.project}.{row.deployment_id}"
            if row.body is None:
                await bucket.delete(key)
            else:
                await bucket.put(key, row.body.encode())
            await self._database.write(lambda tx, row=row: store.route_published(tx, row))
        return True
