"""What the notifier's tests are made of: an endpoint that answers as told, the service without a bus, builders."""

from __future__ import annotations

import contextlib
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from datetime import datetime
from ipaddress import ip_network
from pathlib import Path

from aiohttp import web
from sqlmodel import select
from standardwebhooks import Webhook

from finery_contracts import notification_requests, notifications
from finery_contracts.access import Actor, Role
from finery_contracts.datasets import DatasetFact, DatasetState, DatasetView
from finery_contracts.deployments import DeploymentFact, DeploymentState, DeploymentView
from finery_contracts.envelope import Event
from finery_contracts.ids import new_id
from finery_contracts.jobs import TaskKind
from finery_contracts.models import ModelFact, ModelState, ModelView
from finery_contracts.notifications import SubscriptionView
from finery_contracts.registry import parse_event
from finery_contracts.tasks import NotifyChoice, TaskFact, TaskState, TaskSucceeded, TaskView
from finery_kit import hot
from finery_kit.bus import Call
from finery_kit.db import Database, Transaction
from finery_kit.delivery import DELIVERY_METADATA, OutboxRow
from finery_kit.inbox import first_sight
from finery_kit.netguard import Lookup, system_lookup
from finery_kit.testing import VirtualClock
from finery_notifier.adapters import WebhookMail
from finery_notifier.app import FACTS, FIELDS, REQUESTS, ROUTES
from finery_notifier.courier import Courier, Mail
from finery_notifier.desk import Desk
from finery_notifier.domain import Patience
from finery_notifier.lanes import Lanes
from finery_notifier.settings import NotifierSettings
from finery_notifier.settling import Rules
from finery_notifier.tables import NOTIFIER_METADATA
from tests.contracts.contract_examples import example_of

LOOPBACK = (ip_network("127.0.0.0/8"),)
SCHEDULE_S = (5.0, 300.0)
LEASE_S = 60.0
PATIENCE = Patience()
TRACEPARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


@dataclass
class Heard:
    """A request as an endpoint got it."""

    method: str
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> dict:
        return json.loads(self.body)


@dataclass
class Sink:
    """An endpoint on loopback. ``answers`` are given in order, then 200; OPTIONS is answered with ``handshake``."""

    url: str = ""
    heard: list[Heard] = field(default_factory=list)
    answers: list[web.Response] = field(default_factory=list)
    handshake: dict[str, str] = field(default_factory=dict)

    @property
    def posts(self) -> list[Heard]:
        return [request for request in self.heard if request.method == "POST"]

    @property
    def facts(self) -> list[Heard]:
        return [request for request in self.posts if "confirmation" not in request.json["type"]]

    async def answer(self, request: web.Request) -> web.StreamResponse:
        self.heard.append(Heard(request.method, dict(request.headers), await request.read()))
        if request.method == "OPTIONS":
            return web.Response(status=200 if self.handshake else 405, headers=self.handshake)
        return self.answers.pop(0) if self.answers else web.Response()


@contextlib.asynccontextmanager
async def sink_server(sink: Sink) -> AsyncIterator[Sink]:
    app = web.Application()
    app.router.add_route("*", "/hook", sink.answer)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    sink.url = f"http://127.0.0.1:{runner.addresses[0][1]}/hook"
    try:
        yield sink
    finally:
        await runner.cleanup()


def actor(project: str) -> Actor:
    return Actor(project=project, project_name="p", user="user_1", key="key_1", role=Role.FULL)


