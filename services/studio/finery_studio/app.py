"""Studio's composition root: settings in, a service out. Read ROUTES, REQUESTS and the desks to know what it does."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import nullcontext
from dataclasses import replace
from datetime import datetime
from functools import partial
from typing import Any

from fastapi import FastAPI
from faststream.nats import NatsMessage
from opentelemetry.trace import SpanKind
from pydantic import BaseModel

from finery_contracts.access import Actor, Role
from finery_contracts.autostop import AutoStopDue, AutoStopWarned
from finery_contracts.budgets import BudgetExhausted, BudgetRestored
from finery_contracts.deployments import DeployCommand, DeploymentView, DeployRequest, ServableModel, ServableRequest
from finery_contracts.envelope import Event
from finery_contracts.jobs import TaskKind
from finery_contracts.log import LogPage, LogRequest
from finery_contracts.model import Record
from finery_contracts.sources import Limits
from finery_contracts.streams import EVENTS, INBOUND, REPORTS, Durable
from finery_contracts.work import ClaimRequest, HeartbeatRequest, Report
from finery_kit import bus_admission
from finery_kit.bus import Call, Rpc, answer_requests, ask, subscribe_pull
from finery_kit.db import Database, Transaction, utc_now
from finery_kit.delivery import DELIVERY_METADATA
from finery_kit.home import operator_key
from finery_kit.service import Service
from finery_kit.storage import Storage
from finery_kit.telemetry import span_from
from finery_studio import kinds
from finery_studio.connections.handlers import ConnectionDesk
from finery_studio.connections.origins import OriginDesk
from finery_studio.datasets.handlers import DatasetDesk
from finery_studio.datasets.preparing import PreparingDesk
from finery_studio.edge import forward
from finery_studio.edge.auth import Gate
from finery_studio.edge.web import TracedApp, WebServer
from finery_studio.events import dead, replay
from finery_studio.events import handlers as event_handlers
from finery_studio.events.streams import read_subject
from finery_studio.inbound import handlers as inbound_handlers
from finery_studio.loops import Loops
from finery_studio.models import store as model_store
from finery_studio.models.birth import registrar_of
from finery_studio.models.gallery import load_gallery
from finery_studio.models.handlers import ModelDesk
from finery_studio.models.publication import Publisher
from finery_studio.pools.flavours import load_flavours
from finery_studio.pools.handlers import PoolDesk
from finery_studio.pools.recount import recount
from finery_studio.pools.store import Policy, Quota
from finery_studio.projects import store as project_store
from finery_studio.projects.desk import KeyDesk, keep_telling
from finery_studio.settings import StudioSettings
from finery_studio.store import STUDIO_METADATA
from finery_studio.surface import surface
from finery_studio.tasks import deadlines
from finery_studio.tasks import http as task_http
from finery_studio.tasks.handlers import HangRule, Outcome, TaskDesk
from finery_studio.tasks.submit import SpecMaker
from finery_studio.tuning.handlers import TuningDesk
from finery_studio.uploads.handlers import UploadDesk

NAME = "studio"
DEFAULT_PROJECT = "default"


class Studio:
    """The desks, wired together; ``app.py`` of every service has its counterpart."""

    def __init__(self, settings: StudioSettings, *, clock: Callable[[], datetime] = utc_now) -> None:
        self.settings = settings
        self.database = Database(settings.database_for(NAME), STUDIO_METADATA, DELIVERY_METADATA, clock=clock)
        self.service = Service(NAME, settings, self.database)
        self.storage = Storage(settings.store)
        self.keys = KeyDesk(settings.secret)
        self.gate = Gate(self.database, settings.secret)
        self.specs: dict[TaskKind, SpecMaker] = {}
        self.outcomes: dict[TaskKind, Outcome] = {}
        self.gallery = load_gallery(settings.gallery_file)
        roots = tuple(settings.allowed_roots)
        limits = Limits(
            max_bytes=settings.max_upload_bytes, timeout_s=settings.sources_timeout_s,
            statement_s=settings.sources_statement_s,
        )  # fmt: skip
        origins = OriginDesk(settings.secret, roots, settings.sources_allow_networks, limits)
        weights = replace(origins, limits=limits.model_copy(update={"max_bytes": settings.max_bundle_bytes}))
        self.models = ModelDesk(
            self.gallery.entries, roots, settings.retention, self.specs, weights, settings.allowed_code
        )
        self.tuning, self.preparing = TuningDesk(self.models), PreparingDesk(self.models)
        self.publisher = Publisher(self.models, self.storage)
        self.registrar = registrar_of(settings, self.database, self.storage, self.models.gallery)
        self.tasks = TaskDesk(
            self.database, self.specs, self.outcomes, settings.max_attempts,
            HangRule(settings.hang_factor, settings.hang_floor_s), self.service.wake_relay,
            self.ring, fill=origins.fill,
        )  # fmt: skip
        self.datasets = DatasetDesk(self.specs, origins)
        self.uploads = UploadDesk(
            self.database, self.storage, settings.max_upload_bytes, settings.upload_quota_bytes,
            settings.upload_reserve_bytes, settings.retention.uploads_days, self.datasets.of_upload,
        )  # fmt: skip
        self.connections = ConnectionDesk(settings.secret, settings.sources_allow_networks, roots)
        self.routes = {kind: partial(handler, desk=self.tasks) for kind, handler in ROUTES.items()}
        default = Quota(running_slots=settings.quota_running_slots, waiting_tasks=settings.quota_waiting_tasks)
        self.pools = PoolDesk(Policy(flavours=load_flavours(settings.flavours_file), default=default), self.ring)
        self.loops = Loops(
            self.database, self.service, self.tasks, self.models, self.registrar, settings, self.storage,
            self.uploads, self.deployments, clock,
        )  # fmt: skip
        self.specs |= kinds.spec_makers(self.models, self.tuning, self.preparing, self.publisher)
        self.outcomes |= kinds.outcomes(self.models, self.storage)
        self.web: WebServer | None = None
        self._ask = forward.Ask(self._send)

    # --- the bus ------------------------------------------------------------------------------------------------

    async def on_claim(self, call: Call[ClaimRequest]) -> Record:
        """RPC."""
        return await self.tasks.on_claim(call.body)

    async def on_heartbeat(self, call: Call[HeartbeatRequest]) -> Record:
        """RPC."""
        return await self.tasks.on_heartbeat(call.body)

    async def on_servable(self, call: Call[ServableRequest]) -> ServableModel:
        """RPC: a model that a call names."""
        return await self.servable(call.body.name, call.by.project)

    async def on_events(self, call: Call[LogRequest]) -> LogPage:
        """RPC: the event log."""
        return await event_handlers.on_events(self.database, call)

    async def on_fact(self, body: bytes, msg: NatsMessage) -> None:
        """EVENTS: what other services said."""
        if await event_handlers.hear(self.database, body, msg, self.routes):
            self.changed()
        await msg.ack()

    async def on_report(self, body: bytes, msg: NatsMessage) -> None:
        """REPORTS: snapshots of attempts."""
        report = Report.model_validate_json(body)
        span = span_from(report.traceparent, NAME, "process report", kind=SpanKind.CONSUMER, task_id=report.task_id)
        with span if report.end is not None else nullcontext():
            await self.database.write(lambda tx: self.tasks.on_report(tx, report))
        await msg.ack()

    async def on_inbound(self, body: bytes, msg: NatsMessage) -> None:
        """INBOUND: upstream systems."""
        await inbound_handlers.on_message(self.database, body, msg, self.task_routes)
        self.changed()
        await msg.ack()

    # --- the bell and the word ------------------------------------------------------------------------------------

    def ring(self) -> None:
        """Work may wait: ring the doorbells. Safe from any thread."""
        self.loops.ring()

    def changed(self) -> None:
        """Something was committed."""
        self.service.wake_relay()
        self.ring()

    async def tell_all_keys(self) -> None:
        """The bucket may be empty: tell the gateways of every key again."""
        await self.database.write(lambda tx: project_store.untell_keys(tx.session))
        await self.tell_keys()

    async def tell_keys(self) -> None:
        """Tell the gateways which keys changed; while the bus is away, the loop below does it later."""
        await self.keys.try_to_tell(self.database, self.service.jetstream)

    # --- start --------------------------------------------------------------------------------------------------

    async def first_start(self) -> None:
        """The default project and its operator's key."""
        self.loops.begin()
        secret = self.settings.operator_key or operator_key(self.settings.home)

        def make(tx: Transaction) -> None:
            if project_store.project_named(tx.session, DEFAULT_PROJECT) is None:
                project = self.keys.add_project(tx, DEFAULT_PROJECT)
                self.keys.add_key(
                    tx, project.id, "operator", role=Role.OPERATOR, description="first key", secret=secret
                )
            self.pools.begin(tx)
            recount(tx)

        await self.database.write(make)

    async def open_web(self) -> None:
        """Bind before saying ready."""
        self.web = WebServer(TracedApp(self.http()), self.settings.studio_host, self.settings.studio_port)
        await self.tell_keys()

    async def web_loop(self) -> None:
        """Serve until the service stops."""
        assert self.web is not None
        await self.web.run_until_stopped()

    async def close_web(self) -> None:
        """Finish what is being answered."""
        if self.web is not None:
            await self.web.stop()

    def http(self) -> FastAPI:
        """The HTTP application; ``openapi.json`` is rendered from it."""
        return surface(self)

    @property
    def task_routes(self) -> task_http.TaskRoutes:
        """What the routes of tasks need."""
        return task_http.TaskRoutes(
            self.gate, self.database, self.storage, self.tasks, self.tuning, self.preparing, self.publisher,
            self._read_subject, self.datasets,
        )  # fmt: skip

    async def deployments(self, actor: Actor) -> list[DeploymentView]:
        """The project's deployments, asked of their owner."""
        return await forward.all_deployments(self._ask, actor)

    async def resolve(self, asked: DeployRequest, actor: Actor) -> DeployCommand:
        """A deployment request, with the model's facts."""
        return DeployCommand(request=asked, model=await self.servable(asked.model, actor.project))

    async def servable(self, ref: str, project: str) -> ServableModel:
        """What the deployer must know of a model, after its certificate was looked at."""
        view = await self.database.read(lambda s: model_store.load(s, project, ref))
        servable = self.models.deployable(view)
        return servable.model_copy(update={"warnings": await self.registrar.check(view)})

    async def _send(self, *arguments: Any, **named: Any) -> Any:
        return await ask(self.service.client, *arguments, **named)

    async def _read_subject(self, stream: str, subject: str, *, after: int = 0) -> Any:
        return await read_subject(self.service.jetstream, stream, subject, after=after)


