"""The event log: studio's own facts as it said them and everybody else's as they were heard, in one order.

Reading goes by ``seq``, which never changes, so a cursor outlives restarts and a bus that was filled again. It refuses
to say a fact again that another service said.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import UTC, datetime

from sqlalchemy.sql.elements import ColumnElement
from sqlmodel import Session, col, or_, select

from finery_contracts.envelope import Event
from finery_contracts.log import MAX_PAGE_BYTES, LoggedEvent, LogPage, about, check_type_pattern
from finery_kit.db import Transaction
from finery_kit.delivery import OutboxRow, append
from finery_kit.delivery_tables import AboutRow

PREFIX = "io.finery."


@dataclass(frozen=True)
class Wanted:
    """Which part of the log; ``project`` None: of all."""

    project: str | None
    after: int = 0
    since: datetime | None = None
    noun_id: str | None = None
    types: tuple[str, ...] = ()


def keep(tx: Transaction, body: bytes) -> bool:
    """Add a fact that another service said, in its very bytes; False when it is here already.

    Raises:
        pydantic.ValidationError: it is no fact.
    """
    event = Event.model_validate_json(body)
    if tx.session.exec(select(OutboxRow.seq).where(OutboxRow.event_id == event.id)).first() is not None:
        return False
    noun, _, noun_id = event.subject.partition("/")
    fact = event.type.removeprefix(PREFIX).split(".")[1:2]
    row = OutboxRow(
        event_id=event.id, project=event.project, noun=noun, noun_id=noun_id, noun_version=event.nounversion,
        type=event.type,
        bus_subject=f"finery.evt.{event.project}.{noun}.{noun_id}.{''.join(fact)}", body=body,
        traceparent=event.traceparent, created_at=event.time.isoformat(), published=True, own=False,
    )  # fmt: skip
    append(tx, row, about(event.data))
    return True


def read(session: Session, wanted: Wanted, *, limit: int) -> list[OutboxRow]:
    """Rows from a place on, oldest first."""
    query = select(OutboxRow).where(col(OutboxRow.seq) > wanted.after, *_conditions(wanted))
    return list(session.exec(query.order_by(col(OutboxRow.seq)).limit(limit)))


def page(session: Session, wanted: Wanted, *, limit: int) -> LogPage:
    """At most ``limit`` events, and fewer when they are large."""
    rows = read(session, wanted, limit=limit + 1)
    shown, size = list[LoggedEvent](), 0
    for row in rows[:limit]:
        size += len(row.body)
        if shown and size > MAX_PAGE_BYTES:
            break
        shown.append(LoggedEvent(seq=row.seq or 0, event=json.loads(row.body)))
    following = shown[-1].seq if shown else wanted.after
    return LogPage(data=shown, next=following, has_more=len(rows) > len(shown))


def _conditions(wanted: Wanted) -> list[ColumnElement[bool]]:
    found = list[ColumnElement[bool]]()
    if wanted.project is not None:
        found.append(col(OutboxRow.project) == wanted.project)
    if wanted.noun_id is not None:
        spoken_of = select(AboutRow.event_id).where(AboutRow.noun_id == wanted.noun_id)
        found.append(or_(col(OutboxRow.noun_id) == wanted.noun_id, col(OutboxRow.event_id).in_(spoken_of)))
    if wanted.since is not None:
        found.append(col(OutboxRow.created_at) >= wanted.since.astimezone(UTC).isoformat())
    if wanted.types and "*" not in wanted.types:
        found.append(or_(*(_is_of(pattern) for pattern in wanted.types)))
    return found


def _is_of(pattern: str) -> ColumnElement[bool]:
    """``task.*`` and ``task.succeeded`` mean every version."""
    named = PREFIX + check_type_pattern(pattern).removeprefix(PREFIX)
    kind = col(OutboxRow.type)
    if named.endswith(".*"):
        return kind.startswith(named[:-1], autoescape=True)
    return kind == named if named.count(".") == 4 else kind.startswith(f"{named}.v", autoescape=True)
