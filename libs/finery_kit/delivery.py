"""Outbox and inbox: a fact is stored with the change it tells of, published afterwards, and applied once.

The outbox is the event log: rows stay after the bus has acknowledged them. It refuses to publish anything that is not
committed.
"""

# nats-py leaves parts of its interface untyped.
# pyright: reportUnknownMemberType=false
from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from functools import partial
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
from finery_kit.db import LOCK_OUTBOX, LOCK_RELAY, Database, Transaction
from finery_kit.telemetry import current_traceparent, span_from

log = logging.getLogger("finery.delivery")
DELIVERY_METADATA = MetaData()
PAGE = 200
POLL_S = 0.25
ACK_TIMEOUT_S = 5.0


class _Table(SQLModel, registry=registry(metadata=DELIVERY_METADATA)):
    metadata = DELIVERY_METADATA


class OutboxRow(_Table, table=True):
    """One fact, in the very bytes that go on the bus."""

    __tablename__ = "outbox"  # pyright: ignore[reportAssignmentType]
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

    __tablename__ = "inbox"  # pyright: ignore[reportAssignmentType]
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
    row = OutboxRow(
        event_id=event.id, project=project, noun=kind.NOUN, noun_id=noun_id, noun_version=version,
        type=event.type, bus_subject=event.bus_subject, body=event.model_dump_json().encode(),
        traceparent=event.traceparent, created_at=tx.now.isoformat(),
    )  # fmt: skip
    tx.before_commit.append(partial(_append, tx.session, row))
    return event


def _append(session: Session, row: OutboxRow) -> None:
    # Postgres hands out ``seq`` before the commit: without the lock a smaller one could become visible after a larger
    # one, and whoever reads from a cursor on would never see it. Taken last, so it cannot deadlock with a row's lock.
    if _is_postgres(session):
        session.scalar(text("select pg_advisory_xact_lock(:key)"), {"key": LOCK_OUTBOX})
    session.add(row)


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
            self._wake.clear()
            try:
                while await self.publish_page():
                    pass
            except Exception as fault:  # the bus is away or slow: what is unpublished stays so
                log.warning("relay_waits", extra={"service": self._service, "error": repr(fault)})
                await asyncio.sleep(POLL_S)
            # Not wait_for: before Python 3.12 it loses a cancellation that meets the end of the wait.
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(POLL_S):
                    await self._wake.wait()

    async def publish_page(self) -> bool:
        """Publish the next rows; True when there may be more.

        Raises:
            Exception: what kept a row from being acknowledged; the rows that were are marked.
        """
        async with self._database.alone(LOCK_RELAY) as alone:
            rows = await self._database.read(_unpublished) if alone else []
            for run in _runs(rows):
                await self._publish_run(run)
        return len(rows) == PAGE

    async def _publish_run(self, rows: Sequence[OutboxRow]) -> None:
        acks: list[asyncio.Future[Any]] = []
        try:
            async with asyncio.timeout(ACK_TIMEOUT_S):  # an acknowledgement that was cut off never comes
                # Pipelined on one connection: the server stores them in this order.
                for row in rows:
                    acks.append(await self._publish(row))
                await asyncio.wait(acks)
        finally:
            stored = [row.seq for row, ack in zip(rows, acks, strict=False) if _is_stored(ack)]
            for ack in acks:
                ack.cancel()  # gives its place among the pending ones back
            if stored:
                await self._database.write(partial(_mark, seqs=stored))
        for ack in acks:
            ack.result()

    async def _publish(self, row: OutboxRow) -> asyncio.Future[Any]:
        headers = {"Nats-Msg-Id": row.event_id, "content-type": CONTENT_TYPE}
        with span_from(row.traceparent, self._service, f"publish {row.type}", kind=trace.SpanKind.PRODUCER):
            headers["traceparent"] = current_traceparent() or row.traceparent or ""
            return await self._jetstream.publish_async(  # pyright: ignore[reportUnknownMemberType]
                row.bus_subject, row.body, stream=EVENTS.name, headers=headers
            )


def _runs(rows: Sequence[OutboxRow]) -> Iterator[Sequence[OutboxRow]]:
    """Cut where a noun comes again: its next fact goes out only after its last one is acknowledged.

    Otherwise, when the connection breaks between the two, the first is lost on the wire and the second, still in the
    client's buffer, is stored before the first is sent again.
    """
    start, nouns = 0, set[tuple[str, str]]()
    for place, row in enumerate(rows):
        noun = (row.noun, row.noun_id)
        if noun in nouns:
            yield rows[start:place]
            start, nouns = place, set[tuple[str, str]]()
        nouns.add(noun)
    if rows:
        yield rows[start:]


def _is_stored(ack: asyncio.Future[Any]) -> bool:
    return ack.done() and not ack.cancelled() and ack.exception() is None


def _mark(tx: Transaction, seqs: Sequence[int | None]) -> None:
    tx.session.exec(update(OutboxRow).where(col(OutboxRow.seq).in_(seqs)).values(published=True))


def _unpublished(session: Session) -> list[OutboxRow]:
    query = select(OutboxRow).where(col(OutboxRow.published).is_(False)).order_by(col(OutboxRow.seq)).limit(PAGE)
    return list(session.exec(query))


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
