"""The gateway's view of the bus: keys and routes mirrored from their buckets, trials woken by request.

A mirror answers from memory. Watches lag, so what it misses is looked up once at the source, within a budget that a
flood of wrong keys cannot exceed; and everything is read afresh from time to time, so no lost message matters long.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Generic, TypeVar

import nats.errors
from nats.aio.client import Client
from nats.js import JetStreamContext
from nats.js.errors import APIError, KeyNotFoundError
from pydantic import ValidationError

from finery_contracts.access import Actor, KeyGrant
from finery_contracts.deployments import (
    DeploymentCommand,
    DeploymentState,
    DeploymentView,
    Route,
    ServableModel,
    ServableRequest,
    WakeCommand,
)
from finery_contracts.errors import Unavailable
from finery_contracts.model import Record
from finery_gateway import domain
from finery_gateway.domain import TokenBucket
from finery_kit import bus

log = logging.getLogger("finery.gateway")
R = TypeVar("R", bound=Record)
LOOK_UPS_A_SECOND = 100.0
LISTINGS_A_SECOND = 20.0
LISTING_KEPT_S = 5.0
LOOK_UP_S = 2.0
STARTING_LOOK_S = 0.5
RETRY_S = 1.0


@dataclass
class Mirror(Generic[R]):
    """A KV bucket in memory."""

    bucket: str
    record: type[R]
    jetstream: Callable[[], JetStreamContext]
    resync_s: float
    entries: dict[str, R] = field(default_factory=dict[str, R])
    loaded: asyncio.Event = field(default_factory=asyncio.Event)
    changed: asyncio.Event = field(default_factory=asyncio.Event)
    version: int = 0
    _budget: TokenBucket = field(default_factory=lambda: TokenBucket.full(LOOK_UPS_A_SECOND, time.monotonic()))
    _listings: TokenBucket = field(default_factory=lambda: TokenBucket.full(LISTINGS_A_SECOND, time.monotonic()))

    async def run(self) -> None:
        """Follow the bucket. Until cancelled; while the bus is away, what is known stays known."""
        while True:
            try:
                await self._follow()
            except (nats.errors.Error, APIError, OSError, TimeoutError) as fault:
                log.warning("mirror_waits", extra={"bucket": self.bucket, "error": repr(fault)})
                await asyncio.sleep(RETRY_S)

    async def look_up(self, key: str) -> R | None:
        """One entry from its source; what is known when the source cannot be asked."""
        if self._budget.take(time.monotonic()) > 0:
            return self.entries.get(key)
        try:
            async with asyncio.timeout(LOOK_UP_S):
                entry = await (await self.jetstream().key_value(self.bucket)).get(key)
        except KeyNotFoundError:
            self._apply(key, None)
        except (nats.errors.Error, APIError, TimeoutError):
            return self.entries.get(key)
        else:
            self._apply(key, entry.value)
        return self.entries.get(key)

    async def look_under(self, prefix: str) -> None:
        """Read all entries ``prefix.*`` from their source."""
        if self._listings.take(time.monotonic()) > 0:
            return
        with contextlib.suppress(nats.errors.Error, APIError, TimeoutError):
            async with asyncio.timeout(LOOK_UP_S):
                bucket = await self.jetstream().key_value(self.bucket)
                # The server keeps the reader's place for that long after it has left.
                watcher = await bucket.watch(f"{prefix}.*", inactive_threshold=LISTING_KEPT_S)
                try:
                    async for entry in watcher:
                        if entry is None:
                            break
                        self._apply(entry.key, None if entry.operation else entry.value)
                finally:
                    await watcher.stop()

    async def _follow(self) -> None:
        watcher = await (await self.jetstream().key_value(self.bucket)).watchall()
        fresh: dict[str, R] | None = {}
        try:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self.resync_s):
                    async for entry in watcher:
                        if entry is None:
                            self.entries, fresh = fresh or {}, None
                            self.loaded.set()
                            self._tell()
                        else:
                            self._apply(entry.key, None if entry.operation else entry.value, into=fresh)
        finally:
            with contextlib.suppress(nats.errors.Error):
                await watcher.stop()

    def _apply(self, key: str, value: bytes | None, *, into: dict[str, R] | None = None) -> None:
        entries = self.entries if into is None else into
        if not value:
            entries.pop(key, None)
        else:
            try:
                entries[key] = self.record.model_validate_json(value)
            except ValidationError:
                log.error("entry_unreadable", extra={"bucket": self.bucket})
                return
        if into is None:
            self._tell()

    def _tell(self) -> None:
        self.version += 1
        self.changed.set()
        self.changed = asyncio.Event()


@dataclass
class Directory:
    """Who may call, and where calls go."""

    keys: Mirror[KeyGrant]
    routes: Mirror[Route]
    _index: dict[tuple[str, str], Route] = field(default_factory=dict[tuple[str, str], Route])
    _indexed: int = -1

    async def grant(self, hashed: str) -> KeyGrant | None:
        """What a key may do; None for a key that nobody has."""
        return self.keys.entries.get(hashed) or await self.keys.look_up(hashed)

    async def route(self, project: str, name: str) -> Route | None:
        """The route of a name among the project's own; looked up at the source unless it is known to run."""
        found = self._known(project, name)
        if found is not None and found.state is DeploymentState.RUNNING:
            return found
        await self.routes.look_under(project)
        return self._known(project, name)

    async def again(self, route: Route) -> Route | None:
        """The same deployment's route from its source."""
        return await self.routes.look_up(f"{route.project}.{route.deployment}")

    def _known(self, project: str, name: str) -> Route | None:
        if self._indexed != self.routes.version:
            self._index, self._indexed = domain.index(self.routes.entries.values()), self.routes.version
        return self._index.get((project, name))


