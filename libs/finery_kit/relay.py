"""The relay: publishes what the outbox holds, in order, each fact until the bus has acknowledged it.

It refuses to publish anything that is not committed, and anything new on a stream that lost what went before. A noun's
next fact goes out only after its last one is stored.
"""

# nats-py leaves parts of its interface untyped.
# pyright: reportUnknownMemberType=false
from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any, Protocol

from nats.js import JetStreamContext
from opentelemetry import trace
from sqlalchemy import func, update
from sqlmodel import Session, col, select

from finery_contracts.envelope import CONTENT_TYPE
from finery_contracts.errors import Unavailable
from finery_contracts.streams import EVENTS
from finery_kit.db import LOCK_RELAY, Database, Transaction
from finery_kit.delivery_tables import OutboxRow
from finery_kit.telemetry import current_traceparent, span_from

log = logging.getLogger("finery.delivery")
PAGE = 200
HOLD_S = 5.0  # then another replica may have its turn
MARK_AFTER_S = 0.02
POLL_S = 0.25
ACK_TIMEOUT_S = 5.0


class Stream(Protocol):
    """What is known of the stream: whether it still holds what was said before (``rebuild.Rebuilder``)."""

    def check(self) -> None:
        """Raises Unavailable when that is not known."""
        ...

    async def look(self) -> None:
        """Find out; what was lost waits again in the outbox."""
        ...

    def doubt(self) -> None:
        """Something was not taken."""
        ...


class Relay:
    """Publishes what the outbox holds, in order, with the event id as message id. Several may run: one publishes."""

    def __init__(
        self, database: Database, jetstream: JetStreamContext, service: str, *, stream: Stream | None = None
    ) -> None:
        self._database, self._jetstream, self._service, self._stream = database, jetstream, service, stream
        self._wake = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self.failing_since: float | None = None
        """Monotonic; since when nothing that waits could be published."""
        self.backlog = 0

    def wake(self) -> None:
        """Look now instead of at the next poll. Safe from any thread."""
        self._loop.call_soon_threadsafe(self._wake.set)

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            self._wake.clear()
            try:
                while await self.publish_waiting():
                    self.backlog = await self._database.read(_backlog)
                self.failing_since, self.backlog = None, 0
            except Exception as fault:  # the bus is away, full or slow: what is unpublished stays so
                self.failing_since = self.failing_since or time.monotonic()
                with contextlib.suppress(Exception):  # the database may be away as well
                    self.backlog = await self._database.read(_backlog)
                log.warning("relay_waits", extra={"service": self._service, "error": repr(fault)})
                await asyncio.sleep(POLL_S)
            # Not wait_for: before Python 3.12 it loses a cancellation that meets the end of the wait.
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(POLL_S):
                    await self._wake.wait()

    async def publish_waiting(self) -> bool:
        """Publish what waits, and what comes meanwhile; True when it was so much that there may be more.

        Raises:
            Exception: what kept a row from being acknowledged; the rows that were are marked.
        """
        async with self._database.alone(LOCK_RELAY) as alone:
            if not alone or not await self._ready():
                return False
            marks, last, until = _Marks(self._database), 0, time.monotonic() + HOLD_S
            try:
                while time.monotonic() < until:
                    self._wake.clear()
                    # From the last one on: the marks of what went before it may still be on their way to the disk.
                    rows = await self._database.read(partial(_unpublished, after=last))
                    for run in _runs(rows):
                        await self._publish_run(run, marks)
                    if marks.failed or not (rows or await self._woken_before(marks)):
                        return False
                    last = rows[-1].seq or last if rows else last
            finally:
                await marks.finish()
        return True

    async def _woken_before(self, marks: _Marks) -> bool:
        """While marks are gathered, whatever comes goes out at once. False: all are written, and nothing came."""
        if not marks.writing:
            return False
        waking = asyncio.create_task(self._wake.wait())
        try:
            await asyncio.wait({waking, *marks.writing}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            waking.cancel()
        return self._wake.is_set()

    async def _ready(self) -> bool:
        """The stream holds what was said before: one that was lost is refilled first. False: nothing waits for it."""
        if self._stream is None:
            return True
        try:
            self._stream.check()
        except Unavailable:
            if not await self._database.read(_backlog):
                return False
            await self._stream.look()
        return True

    async def _publish_run(self, rows: Sequence[OutboxRow], marks: _Marks) -> None:
        acks: list[asyncio.Future[Any]] = []
        try:
            async with asyncio.timeout(ACK_TIMEOUT_S):  # an acknowledgement that was cut off never comes
                # Pipelined on one connection: the server stores them in this order.
                for row in rows:
                    acks.append(await self._publish(row))
                await asyncio.wait(acks)
        finally:
            stored = [row.seq for row, ack in zip(rows, acks, strict=False) if _is_stored(ack)]
            if self._stream is not None and len(stored) < len(rows):
                self._stream.doubt()
            for ack in acks:
                ack.cancel()  # gives its place among the pending ones back
            marks.add(stored)
        for ack in acks:
            ack.result()

    async def _publish(self, row: OutboxRow) -> asyncio.Future[Any]:
        if self._stream is not None:
            self._stream.check()
        headers = {"Nats-Msg-Id": row.event_id, "content-type": CONTENT_TYPE}
        with span_from(row.traceparent, self._service, f"publish {row.type}", kind=trace.SpanKind.PRODUCER):
            headers["traceparent"] = current_traceparent() or row.traceparent or ""
            return await self._jetstream.publish_async(  # pyright: ignore[reportUnknownMemberType]
                row.bus_subject, row.body, stream=EVENTS.name, headers=headers
            )


class _Marks:
    """Rows that the bus has, on their way to being marked: many at a time, while the next ones are being published."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._waiting: list[int | None] = []
        self._finishing = asyncio.Event()
        self.writing = set[asyncio.Task[None]]()
        """At most one; what failed stays, so that ``finish`` can say why."""

    def add(self, seqs: Sequence[int | None]) -> None:
        self._waiting.extend(seqs)
        if self._waiting and all(task.done() for task in self.writing) and not self.failed:
            task = asyncio.create_task(self._write())
            self.writing.add(task)
            task.add_done_callback(lambda done: None if _failed(done) else self.writing.discard(done))

    @property
    def failed(self) -> bool:
        """The database did not take one; ``finish`` says why."""
        return any(_failed(task) for task in self.writing)

    async def finish(self) -> None:
        """All are written, or: why not."""
        self._finishing.set()
        for task in [*self.writing]:
            await task
        await self._write()  # what was added when the last one had just ended

    async def _write(self) -> None:
        while self._waiting:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(MARK_AFTER_S):
                    await self._finishing.wait()
            seqs, self._waiting = self._waiting, []
            await self._database.write(partial(_mark, seqs=seqs))


def _failed(task: asyncio.Task[None]) -> bool:
    return task.done() and not task.cancelled() and task.exception() is not None


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


def _backlog(session: Session) -> int:
    return session.exec(select(func.count()).where(col(OutboxRow.published).is_(False))).one()


def _unpublished(session: Session, after: int = 0) -> list[OutboxRow]:
    waiting = select(OutboxRow).where(col(OutboxRow.published).is_(False), col(OutboxRow.seq) > after)
    return list(session.exec(waiting.order_by(col(OutboxRow.seq)).limit(PAGE)))
