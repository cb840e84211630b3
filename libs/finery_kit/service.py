"""A service as a thing that is started and stopped: alone in its process, or beside the others in one.

It is a FastStream application with its database, relay and background loops. It refuses to know what the service does.
"""

# nats-py leaves parts of its interface untyped.
# pyright: reportUnknownMemberType=false
from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any

from faststream import FastStream
from faststream.nats import NatsBroker
from nats.aio.client import Client
from nats.js import JetStreamContext

from finery_contracts.errors import Unavailable
from finery_contracts.model import Record
from finery_kit import telemetry
from finery_kit.bus import Rpc, answer_requests, inbox_prefix, make_broker
from finery_kit.db import Database
from finery_kit.delivery import Relay
from finery_kit.idempotency import forget_loop
from finery_kit.inbox import fold_old_rows
from finery_kit.rebuild import Rebuilder, Said
from finery_kit.refill import Outbox
from finery_kit.settings import Settings

log = logging.getLogger("finery.service")
FOLD_EVERY_S = 6 * 3600.0
BUS_GRACE_S = 2.0  # a broker that restarts is back sooner
Loop = Callable[[], Coroutine[Any, Any, None]]
Hook = Callable[[], Awaitable[None]]


@dataclass
class Service:
    """One service. ``app.py`` of each makes it; ``start`` and ``stop`` may be called once each."""

    name: str
    settings: Settings
    database: Database | None = None
    before_start: list[Hook] = field(default_factory=list[Hook])
    after_start: list[Hook] = field(default_factory=list[Hook])
    loops: list[Loop] = field(default_factory=list[Loop])
    before_stop: list[Hook] = field(default_factory=list[Hook])
    broker: NatsBroker = field(init=False)
    app: FastStream = field(init=False)
    relay: Relay | None = field(init=False, default=None)
    on_rebuild: list[Hook] = field(init=False, default_factory=list[Hook])
    """What else lies on the bus and is written again when that was lost."""
    _rebuilder: Rebuilder | None = field(init=False, default=None)
    _away_since: float | None = field(init=False, default=None)
    _running: list[asyncio.Task[None]] = field(init=False, default_factory=list[asyncio.Task[None]])

    def __post_init__(self) -> None:
        self.broker = make_broker(self.settings.nats_url, self.name)
        self.app = FastStream(
            self.broker, logger=None, on_startup=[self._open], after_startup=[self._begin],
            on_shutdown=[self._end], after_shutdown=[self._close],
        )  # fmt: skip
        if self.database is not None:
            policy = lambda: self.settings.retention  # noqa: E731
            outbox = Outbox(self.name, self.database, lambda: self.jetstream, self.wake_relay, policy)
            self._rebuilder = self.rebuild_from(outbox)
            self.loops += [self._watch_pressure, self._fold_inbox]

    def rebuild_from(self, said: Said, *, each: bool = False) -> Rebuilder:
        """Say again what a lost stream held. ``each``: every replica keeps what it said itself, so each is asked."""
        rebuilder = Rebuilder(self.name, said, lambda: self.client, self.on_rebuild)
        table = {"rebuild": rebuilder.on_rebuild, "rebuild.state": rebuilder.on_state}
        rows = {verb: Rpc(Record, answer) for verb, answer in table.items()}
        answer_requests(self.broker, self.name, rows, each=each)
        self.loops.append(rebuilder.watch)
        return rebuilder

    @property
    def client(self) -> Client:
        """The connection to the bus; there once the service has started."""
        return self.broker.connection

    @property
    def jetstream(self) -> JetStreamContext:
        """JetStream over the same connection."""
        return self.client.jetstream(timeout=10, publish_async_max_pending=4000)

    async def start(self) -> None:
        """Start without blocking; embedded use."""
        await self.app.start()

    async def stop(self) -> None:
        """Stop what ``start`` started: no new work, finish what is at hand, close."""
        await self.app.stop()

    async def run(self) -> None:
        """Run until SIGTERM or SIGINT; a service in its own process."""
        await self.app.run()

    def wake_relay(self) -> None:
        """Something was put into the outbox."""
        if self.relay is not None:
            self.relay.wake()

    def pressure(self) -> Unavailable | None:
        """Why nothing new is taken on at the moment, or None: the bus is away, or too much waits for it.

        What was taken on is safe in the outbox; this keeps it from growing for ever.
        """
        now, relay = time.monotonic(), self.relay
        if relay is None:  # nothing to publish, or not started yet
            return None
        if not self.client.is_connected:
            self._away_since = self._away_since or now
        else:
            self._away_since = None
        since = [at for at in (self._away_since, relay.failing_since) if at is not None]
        if since and now - min(since) >= BUS_GRACE_S:
            return Unavailable("the bus does not take events at the moment; try again shortly", retry_after_s=5)
        if relay.backlog > self.settings.outbox_limit:
            return Unavailable(f"{relay.backlog:,} events wait for the bus; try again shortly", retry_after_s=5)
        return None

    async def _fold_inbox(self) -> None:
        assert self.database is not None
        policy = self.settings.retention
        while True:
            more = await self.database.write(lambda tx: fold_old_rows(tx, policy))
            await asyncio.sleep(0.1 if more else FOLD_EVERY_S)  # others write, too

    async def _watch_pressure(self) -> None:
        while True:  # so that the grace begins when the bus goes, not when somebody asks
            self.pressure()
            await asyncio.sleep(0.25)

    async def _open(self) -> None:
        telemetry.set_up(self.name, file=self.settings.spans_file, otlp_endpoint=self.settings.otlp_endpoint)
        if self.database is not None:
            await asyncio.to_thread(self.database.open)
        for hook in self.before_start:
            await hook()

    async def _begin(self) -> None:
        if self.database is not None:
            self.relay = Relay(self.database, self.jetstream, self.name, stream=self._rebuilder)
            self._spawn(self.relay.run)
            self._spawn(self._forget_keys)
        for hook in self.after_start:
            await hook()
        for loop in self.loops:
            self._spawn(loop)
        log.info("service_started", extra={"service": self.name})

    async def _end(self) -> None:
        for hook in self.before_stop:
            await hook()
        waiting = set(self._running)
        while waiting:  # asked again: before Python 3.12 wait_for, which nats-py uses, can lose a cancellation
            for task in waiting:
                task.cancel()
            _, waiting = await asyncio.wait(waiting, timeout=0.5)
        await asyncio.gather(*self._running, return_exceptions=True)

    async def _close(self) -> None:
        if self.database is not None:
            await asyncio.to_thread(self.database.close)
        await asyncio.to_thread(telemetry.shut_down, self.name)

    async def _forget_keys(self) -> None:
        assert self.database is not None
        await forget_loop(self.database, self.settings.retention)

    def _spawn(self, loop: Loop) -> None:
        name = _name_of(loop)

        async def keep_running() -> None:
            while True:
                try:
                    await loop()
                    return
                except asyncio.CancelledError:
                    raise
                except Exception:  # a loop never dies silently: log, breathe, go on
                    log.exception("loop_failed", extra={"service": self.name, "loop": name})
                    await asyncio.sleep(1)

        self._running.append(asyncio.create_task(keep_running(), name=f"{self.name}:{name}"))


def _name_of(loop: Loop) -> str:
    """Never its repr: of a bound method that is all that its object holds, such as a whole gallery."""
    inner = loop.func if isinstance(loop, functools.partial) else loop
    return getattr(inner, "__qualname__", type(inner).__name__)


@contextlib.asynccontextmanager
async def running(*services: Service):
    """Start services in order, stop them in reverse."""
    started: list[Service] = []
    try:
        for service in services:
            await service.start()
            started.append(service)
        yield
    finally:
        for service in reversed(started):
            await service.stop()


@contextlib.asynccontextmanager
async def connected(nats_url: str) -> AsyncGenerator[Client]:
    """A bare connection for a one-off errand on the bus."""
    client = Client()
    await client.connect(nats_url, inbox_prefix=inbox_prefix(nats_url), connect_timeout=5)
    try:
        yield client
    finally:
        await client.close()
