"""The house that chaos breaks: a broker and every service as processes of their own, behind fault proxies.

A process that is killed is started again after a while, as an operator's supervisor does it. When the house is left,
nothing of it runs any more: that is checked.
"""

from __future__ import annotations

import asyncio
import contextlib
import multiprocessing
import secrets
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from multiprocessing.context import ForkServerProcess
from pathlib import Path

import httpx
import psutil

from finery_kit.bus_init import bus_init
from finery_kit.nats_server import NatsServer
from finery_kit.ports import free_port
from finery_kit.service import connected
from tests.chaos.engine import MARKS
from tests.chaos.process import make_engines, serve
from tests.chaos.proxy import FaultProxy, Open, to_port

OWNERS = ("studio", "notifier", "billing-meter")
WORKERS = ("dataset-ingest", "weight-validator", "trainer", "evaluator")
SINGLE = ("deployer", "gateway", "distiller", "compressor")
PRELOAD = [
    "finery.cli.house", "uvicorn",
    *(f"finery_{name.replace('-', '_')}.app" for name in (*OWNERS, *WORKERS, *SINGLE)),
]  # fmt: skip


@dataclass
class Child:
    """A process that is to run; ``process`` is its present life."""

    service: str
    replica: int
    environment: dict[str, str]
    process: ForkServerProcess | None = None
    lives: int = 0

    @property
    def name(self) -> str:
        """Unique in the house."""
        return f"{self.service}-{self.replica}"


@dataclass
class ChaosHouse:
    """Running; ``api`` is the public port."""

    folder: Path
    broker: NatsServer
    bus: FaultProxy
    http: FaultProxy
    database: FaultProxy | None
    key: str
    url: str
    children: list[Child] = field(default_factory=list[Child])
    _restarts: set[asyncio.Task[None]] = field(default_factory=set[asyncio.Task[None]])
    _seen: set[psutil.Process] = field(default_factory=set[psutil.Process])

    def client(self, key: str | None = None) -> httpx.AsyncClient:
        """With the operator's key, unless another is named."""
        headers = {"authorization": f"Bearer {key or self.key}"}
        return httpx.AsyncClient(base_url=self.url, headers=headers, timeout=15)

    # --- what chaos does ----------------------------------------------------------------------------------------

    async def kill_service(self, child: Child, *, back_after_s: float) -> bool:
        """SIGKILL; it comes back after a while. False when it was not there to be killed."""
        if child.process is None or not child.process.is_alive():
            return False
        self._note_engines()
        child.process.kill()
        await asyncio.to_thread(child.process.join)
        child.process = None
        task = asyncio.create_task(self._return(child, back_after_s))
        self._restarts.add(task)
        task.add_done_callback(self._restarts.discard)
        return True

    def engines(self) -> list[psutil.Process]:
        """Processes that workers have started: fork servers and engines, youngest last."""
        found = list[psutil.Process]()
        for child in self.children:
            if child.service in WORKERS and child.process is not None and child.process.pid is not None:
                with contextlib.suppress(psutil.NoSuchProcess):
                    found += psutil.Process(child.process.pid).children(recursive=True)
        return sorted(found, key=lambda one: one.pid)

    def kill_engine(self, place: float) -> bool:
        """SIGKILL to one of them; False when there is none."""
        self._note_engines()
        found = self.engines()
        if not found:
            return False
        with contextlib.suppress(psutil.NoSuchProcess):
            found[int(place * len(found))].kill()
        return True

    async def kill_broker(self, *, back_after_s: float) -> None:
        """SIGKILL to nats-server; the same store, port and credentials come back."""
        assert self.broker._process is not None
        with contextlib.suppress(ProcessLookupError):
            self.broker._process.kill()
        await self.broker.wait()
        await asyncio.sleep(back_after_s)
        await self.broker.start()

    async def whole(self) -> None:
        """Every process that was killed runs again."""
        while self._restarts:
            await asyncio.gather(*self._restarts)
        for child in self.children:
            if child.process is None or not child.process.is_alive():
                self._start(child)

    # --- starting and stopping ----------------------------------------------------------------------------------

    def add(self, service: str, replica: int, environment: dict[str, str]) -> None:
        """Start one process of a service."""
        child = Child(service, replica, environment)
        self.children.append(child)
        self._start(child)

    async def leave(self) -> list[str]:
        """Stop everything; what still runs afterwards is killed and told of."""
        for task in self._restarts:
            task.cancel()
        self._note_engines()
        for child in reversed(self.children):
            if child.process is not None and child.process.is_alive():
                child.process.terminate()
        until = time.monotonic() + 30
        for child in self.children:
            if child.process is not None:
                await asyncio.to_thread(child.process.join, max(0.1, until - time.monotonic()))
                if child.process.is_alive():
                    child.process.kill()
        for proxy in (self.bus, self.http, self.database):
            if proxy is not None:
                await proxy.stop()
        await self.broker.stop()
        return await self._orphans()

    def died(self) -> list[str]:
        """Children that left although nobody killed them."""
        return [c.name for c in self.children if c.process is not None and c.process.exitcode is not None]

    async def _orphans(self) -> list[str]:
        """Engines that outlived their workers for longer than their life line allows."""
        until = time.monotonic() + 10
        while alive := [process for process in self._seen if _runs(process)]:
            if time.monotonic() > until:
                told = [str(process) for process in alive]
                for process in alive:
                    with contextlib.suppress(psutil.NoSuchProcess):
                        process.kill()
                return told
            await asyncio.sleep(0.1)
        return []

    def _note_engines(self) -> None:
        self._seen.update(self.engines())

    async def _return(self, child: Child, after_s: float) -> None:
        await asyncio.sleep(after_s)
        self._start(child)

    def _start(self, child: Child) -> None:
        child.lives += 1
        child.process = multiprocessing.get_context("forkserver").Process(
            target=serve, name=child.name,
            args=(child.service, child.environment, self.folder / f"{child.name}.log", self.folder / "engines"),
        )  # fmt: skip
        child.process.start()


