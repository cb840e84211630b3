"""What studio does with facts of others (keep all, follow some), and how the log is read over the bus."""

from __future__ import annotations

from faststream.nats import NatsMessage
from opentelemetry.trace import SpanKind

from finery_contracts.access import Role
from finery_contracts.envelope import Event
from finery_contracts.errors import Forbidden
from finery_contracts.log import LogPage, LogRequest
from finery_kit.bus import Call, FactRoutes, apply_once, parse_or_none
from finery_kit.db import Database, Transaction
from finery_kit.dead import subject_of
from finery_kit.telemetry import span_from
from finery_studio.events import log


async def hear(database: Database, body: bytes, msg: NatsMessage, routes: FactRoutes) -> bool:
    """Keep the fact and, in the same transaction, follow it if a route says so; True when a route changed something."""
    event = parse_or_none(body, subject_of(msg.raw_message))
    if event is None or type(event) not in routes:
        await database.write(lambda tx: log.keep(tx, body))
        return False
    parent = (msg.headers or {}).get("traceparent") or event.traceparent
    with span_from(parent, "studio", f"process {event.type}", kind=SpanKind.CONSUMER, noun=event.subject):
        return await database.write(lambda tx: keep_and_follow(tx, body, event, routes))


def keep_and_follow(tx: Transaction, body: bytes, event: Event, routes: FactRoutes) -> bool:
    """False when the fact was followed before."""
    log.keep(tx, body)
    return apply_once(tx, event, routes[type(event)])


async def on_events(database: Database, call: Call[LogRequest]) -> LogPage:
    """RPC ``events``.

    Raises:
        Forbidden: somebody other than a service or the operator asks for all projects.
    """
    asked = call.body
    if asked.all_projects and call.actor is not None and call.actor.role is not Role.OPERATOR:
        raise Forbidden("only the operator may read the log of all projects", code="role_too_low", param="all_projects")
    wanted = log.Wanted(
        project=None if asked.all_projects else call.by.project, after=asked.after, since=asked.since,
        noun_id=asked.noun_id, types=tuple(asked.types),
    )  # fmt: skip
    return await database.read(lambda session: log.page(session, wanted, limit=asked.limit))
