"""What becomes of an upstream event: a task, once, or the reason why not, told to whoever asked and said as a fact."""

from __future__ import annotations

from typing import Any

from faststream.nats import NatsMessage
from opentelemetry.trace import SpanKind
from pydantic import ValidationError

from finery_contracts.access import Actor, Role
from finery_contracts.errors import ErrorBody, FineryError, InvalidRequest
from finery_contracts.ids import new_id
from finery_contracts.inbound import TASK_REQUESTED, InboundEvent, InboundRefused, Refusal
from finery_contracts.model import Record
from finery_kit.db import Database, Transaction
from finery_kit.dead import headers_of, subject_of
from finery_kit.delivery import emit
from finery_kit.telemetry import span_from
from finery_studio.edge.answers import invalid
from finery_studio.inbound import cloudevents, store
from finery_studio.projects.store import ProjectRow
from finery_studio.tasks.http import TaskRoutes, make_task


class Received(Record):
    """What came of one event; ``status`` is that of its error."""

    id: str
    source: str
    task: str | None = None
    error: ErrorBody | None = None
    status: int = 202


async def on_message(database: Database, body: bytes, msg: NatsMessage, desk: TaskRoutes) -> None:
    """INBOUND: any message of a project's credential."""
    raw = msg.raw_message
    project = subject_of(raw).split(".")[2]
    headers = {name.lower(): value for name, value in headers_of(raw).items()}
    met = raw.metadata
    place = f"{met.stream}/{met.sequence.stream}/{met.timestamp.isoformat()}"
    await database.write(lambda tx: hear(tx, project, headers, body, desk, place=place))


def receive(tx: Transaction, actor: Actor, said: Any, desk: TaskRoutes, *, place: str | None = None) -> Received:
    """Make what is asked for; the same event again changes nothing and gets the same answer.

    ``place`` is where a message stood that names no id: told twice by the bus, it is refused once.
    """
    names = cloudevents.named(said)
    try:
        event = cloudevents.event_of(said)
    except FineryError as fault:
        return refuse(tx, actor.project, fault, names, place=place)
    mark = store.fingerprint(event.source, event.id)
    seen = store.first_time(tx, actor.project, mark)
    if seen is not None:
        error = ErrorBody.model_validate_json(seen.error) if seen.error else None
        return Received(id=event.id, source=event.source, task=seen.task, error=error, status=seen.status or 202)
    by = actor.model_copy(update={"user": f"event:{event.source}"[:64]})
    try:
        span = span_from(event.traceparent, "studio", f"process {event.type}", kind=SpanKind.CONSUMER)
        with span, tx.session.begin_nested():
            task = _follow(tx, event, by, desk)
    except ValidationError as fault:
        return _conclude_refused(tx, actor.project, invalid(fault), names, mark)
    except FineryError as fault:
        return _conclude_refused(tx, actor.project, fault, names, mark)
    store.conclude(tx, store.InboundRow(project=actor.project, fingerprint=mark, task=task, heard_at=tx.now))
    return Received(id=event.id, source=event.source, task=task)


def refuse(
    tx: Transaction, project: str, fault: FineryError, names: dict[str, str], *, place: str | None = None
) -> Received:
    """Say that something could not be followed."""
    if place is None or store.first_time(tx, project, store.fingerprint(place)) is None:
        emit_refusal(tx, project, fault, names)
    return Received(id=names["id"], source=names["source"], error=fault.body, status=fault.status)


def emit_refusal(tx: Transaction, project: str, fault: FineryError, names: dict[str, str]) -> None:
    """The fact."""
    emit(tx, InboundRefused, new_id("inb"), project=project, version=1, data=Refusal(**names, error=fault.body))


def bus_actor(tx: Transaction, project: str) -> Actor | None:
    """Whoever holds a project's bus credential may what the role common may; None: there is no such project."""
    row = tx.session.get(ProjectRow, project)
    if row is None:
        return None
    return Actor(project=project, project_name=row.name, user="bus", key="", role=Role.COMMON)


def hear(
    tx: Transaction, project: str, headers: dict[str, str], body: bytes, desk: TaskRoutes, *, place: str
) -> list[Received]:
    """INBOUND: a message of a project; without headers it is one event in structured mode."""
    actor = bus_actor(tx, project)
    if actor is None:
        return []
    if not any(name.startswith("ce-") for name in headers) and "cloudevents" not in headers.get("content-type", ""):
        headers = {**headers, "content-type": cloudevents.STRUCTURED}
    try:
        events = cloudevents.read(headers, body)
    except FineryError as fault:
        return [refuse(tx, project, fault, cloudevents.named(None), place=place)]
    return [receive(tx, actor, said, desk, place=f"{place}/{n}") for n, said in enumerate(events)]


def _follow(tx: Transaction, event: InboundEvent, actor: Actor, desk: TaskRoutes) -> str:
    if event.type != TASK_REQUESTED:
        raise InvalidRequest(
            f"events of type {event.type} create nothing; use {TASK_REQUESTED}", code="type_unknown", param="type"
        )
    return make_task(desk, tx, event.data, actor).id


def _conclude_refused(tx: Transaction, project: str, fault: FineryError, names: dict[str, str], mark: str) -> Received:
    emit_refusal(tx, project, fault, names)
    store.conclude(
        tx, store.InboundRow(
            project=project, fingerprint=mark, status=fault.status, error=fault.body.model_dump_json(), heard_at=tx.now
        )
    )  # fmt: skip
    return Received(id=names["id"], source=names["source"], error=fault.body, status=fault.status)
