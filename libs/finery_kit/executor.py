"""Starts engines as child processes of their own environment: cold by exec, or warm from a host with imports done.

It refuses to look into a job: module and folder in, exit status out. Remote executors will offer the same three verbs.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import resource
import signal
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Protocol

from finery_contracts.errors import EngineFailed, Unavailable

log = logging.getLogger("finery.executor")
PRELOAD = "torch,transformers,peft,datasets,trl.trainer.sft_trainer,aiohttp"
ENGINE_ENVIRONMENT = {
    "OMP_WAIT_POLICY": "PASSIVE",
    "HF_HUB_OFFLINE": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "PYTHONUNBUFFERED": "1",
}
GRACE_S = 30.0
Warmth = Literal["always", "if_ready", "never"]
"""Fork from the warm host: wait for it, take it when it is there already, or start cold."""


def environments_folder() -> Path:
    """Engine environments lie beside the control plane's own: ``.venv`` and ``.engines`` are neighbours."""
    return Path(sys.prefix).parent / ".engines"


class EngineProcess(Protocol):
    """A running engine."""

    pid: int

    async def wait(self) -> int:
        """The exit status; negative for a signal."""
        ...


class Executor(Protocol):
    """Where engines run."""

    async def start(
        self, module: str, folder: Path, *, environment: str = "ml", warm: Warmth = "always", life_line: bool = True
    ) -> EngineProcess:
        """Start ``python -m module folder``."""
        ...

    def site_packages(self, environment: str) -> Path:
        """Where the packages of an environment lie (recommended weights travel as packages)."""
        ...


async def terminate(process: EngineProcess, grace_s: float = GRACE_S) -> int:
    """SIGTERM: save and leave; SIGKILL after the grace time."""
    _signal(process.pid, signal.SIGTERM)
    waiting = asyncio.ensure_future(process.wait())
    try:
        return await asyncio.wait_for(asyncio.shield(waiting), grace_s)
    except TimeoutError:
        _signal(process.pid, signal.SIGKILL)
        return await waiting


def kill(process: EngineProcess) -> None:
    """SIGKILL to the engine and whatever it started."""
    _signal(process.pid, signal.SIGKILL)


def _signal(pid: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, number)


@dataclass
class LocalExecutor:
    """Child processes on this machine."""

    engines: Path = field(default_factory=environments_folder)
    warm_idle_s: float = 600.0
    _host: _WarmHost | None = field(init=False, default=None)

    def python(self, environment: str) -> Path:
        """The interpreter of an environment.

        Raises:
            Unavailable: it was not made yet.
        """
        path = self.engines / environment / "bin" / "python"
        if not path.exists():
            raise Unavailable(
                f"the engine environment {environment!r} is missing; run: finery engines install {environment}",
                code="engine_environment_missing",
            )
        return path

    def site_packages(self, environment: str) -> Path:
        """See ``Executor``."""
        found = sorted((self.engines / environment / "lib").glob("python3*/site-packages"))
        if not found:
            raise Unavailable(
                f"the engine environment {environment!r} is missing; run: finery engines install {environment}",
                code="engine_environment_missing",
            )
        return found[0]

    async def start(
        self, module: str, folder: Path, *, environment: str = "ml", warm: Warmth = "always", life_line: bool = True
    ) -> EngineProcess:
        """See ``Executor``. The first engine wakes the warm host; later ones fork from it."""
        python = self.python(environment)
        if self._host is None or not self._host.alive:
            self._host = _WarmHost(python, self.warm_idle_s)
            self._host.begin()
        if warm == "always" or (warm == "if_ready" and self._host.ready):
            try:
                return await self._host.start(module, folder, life_line=life_line)
            except (OSError, ValueError, TimeoutError, EngineFailed) as fault:
                log.warning("warm_host_failed", extra={"error": repr(fault)})
                await self._host.close()
        return await _start_cold(python, module, folder, life_line=life_line)

    async def close(self) -> None:
        """Let the warm host go; engines without life line live on."""
        if self._host is not None:
            await self._host.close()
            self._host = None


@dataclass
class _Cold:
    pid: int
    process: asyncio.subprocess.Process
    life_line: int | None

    async def wait(self) -> int:
        status = await self.process.wait()
        if self.life_line is not None:
            with contextlib.suppress(OSError):
                os.close(self.life_line)
            self.life_line = None
        return status