@dataclass
class Waker:
    """Starts the trial of an ft: name and waits until it runs; calls that wait for the same one share the work."""

    client: Callable[[], Client]
    directory: Directory
    limit_s: float
    _under_way: dict[tuple[str, str], asyncio.Task[Route]] = field(
        default_factory=dict[tuple[str, str], asyncio.Task[Route]]
    )

    async def wake(self, grant: KeyGrant, name: str) -> Route:
        """The running route.

        Raises:
            NotFound: the project has no such model.
            Unavailable: it did not start in time, or cannot.
        """
        key = (grant.project, name)
        task = self._under_way.get(key)
        if task is None:
            task = asyncio.create_task(self._start(grant, name), name=f"wake:{name[:80]}")
            self._under_way[key] = task
            task.add_done_callback(lambda done: (self._under_way.pop(key, None), done.cancelled() or done.exception()))
        return await asyncio.shield(task)

    async def close(self) -> None:
        """Wait for nobody any more."""
        waiting = set(self._under_way.values())
        while waiting:  # asked again: before Python 3.12 wait_for, which nats-py uses, can lose a cancellation
            for task in waiting:
                task.cancel()
            _, waiting = await asyncio.wait(waiting, timeout=0.5)

    async def _start(self, grant: KeyGrant, name: str) -> Route:
        actor = Actor.model_validate(grant.model_dump())
        model = await bus.ask(
            self.client(), "studio", "servable", ServableRequest(name=name), ServableModel, actor=actor
        )
        trial = await bus.ask(self.client(), "deployer", "wake", WakeCommand(model=model), DeploymentView, actor=actor)
        try:
            async with asyncio.timeout(self.limit_s):
                return await self._until_running(trial, actor)
        except TimeoutError as fault:
            raise Unavailable(
                f"the trial of {name[:200]} did not start within {self.limit_s:g} s; try again in a while",
                code="deployment_starting",
                retry_after_s=5,
            ) from fault

    async def _until_running(self, trial: DeploymentView, actor: Actor) -> Route:
        if trial.state is DeploymentState.FAILED:
            raise _failed(trial)
        while True:
            changed = self.directory.routes.changed
            route = await self.directory.routes.look_up(f"{trial.project}.{trial.id}")
            if route is not None and route.state is DeploymentState.RUNNING:
                return route
            if route is not None and route.state is DeploymentState.FAILED and route.revision > trial.version:
                asked = DeploymentCommand(deployment=trial.id)
                raise _failed(await bus.ask(self.client(), "deployer", "get", asked, DeploymentView, actor=actor))
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(STARTING_LOOK_S):
                    await changed.wait()


def _failed(trial: DeploymentView) -> Unavailable:
    why = trial.error.message if trial.error else "see its log"
    return Unavailable(
        f"the trial of {trial.model_name} could not be started: {why}", code="deployment_failed", retry_after_s=60
    )
