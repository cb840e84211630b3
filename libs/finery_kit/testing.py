"""Fakes and real parts for tests: a nats-server from its wheel, a virtual clock, an executor that runs nothing."""

from __future__ import annotations

import contextlib
import subprocess
import time
import urllib.request
from collections.abc import Generator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

from nats.aio.client import Client

from finery_kit.nats_server import nats_binary
from finery_kit.ports import free_port


@contextlib.contextmanager
def nats_server(folder: Path, *, port: int | None = None) -> Generator[str]:
    """A real broker with JetStream in ``folder``; yields its URL."""
    folder.mkdir(parents=True, exist_ok=True)
    process, port = _started(folder, port)
    try:
        yield f"nats://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(timeout=20)


async def flushed(client: Client) -> None:
    """Wait until the broker has read all that ``client`` said. nats-py writes the ping of a flush before what still
    waits, so only the answer to the second one comes after it."""
    await client.flush()
    await client.flush()


def _started(folder: Path, fixed: int | None) -> tuple[subprocess.Popen[bytes], int]:
    """Another process may take a free port first: then the next one is tried."""
    for attempt in range(3):
        port, monitor = fixed or free_port(), free_port()
        command = [
            str(nats_binary()),
            "-a",
            "127.0.0.1",
            "-p",
            str(port),
            "-m",
            str(monitor),
            "-js",
            "-sd",
            str(folder),
        ]
        with (folder / "nats.log").open("ab") as log:
            process = subprocess.Popen(command, stdout=log, stderr=log)
        try:
            _await_health(monitor, process)
        except RuntimeError:
            process.kill()
            process.wait(timeout=20)
            if attempt == 2:
                raise
        else:
            return process, port
    raise AssertionError("unreachable")


def _await_health(monitor: int, process: subprocess.Popen[bytes]) -> None:
    until = time.monotonic() + 10
    while time.monotonic() < until:
        if process.poll() is not None:
            raise RuntimeError(f"nats-server left with status {process.returncode}")
        with contextlib.suppress(OSError), urllib.request.urlopen(f"http://127.0.0.1:{monitor}/healthz", timeout=1):
            return
        time.sleep(0.02)
    raise RuntimeError("nats-server did not get ready")


@dataclass
class VirtualClock:
    """A clock that goes when told."""

    now: datetime = field(default_factory=lambda: datetime(2026, 1, 1, tzinfo=UTC))

    def __call__(self) -> datetime:
        return self.now

    def advance(self, seconds: float) -> None:
        """Let time pass."""
        self.now += timedelta(seconds=seconds)