# What studio hears: facts of others (all are kept, these are followed), snapshots of workers, upstream events.
ROUTES: dict[type[Event], Callable[..., None]] = {
    AutoStopWarned: deadlines.on_auto_stop_warned,
    AutoStopDue: deadlines.on_auto_stop_due,
    BudgetExhausted: deadlines.on_budget_exhausted,
    BudgetRestored: deadlines.on_budget_restored,
}
MESSAGES = {
    Durable.STUDIO: (EVENTS, "finery.evt.>", Studio.on_fact),
    Durable.STUDIO_REPORTS: (REPORTS, "finery.report.>", Studio.on_report),
    Durable.STUDIO_INBOUND: (INBOUND, "finery.in.>", Studio.on_inbound),
}
REQUESTS: dict[str, tuple[type[BaseModel], Callable[[Studio, Any], Awaitable[Record]]]] = {
    "claim": (ClaimRequest, Studio.on_claim),
    "heartbeat": (HeartbeatRequest, Studio.on_heartbeat),
    "servable": (ServableRequest, Studio.on_servable),
    "events": (LogRequest, Studio.on_events),
}


def build(settings: StudioSettings) -> Service:
    """The service, ready to be started."""
    studio = Studio(settings)
    service = studio.service
    answer_requests(
        service.broker, NAME, {verb: Rpc(body, partial(answer, studio)) for verb, (body, answer) in REQUESTS.items()}
    )
    for durable, (stream, subject, handler) in MESSAGES.items():
        subscribe_pull(service.broker, stream.name, subject, durable, partial(handler, studio))
    dead.listen(service)
    bus_admission.listen(service.broker, NAME, settings.secret)
    replay.listen(service, studio.database)
    service.before_start.append(studio.first_start)
    service.on_rebuild.append(studio.tell_all_keys)
    service.after_start.append(studio.open_web)
    service.loops += [studio.web_loop, partial(keep_telling, studio.tell_keys), *studio.loops.all]
    service.before_stop.append(studio.close_web)
    return service