@contextlib.asynccontextmanager
async def chaos_house(folder: Path, *, database: Open | None, database_url: str) -> AsyncIterator[ChaosHouse]:
    """Everything started. With a database server behind ``database``, owners run twice; ``{port}`` is the proxy's."""
    multiprocessing.get_context("forkserver").set_forkserver_preload(PRELOAD)
    (folder / MARKS).mkdir()
    make_engines(folder / "engines")
    secret = secrets.token_hex(32)
    broker = NatsServer(folder, bytes.fromhex(secret), port=free_port())
    await broker.start()
    studios = [free_port() for _ in range(2 if database else 1)]
    bus, http = FaultProxy(to_port(broker.port)), FaultProxy(*map(to_port, studios))
    sql = FaultProxy(database) if database else None
    for proxy in filter(None, (bus, http, sql)):
        await proxy.start()
    async with connected(broker.url("init")) as client:
        await bus_init(client)
    gateway = free_port()
    house = ChaosHouse(folder, broker, bus, http, sql, f"fk-{secret[:20]}", f"http://127.0.0.1:{gateway}")
    environment = _environment(folder, house, secret, gateway)
    if sql is not None:
        environment["FINERY_DATABASE_URL"] = database_url.replace("{port}", str(sql.port))
    try:
        for service in (*OWNERS, *WORKERS, *SINGLE):
            twice = service in WORKERS or (service in OWNERS and sql is not None)
            for replica in range(1, 3 if twice else 2):
                bus_url = broker.url(service).rpartition(":")[0]
                own = {
                    "FINERY_HOME": str(folder / "homes" / f"{service}-{replica}"),
                    "FINERY_NATS_URL": f"{bus_url}:{bus.port}",
                }
                if service == "studio":
                    own["FINERY_STUDIO_PORT"] = str(studios[replica - 1])
                house.add(service, replica, environment | own)
        yield house
    except BaseException:
        await house.leave()
        raise


def _environment(folder: Path, house: ChaosHouse, secret: str, gateway: int) -> dict[str, str]:
    """What all processes are told. Attempts are many: here most of them end by murder."""
    return {
        "FINERY_STORE_ROOT": str(folder / "store"), "FINERY_INSTALLATION_SECRET": secret,
        "FINERY_OPERATOR_KEY": house.key, "FINERY_GATEWAY_PORT": str(gateway),
        "FINERY_STUDIO_URL": f"http://127.0.0.1:{house.http.port}", "FINERY_PUBLIC_URL": house.url,
        "FINERY_NOTIFIER_ALLOW_NETWORKS": "127.0.0.0/8", "FINERY_NOTIFIER_TIMEOUT_S": "3",
        "FINERY_NOTIFIER_RETRY_SCHEDULE_S": ",".join(["0.5", "1", "1"] + ["2"] * 60),
        "FINERY_MAX_ATTEMPTS": "100", "FINERY_TRAINER_SLOTS": "4", "FINERY_EVALUATOR_SLOTS": "2",
        "FINERY_WEIGHT_VALIDATOR_SLOTS": "2", "FINERY_DATASET_INGEST_SLOTS": "3",
    }  # fmt: skip


def _runs(process: psutil.Process) -> bool:
    with contextlib.suppress(psutil.NoSuchProcess):
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    return False