@dataclass
class Rig:
    """The notifier without a bus, on a clock that goes when told."""

    database: Database
    courier: Courier
    desk: Desk
    clock: VirtualClock

    async def ask(self, verb: str, body, *, project: str = "proj_1", key: str | None = None):
        handler = REQUESTS[verb][1]
        return await handler(self.desk, Call(body, actor(project), key))

    async def topic(self, name: str, *, project: str = "proj_1") -> notifications.TopicView:
        return await self.ask("topic.create", notification_requests.TopicRequest(name=name), project=project)

    async def subscribe(self, sink: Sink, topic: str, *, events=(), project: str = "proj_1") -> SubscriptionView:
        """A pending subscription; the question was not sent yet."""
        wanted = notification_requests.SubscriptionRequest(topic=topic, url=sink.url, events=list(events))
        return await self.ask("subscription.create", wanted, project=project)

    async def listener(self, sink: Sink, topic: str, *, events=(), project: str = "proj_1") -> SubscriptionView:
        """A confirmed subscription; the secret is in the answer."""
        made = await self.subscribe(sink, topic, events=events, project=project)
        await self.deliver()
        token = sink.posts[-1].json["data"]["token"]
        await self.ask("subscription.confirm", notification_requests.ConfirmRequest(token=token))
        return made

    async def hear(self, event: Event) -> bool:
        body = event.model_dump_json().encode()

        def work(tx: Transaction) -> bool:
            if not first_sight(tx, event):
                return False
            ROUTES[type(event)].handler(tx, [hot.Heard(event, body)])
            return True

        return await self.database.write(work)

    async def deliver(self) -> float:
        """Everything that is due now."""
        wait_s = await self.courier.start_due()
        await self.courier.landed()
        return wait_s

    async def deliveries(self, subscription: str) -> list[notifications.DeliveryView]:
        page = await self.ask("delivery.list", notification_requests.DeliveriesRequest(subscription=subscription))
        return [delivery for delivery in page.data if "confirmation" not in delivery.event_type]

    async def hear_said(self, fact: str) -> None:
        """What the notifier itself said comes back to it over the bus."""
        rows = await self.database.read(lambda session: list(session.exec(select(OutboxRow))))
        for row in rows:
            if f".{fact}." in row.type:
                await self.hear(parse_event(row.body))

    async def said(self) -> list[str]:
        rows = await self.database.read(lambda session: list(session.exec(select(OutboxRow))))
        return [row.type for row in rows]


@contextlib.asynccontextmanager
async def notifier_rig(
    folder: Path,
    clock: VirtualClock,
    *,
    mail: Mail | None = None,
    lookup: Lookup = system_lookup,
    schedule_s: tuple[float, ...] = SCHEDULE_S,
    patience: Patience = PATIENCE,
    **desk_more,
) -> AsyncIterator[Rig]:
    database = Database(
        NotifierSettings(home=folder).database_for("notifier"), NOTIFIER_METADATA, DELIVERY_METADATA, clock=clock
    )
    database.open()
    real = WebhookMail(allow=LOOPBACK, timeout_s=2, lookup=lookup)
    await real.open()
    courier = Courier(
        database, mail or real, rules=Rules(schedule_s, patience), lanes=Lanes(64, 32), lease_s=LEASE_S,
        public_url="https://finery.example", wake_relay=lambda: None,
    )  # fmt: skip
    desk = Desk(
        database=database, facts=FACTS, fields=FIELDS, allow=LOOPBACK, public_url="https://finery.example",
        confirmation_ttl_s=86_400, wake_courier=courier.wake, wake_relay=lambda: None, wake_backfill=lambda: None,
        lookup=lookup, **desk_more,
    )  # fmt: skip
    try:
        yield Rig(database, courier, desk, clock)
    finally:
        await real.close()
        database.close()


def fact(kind: type[Event], *, at: datetime, project="proj_1", notify: NotifyChoice | None = None, version=3) -> Event:
    """A fact of any routed kind."""
    noun_id = new_id(kind.NOUN)
    same = {"id": noun_id, "project": project, "name": "n", "version": version, "created_by": "u", "created_at": at}
    if issubclass(kind, TaskFact):
        data = TaskView(**same, kind=TaskKind.TUNE, state=TaskState.SUCCEEDED, notify=notify)
    elif issubclass(kind, DeploymentFact):
        data = DeploymentView(**same, model="m", model_name="m", state=DeploymentState.RUNNING, qps=1, notify=notify)
    elif issubclass(kind, DatasetFact):
        data = DatasetView(
            **same, filename="f", purpose="fine-tune", size_bytes=1, sha256="0", state=DatasetState.READY
        )  # fmt: skip
    elif issubclass(kind, ModelFact):
        data = ModelView(**same, state=ModelState.READY)
    else:
        data = example_of(kind.model_fields["data"].annotation, whole=True)
    return kind(
        id=new_id("evt"), type=kind.type_name(), source=f"finery/{kind.SAID_BY}", subject=f"{kind.NOUN}/{noun_id}",
        time=at, project=project, nounversion=version, traceparent=TRACEPARENT, data=data,
    )  # fmt: skip


def verify(secret: str, request: Heard) -> dict:
    """As an endpoint does it, with the library."""
    return Webhook(secret).verify(request.body, request.headers)


OPS = NotifyChoice(topic="ops")


def succeeded(rig: Rig, notify: NotifyChoice | None = OPS, **more) -> Event:
    return fact(TaskSucceeded, at=rig.clock.now, notify=notify, **more)