async def _start_cold(python: Path, module: str, folder: Path, *, life_line: bool) -> _Cold:
    read_end, write_end = os.pipe()
    environment = _clean_environment()
    if life_line:
        environment["FINERY_LIFE_LINE"] = str(read_end)
    with (folder / "log.txt").open("ab") as out:
        process = await asyncio.create_subprocess_exec(
            str(python), "-m", module, str(folder), stdin=asyncio.subprocess.DEVNULL, stdout=out, stderr=out,
            env=environment, start_new_session=True, pass_fds=(read_end,) if life_line else (), preexec_fn=_limit,
        )  # fmt: skip
    os.close(read_end)
    if not life_line:
        os.close(write_end)
    return _Cold(process.pid, process, write_end if life_line else None)


def _limit() -> None:
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _clean_environment() -> dict[str, str]:
    """What an engine may know of ours: the way to programs and the locale, no credential."""
    plain = ("PATH", "HOME", "LANG", "LC_ALL", "TZ", "TMPDIR", "RAY_ADDRESS")
    kept = {name: os.environ[name] for name in plain if name in os.environ}
    kept |= {name: value for name, value in os.environ.items() if name.startswith(("CUDA_", "NVIDIA_", "LD_LIBRARY"))}
    return kept | ENGINE_ENVIRONMENT


@dataclass
class _Warm:
    pid: int
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    on_end: Callable[[], None]
    _ending: asyncio.Task[int] | None = None

    async def wait(self) -> int:
        if self._ending is None:  # one reader, however many wait: who started it, and who terminates it
            self._ending = asyncio.create_task(self._end())
        return await asyncio.shield(self._ending)

    async def _end(self) -> int:
        line = await self.reader.readline()
        self.writer.close()
        self.on_end()
        return int(json.loads(line)["status"]) if line else -int(signal.SIGKILL)


class _WarmHost:
    """One fork server, its socket, and its release after idle minutes."""

    def __init__(self, python: Path, idle_s: float) -> None:
        self._python, self._idle_s = python, idle_s
        self._folder = tempfile.TemporaryDirectory(prefix="finery-warm-")
        self._socket = str(Path(self._folder.name) / "s")
        self._begun: asyncio.Task[asyncio.subprocess.Process] | None = None
        self._engines = 0
        self._release: asyncio.TimerHandle | None = None
        self._closing: asyncio.Task[None] | None = None
        self.alive = True

    def begin(self) -> None:
        """Start importing, without waiting for it."""
        self._begun = asyncio.create_task(self._launch())
        self._begun.add_done_callback(lambda task: task.cancelled() or task.exception())
        self._rest()

    @property
    def ready(self) -> bool:
        """True once it can fork at once."""
        return self.alive and self._begun is not None and self._begun.done() and self._begun.exception() is None

    async def start(self, module: str, folder: Path, *, life_line: bool) -> _Warm:
        """Fork an engine. OSError when the host is gone."""
        assert self._begun is not None
        await asyncio.wait_for(asyncio.shield(self._begun), 120)
        if self._release is not None:
            self._release.cancel()
        reader, writer = await asyncio.open_unix_connection(self._socket)
        request: dict[str, object] = {"module": module, "folder": str(folder), "life_line": life_line, "env": {}}
        writer.write(json.dumps(request).encode() + b"\n")
        await writer.drain()
        answer = json.loads(await asyncio.wait_for(reader.readline(), 30) or b"{}")
        if "pid" not in answer:
            raise OSError("the warm host did not answer")
        self._engines += 1
        return _Warm(answer["pid"], reader, writer, self._ended)

    async def close(self) -> None:
        """Close its standard input: it leaves."""
        self.alive = False
        if self._release is not None:
            self._release.cancel()
        if self._begun is not None:
            with contextlib.suppress(Exception, asyncio.CancelledError):
                process = await self._begun
                if process.stdin is not None:
                    process.stdin.close()
                await asyncio.wait_for(process.wait(), 5)
        self._folder.cleanup()

    def _ended(self) -> None:
        self._engines -= 1
        self._rest()

    def _rest(self) -> None:
        if self._release is not None:
            self._release.cancel()

        def release() -> None:
            if self._engines == 0:
                self._closing = asyncio.create_task(self.close())

        self._release = asyncio.get_running_loop().call_later(self._idle_s, release)

    async def _launch(self) -> asyncio.subprocess.Process:
        process = await asyncio.create_subprocess_exec(
            str(self._python), "-m", "finery_ml.warm", self._socket, PRELOAD,
            stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL,
            env=_clean_environment(), start_new_session=True, preexec_fn=_limit,
        )  # fmt: skip
        assert process.stdout is not None
        if not await process.stdout.readline():
            self.alive = False
            raise EngineFailed("the warm host could not be started")
        return process
