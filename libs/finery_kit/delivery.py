"""Outbox: a fact is stored with the change it tells of; the relay publishes it afterwards, whoever hears it applies it
once (the inbox).

The outbox is the event log: rows stay after the bus has acknowledged them. It refuses a fact that no message can carry.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from functools import partial

from sqlalchemy import text
from sqlmodel import Session, col, select

from finery_contracts.envelope import Event
from finery_contracts.errors import TooLarge
from finery_contracts.ids import new_id
from finery_contracts.log import about
from finery_contracts.model import Record
from finery_contracts.streams import MAX_FACT_BYTES
from finery_kit.db import LOCK_OUTBOX, Transaction
from finery_kit.delivery_tables import DELIVERY_METADATA, AboutRow, InboxRow, OutboxRow
from finery_kit.inbox import first_sight
from finery_kit.relay import Relay
from finery_kit.telemetry import current_traceparent


def emit(
    tx: Transaction, kind: type[Event], noun_id: str, *, project: str, version: int, data: Record,
    traceparent: str | None = None,
) -> Event:  # fmt: skip
    """Store a fact in this transaction; the relay publishes it once it is committed.

    Raises:
        TooLarge: no message can carry it; nothing of the transaction happens unless the caller says otherwise.
    """
    event = kind(
        id=new_id("evt"),
        type=kind.type_name(),
        source=f"finery/{kind.SAID_BY}",
        subject=f"{kind.NOUN}/{noun_id}",
        time=tx.now,
        project=project,
        nounversion=version,
        traceparent=traceparent or current_traceparent(),
        data=data,
    )
    body = event.model_dump_json().encode()
    if len(body) > MAX_FACT_BYTES:
        raise TooLarge(
            f"{event.subject} has grown to {len(body):,} bytes, over the {MAX_FACT_BYTES:,} that a fact may have; "
            "shorten its longest field",
            code="fact_too_large",
        )
    row = OutboxRow(
        event_id=event.id, project=project, noun=kind.NOUN, noun_id=noun_id, noun_version=version,
        type=event.type, bus_subject=event.bus_subject,
        body=body, traceparent=event.traceparent, created_at=tx.now.isoformat(),
    )  # fmt: skip
    append(tx, row, about(vars(data)))
    return event


def append(tx: Transaction, row: OutboxRow, others: Iterable[str] = ()) -> None:
    """Put a row at the end of the log, as the last thing of this transaction; ``others``: nouns it speaks of, too."""
    tx.session.add_all(AboutRow(noun_id=other, event_id=row.event_id) for other in others)
    tx.before_commit.append(partial(_append, tx.session, row))


def _append(session: Session, row: OutboxRow) -> None:
    # Postgres hands out ``seq`` before the commit: without the lock a smaller one could become visible after a larger
    # one, and whoever reads from a cursor on would never see it. Taken last, so it cannot deadlock with a row's lock.
    if _is_postgres(session):
        session.scalar(text("select pg_advisory_xact_lock(:key)"), {"key": LOCK_OUTBOX})
    session.add(row)


def _is_postgres(session: Session) -> bool:
    return session.get_bind().dialect.name == "postgresql"


def events_since(
    session: Session, project: str, *, after: int = 0, since: datetime | None = None, noun_id: str | None = None,
    limit: int = 100,
) -> list[OutboxRow]:  # fmt: skip
    """The log of one project from a place on, oldest first; ``seq`` is the cursor."""
    query = select(OutboxRow).where(OutboxRow.project == project, col(OutboxRow.seq) > after)
    if noun_id is not None:
        query = query.where(OutboxRow.noun_id == noun_id)
    if since is not None:
        query = query.where(col(OutboxRow.created_at) >= since.astimezone(UTC).isoformat())
    return list(session.exec(query.order_by(col(OutboxRow.seq)).limit(limit)))


WakeUp = Callable[[], None]

__all__ = [
    "DELIVERY_METADATA", "InboxRow", "OutboxRow", "Relay", "WakeUp", "append", "emit", "events_since", "first_sight",
]  # fmt: skip
