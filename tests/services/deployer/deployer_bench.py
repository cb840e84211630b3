"""A deployer with a real bus and real processes; only the model is missing (see fake_engine.py)."""

from __future__ import annotations

import asyncio
import contextlib
import json
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nats.aio.client import Client
from nats.js.errors import KeyNotFoundError
from sqlmodel import select

from finery_contracts.access import Actor, Role
from finery_contracts.deployments import (
    DeployCommand,
    DeploymentCommand,
    DeploymentState,
    DeploymentView,
    DeployRequest,
    Route,
    ServableModel,
    WakeCommand,
)
from finery_contracts.envelope import Event
from finery_contracts.model import Record
from finery_contracts.registry import parse_event
from finery_contracts.streams import KV_ROUTES
from finery_deployer import app
from finery_deployer.settings import DeployerSettings
from finery_deployer.store import InstanceRow
from finery_kit import bus
from finery_kit.db import Database
from finery_kit.delivery import DELIVERY_METADATA, OutboxRow
from finery_kit.service import Service, running

FAKE_ENGINE = Path(__file__).with_name("fake_engine.py")
QUICK: dict[str, Any] = {"deployer_interval_s": 0.05, "deployer_drain_grace_s": 0.05, "deployer_start_timeout_s": 20}


@dataclass
class Child:
    """A process that outlives whoever started it."""

    pid: int
    process: subprocess.Popen[bytes]
    ended: asyncio.Future[int]

    async def wait(self) -> int:
        """The exit status."""
        return await asyncio.shield(self.ended)


@dataclass
class Bench:
    """What a test works with."""

    home: Path
    url: str
    client: Client
    children: list[Child] = field(default_factory=list[Child])

    @contextlib.asynccontextmanager
    async def deployer(self, **settings: Any) -> AsyncIterator[Service]:
        """A running deployer on this home."""
        made = DeployerSettings(home=self.home, nats_url=self.url, **{**QUICK, **settings})
        service = app.build(made, starter=self._start)
        async with running(service):
            yield service

    def model(self, name: str = "m", project: str = "proj_a", **behaviour: Any) -> ServableModel:
        """A model whose engine behaves as told."""
        folder = self.home / "store" / project / name
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "behaviour.json").write_text(json.dumps(behaviour))
        return ServableModel(
            id=f"model_{name}", project=project, name=name, openai_name=f"ft:base:p:s:{name}",
            weights=f"store://{project}/{name}", adapter=None, max_length=512,
        )  # fmt: skip

    async def deploy(self, model: ServableModel, name: str = "chat", **request: Any) -> DeploymentView:
        """``create``."""
        key = request.pop("idempotency_key", None)
        command = DeployCommand(request=DeployRequest(name=name, model=model.name, **request), model=model)
        return await bus.ask(
            self.client, "deployer", "create", command, DeploymentView, actor=actor(model.project), idempotency_key=key
        )

    async def wake(self, model: ServableModel) -> DeploymentView:
        """``wake``."""
        command = WakeCommand(model=model)
        return await bus.ask(self.client, "deployer", "wake", command, DeploymentView, actor=actor(model.project))

    async def command(self, verb: str, deployment: str, project: str = "proj_a") -> DeploymentView:
        """``get``, ``start``, ``stop``, ``delete``."""
        body = DeploymentCommand(deployment=deployment)
        return await bus.ask(self.client, "deployer", verb, body, DeploymentView, actor=actor(project))

    async def ask(self, verb: str, body: Record | Any, answer: Any, project: str = "proj_a") -> Any:
        """Any verb."""
        return await bus.ask(self.client, "deployer", verb, body, answer, actor=actor(project))

    async def until(
        self, deployment: str, state: DeploymentState, where: Callable[[DeploymentView], bool] = lambda _: True
    ) -> DeploymentView:
        """Wait for a state."""
        seen: DeploymentView | None = None
        until = time.monotonic() + 20
        while time.monotonic() < until:
            seen = await self.command("get", deployment)
            if seen.state is state and where(seen):
                return seen
            await asyncio.sleep(0.02)
        raise AssertionError(f"{deployment} did not become {state}: {seen}")

    async def until_true(self, question: Callable[[], Any]) -> None:
        """Wait until a question is answered with yes; it may be a coroutine function."""
        until = time.monotonic() + 20
        while time.monotonic() < until:
            answer = question()
            if await answer if asyncio.iscoroutine(answer) else answer:
                return
            await asyncio.sleep(0.02)
        raise AssertionError("it did not become true")

    async def route(self, deployment: str, project: str = "proj_a") -> Route | None:
        """What the gateways see."""
        bucket = await self.client.jetstream().key_value(KV_ROUTES)
        with contextlib.suppress(KeyNotFoundError):
            entry = await bucket.get(f"{project}.{deployment}")
            return Route.model_validate_json(entry.value or b"")
        return None

    async def until_route(self, deployment: str, state: DeploymentState) -> Route:
        """Wait until the gateways see a state."""
        until = time.monotonic() + 20
        while time.monotonic() < until:
            route = await self.route(deployment)
            if route is not None and route.state is state:
                return route
            await asyncio.sleep(0.02)
        raise AssertionError(f"the route did not become {state}")

    async def facts(self, service: Service) -> list[Event]:
        """All facts that were stored, in order."""
        assert service.database is not None
        rows = await service.database.read(lambda s: list(s.exec(select(OutboxRow).order_by("seq"))))
        return [parse_event(row.body) for row in rows]

    async def facts_at_rest(self) -> list[Event]:
        """The same, of a deployer that is away."""
        database = self.open_database()
        try:
            rows = await database.read(lambda s: list(s.exec(select(OutboxRow).order_by("seq"))))
            return [parse_event(row.body) for row in rows]
        finally:
            database.close()

    async def instances(self, service: Service) -> list[InstanceRow]:
        """All instances, oldest first."""
        assert service.database is not None
        return await service.database.read(lambda s: list(s.exec(select(InstanceRow).order_by("id"))))

    def open_database(self) -> Database:
        """The deployer's database, opened beside it."""
        database = Database(DeployerSettings(home=self.home).database_for("deployer"), DELIVERY_METADATA)
        database.open()
        return database

    async def _start(self, module: str, folder: Path) -> Child:
        process = _spawn(folder)
        loop = asyncio.get_running_loop()
        child = Child(process.pid, process, loop.create_future())

        def reap() -> None:
            """At once, as init reaps the orphans of a deployer that died."""
            status = process.wait()
            with contextlib.suppress(RuntimeError):  # the test is over
                loop.call_soon_threadsafe(child.ended.set_result, status)

        threading.Thread(target=reap, daemon=True).start()
        self.children.append(child)
        return child


def actor(project: str = "proj_a") -> Actor:
    """Somebody of a project."""
    return Actor(project=project, project_name=project, user="user_1", key="key_1", role=Role.FULL)


def _spawn(folder: Path) -> subprocess.Popen[bytes]:
    with (folder / "log.txt").open("ab") as log:
        return subprocess.Popen(
            [sys.executable, str(FAKE_ENGINE), str(folder)], stdout=log, stderr=log, start_new_session=True
        )
