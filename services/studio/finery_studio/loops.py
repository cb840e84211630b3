"""What studio does by itself, from time to time: ring for work that waits, give up the silent, let the temporary go.

Several studios may run: ringing twice does no harm, the rest is done by whoever has the lock.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime

from finery_contracts.access import Actor, Role
from finery_contracts.errors import FineryError
from finery_contracts.streams import work_subject
from finery_kit.bus_init import heal_doorbells
from finery_kit.db import Database, utc_now
from finery_kit.service import Loop, Service
from finery_kit.storage import Storage
from finery_studio.grants import handlers as grants
from finery_studio.models import store as model_store
from finery_studio.models.birth import Registrar
from finery_studio.models.handlers import ModelDesk
from finery_studio.models.http import ListDeployments
from finery_studio.pools.queue import waiting_bells
from finery_studio.pools.store import pool_ids
from finery_studio.removal.sweep import sweep
from finery_studio.settings import StudioSettings
from finery_studio.tasks import logs, store
from finery_studio.tasks.handlers import TaskDesk
from finery_studio.uploads.handlers import UploadDesk

RING_EVERY_S = 5.0
LOOK_FOR_LOST_EVERY_S = 1.0
EXPIRE_EVERY_S = 60.0
FORGOTTEN_S = 600
"""Longer than nats-py takes to find a connection dead and to open another, which forgets the pings of the old one."""
LOCK_LOGS, LOCK_BIRTHS = 4251, 4252
SWEEP_EVERY_S = 1.0
LOOK_AT_POOLS_EVERY_S = 30.0


@dataclass
class Loops:
    """Started by the service; each runs until it stops."""

    database: Database
    service: Service
    tasks: TaskDesk
    models: ModelDesk
    registrar: Registrar
    settings: StudioSettings
    storage: Storage
    uploads: UploadDesk
    deployments: ListDeployments
    clock: Callable[[], datetime] = utc_now
    _bell: asyncio.Event = field(init=False, default_factory=asyncio.Event)
    _pools: asyncio.Event = field(init=False, default_factory=asyncio.Event)
    _loop: asyncio.AbstractEventLoop | None = field(init=False, default=None)

    @property
    def all(self) -> list[Loop]:
        """In the order of their start."""
        return [
            self.ring_loop,
            self.lost_loop,
            self.expire_loop,
            self.logs_loop,
            self.pool_loop,
            self.sweep_loop,
            self.birth_loop,
        ]

    def begin(self) -> None:
        """Remember the event loop that ``ring`` is to reach."""
        self._loop = asyncio.get_running_loop()

    def ring(self) -> None:
        """Work may wait: ring the doorbells. Safe from any thread."""
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._bell.set)

    def pools_changed(self) -> None:
        """A pool was made or removed: so are its doorbells. Safe from any thread."""
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._pools.set)

    async def ring_loop(self) -> None:
        """Ring for every kind and pool in which work waits; again every five seconds while it does."""
        while True:
            self._bell.clear()
            for kind, pool in await self.database.read(waiting_bells):
                await self.service.client.publish(work_subject(kind, pool), b"")
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(RING_EVERY_S):
                    await self._bell.wait()

    async def lost_loop(self) -> None:
        """An attempt without heartbeat is lost; time in which studio was cut off from the bus does not count."""
        while True:
            await asyncio.sleep(LOOK_FOR_LOST_EVERY_S)
            if await self._on_the_bus():
                await self.database.write(lambda tx: self.tasks.lose_silent(tx, self.settings.heartbeat_limit_s))

    async def expire_loop(self) -> None:
        """Temporary models, grants and uploads go when their time is over; so does what nobody can ask for again."""
        while True:
            await self.let_models_go()
            await self.database.write(store.forget_claims)
            await self.database.write(grants.expire)
            await self.uploads.tidy()
            await asyncio.sleep(EXPIRE_EVERY_S)

    async def let_models_go(self) -> None:
        """What a named deployment serves stays, and so does what its owner cannot be asked about."""
        over = await self.database.read(lambda session: model_store.over(session, self.database.now()))
        served = set[str]()
        for project in {view.project for view in over}:
            studio = Actor(project=project, project_name="", user="finery", key="", role=Role.OPERATOR)
            try:
                served |= {found.model for found in await self.deployments(studio) if not found.trial}
            except FineryError:
                served |= {view.id for view in over if view.project == project}
        await self.database.write(lambda tx: self.models.expire(tx, served))

    async def logs_loop(self) -> None:
        """Logs of ended tasks go to the archive, or away."""
        days = self.settings.retention.logs_days
        while True:
            async with self.database.alone(LOCK_LOGS) as alone:
                todo = await self.database.read(lambda s: logs.chores(s, self.clock(), days=days)) if alone else []
                for chore in todo:
                    await asyncio.to_thread(logs.carry_out, chore, self.storage)
                    await self.database.write(lambda tx, done=chore: logs.settle(tx, done))
            if not todo:
                await asyncio.sleep(EXPIRE_EVERY_S)

    async def sweep_loop(self) -> None:
        """What was deleted goes for good when its time is over and nothing else needs it."""
        while True:
            await sweep(self.database, self.storage)
            await asyncio.sleep(SWEEP_EVERY_S)

    async def birth_loop(self) -> None:
        """Every model that is ready gets its card, its bill of materials and its signature."""
        while True:
            async with self.database.alone(LOCK_BIRTHS) as alone:
                _ = await self.registrar.certify_all() if alone else 0
            await asyncio.sleep(SWEEP_EVERY_S)

    async def pool_loop(self) -> None:
        """Every pool has its doorbells; again every thirty seconds, in case somebody deleted one."""
        while True:
            self._pools.clear()
            if await self._on_the_bus():
                await heal_doorbells(self.service.jetstream, lambda: self.database.read(pool_ids))
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(LOOK_AT_POOLS_EVERY_S):
                    await self._pools.wait()

    async def _on_the_bus(self) -> bool:
        """Asks the broker: a connection that hangs looks open for minutes.

        The question is never given up early: nats-py stops reading for good when the pong of one that was comes late.
        """
        client = self.service.client
        if not client.is_connected:
            return False
        asked = asyncio.ensure_future(client.flush(timeout=FORGOTTEN_S))
        asked.add_done_callback(lambda done: done.cancelled() or done.exception())
        answered, _ = await asyncio.wait({asked}, timeout=1)
        return bool(answered) and asked.exception() is None
