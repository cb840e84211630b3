"""Outbox and inbox: a fact is stored with the change it tells of, published afterwards, and applied once.

The outbox is the event log: rows stay after the bus has acknowledged them. It refuses to publish anything that is not
committed.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from datetime import datetime
from typing import Any

from nats.js import JetStreamContext
from opentelemetry import trace
from sqlalchemy import LargeBinary, MetaData, text, update
from sqlalchemy.orm import registry
from sqlmodel import Field, Session, SQLModel, col, select

from finery_contracts.envelope import CONTENT_TYPE, Event
from finery_contracts.ids import new_id
from finery_contracts.model import Record
from finery_contracts.streams import EVENTS
from finery_kit.db import Database, Transaction
from finery_kit.telemetry import current_traceparent, span_from

log = logging.getLogger("finery.delivery")
DELIVERY_METADATA = MetaData()
PAGE = 200
POLL_S = 0.25


class _Table(SQLModel, registry=registry(metadata=DELIVERY_METADATA)):
    metadata = DELIVERY_METADATA


class OutboxRow(_Table, table=True):
    """One fact, in the very bytes that go on the bus."""

    __tablename__ = "outbox"
    seq: int | None = Field(default=None, primary_key=True)
    event_id: str = Field(unique=True)
    project: str = Field(index=True)
    noun: str
    noun_id: str = Field(index=True)
    noun_version: int
    type: str
    bus_subject: str
    body: bytes = Field(sa_type=LargeBinary)
    traceparent: str | None = None
    created_at: str
    published: bool = Field(default=False, index=True)


class InboxRow(_Table, table=True):
    """A fact that was applied here: by noun and version, so that the same fact under a new id changes nothing."""

    __tablename__ = "inbox"
    noun: str = Field(primary_key=True)
    noun_id: str = Field(primary_key=True)
    version: int = Field(primary_key=True)


def emit(
    tx: Transaction, kind: type[Event], noun_id: str, *, project: str, version: int, data: Record,
    traceparent: str | None = None,
) -> Event:  # fmt: skip
    """Store a fact in this transaction; the relay publishes it once it is committed."""
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
    tx.session.add(
        OutboxRow(
            event_id=event.id, project=project, noun=kind.NOUN, noun_id=noun_id, noun_version=version,
            type=event.type, bus_subject=event.bus_subject, body=event.model_dump_json().encode(),
            traceparent=event.traceparent, created_at=tx.now.isoformat(),
        )
    )  # fmt: skip
    return event


def first_sight(tx: Transaction, event: Event) -> bool:
    """True the first time this fact is seen here; remembers it in the same transaction as its effect."""
    key = (type(event).NOUN, event.noun_id, event.nounversion)
    if tx.session.get(InboxRow, key) is not None:
        return False
    tx.session.add(InboxRow(noun=key[0], noun_id=key[1], version=key[2]))
    tx.session.flush()
    return True


class Relay:
    """Publishes what the outbox holds, in order, with the event id as message id. Several may run: one publishes."""

    def __init__(self, database: Database, jetstream: JetStreamContext, service: str) -> None:
        self._database, self._jetstream, self._service = database, jetstream, service
        self._wake = asyncio.Event()
        self._loop = asyncio.get_running_loop()

    def wake(self) -> None:
        """Look now instead of at the next poll. Safe from any thread."""
        self._loop.call_soon_threadsafe(self._wake.set)

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            try:
                while await self.publish_page():
                    pass
            except asyncio.CancelledError:
                raise
            except Exception as fault:  # the bus is away or slow: what is unpublished stays so
                log.warning("relay_waits", extra={"service": self._service, "error": repr(fault)})
                await asyncio.sleep(POLL_S)
            self._wake.clear()
            try:
                await asyncio.wait_for(self._wake.wait(), POLL_S)
            except TimeoutError:
                continue

    async def publish_page(self) -> bool:
        """Publish the next rows; True when there may be more."""
        rows = await self._database.read(_unpublished)
        if not rows:
            return False
        # Pipelined on one connection: the server stores them in this order.
        acks = [await self._publish(row) for row in rows]
        await asyncio.gather(*acks)
        seqs = [row.seq for row in rows]

        def mark(tx: Transaction) -> None:
            tx.session.execute(update(OutboxRow).where(col(OutboxRow.seq).in_(seqs)).values(published=True))

        await self._database.write(mark)
        return len(rows) == PAGE

    async def _publish(self, row: OutboxRow) -> asyncio.Future[Any]:
        headers = {"Nats-Msg-Id": row.event_id, "content-type": CONTENT_TYPE}
        with span_from(row.traceparent, self._service, f"publish {row.type}", kind=trace.SpanKind.PRODUCER):
            headers["traceparent"] = current_traceparent() or row.traceparent or ""
            return await self._jetstream.publish_async(row.bus_subject, row.body, stream=EVENTS.name, headers=headers)


def _unpublished(session: Session) -> list[OutboxRow]:
    if session.get_bind().dialect.name == "postgresql" and not session.scalar(
        text("select pg_try_advisory_xact_lock(4242)")
    ):
        return []
    query = select(OutboxRow).where(col(OutboxRow.published).is_(False)).order_by(col(OutboxRow.seq)).limit(PAGE)
    return list(session.exec(query))


def events_since(
    session: Session, project: str, *, after: int = 0, since: datetime | None = None, noun_id: str | None = None,
    limit: int = 100,
) -> list[OutboxRow]:  # fmt: skip
    """The log of one project from a place on, oldest first; ``seq`` is the cursor."""
    query = select(OutboxRow).where(OutboxRow.project == project, col(OutboxRow.seq) > after)
    if noun_id is not None:
        query = query.where(OutboxRow.noun_id == noun_id)
    if since is not None:
        query = query.where(col(OutboxRow.created_at) >= since.isoformat())
    return list(session.exec(query.order_by(col(OutboxRow.seq)).limit(limit)))


WakeUp = Callable[[], None]
