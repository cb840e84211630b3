"""Which facts of an outbox the stream has lost: they are marked unpublished, and the relay says them again.

It refuses to look at facts of others that are kept here, and at what the stream let go by policy.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import timedelta
from functools import partial

from nats.js import JetStreamContext
from sqlalchemy import func, update
from sqlmodel import Session, col, select

from finery_contracts.registry import EVENTS as KINDS
from finery_contracts.retention import Retention
from finery_contracts.streams import EVENTS
from finery_kit.db import Database, Transaction
from finery_kit.delivery_tables import BusSeenRow, OutboxRow
from finery_kit.rebuild import Note, ends_of

PAGE = 500
AT_ONCE = 25


class Outbox:
    """One service's outbox, as ``Said``."""

    def __init__(
        self, owner: str, database: Database, jetstream: Callable[[], JetStreamContext], wake: Callable[[], None],
        policy: Callable[[], Retention],
    ) -> None:  # fmt: skip
        self._database, self._jetstream, self._wake, self._policy = database, jetstream, wake, policy
        self._own = [name for name, kind in KINDS.items() if owner == kind.SAID_BY]

    async def known(self) -> str | None:
        """See ``Said``."""
        return await self._database.read(_known)

    async def remember(self, born: str) -> None:
        """See ``Said``."""
        await self._database.write(partial(_remember, born=born))

    async def waiting(self) -> int:
        """See ``Said``."""
        return await self._database.read(_waiting)

    async def say_again(self, note: Note) -> None:
        """See ``Said``."""
        place, days = 0, self._policy().events_days
        since = "" if days is None else (self._database.now() - timedelta(days=days)).isoformat()
        page = partial(_own_rows, types=self._own, since=since)
        while rows := await self._database.read(partial(page, after=place)):
            place = rows[-1].seq or place
            lost = [row.seq for some in _chunks(rows) for row in await self._lost_of(some)]
            if lost:
                await self._database.write(partial(_unpublish, seqs=lost))
                self._wake()
            note(len(rows), len(lost))

    async def _lost_of(self, rows: list[OutboxRow]) -> list[OutboxRow]:
        there = await asyncio.gather(*(self._is_there(row) for row in rows))
        return [row for row, is_there in zip(rows, there, strict=True) if not is_there]

    async def _is_there(self, row: OutboxRow) -> bool:
        """Of a subject the stream has a run of facts without a hole: whatever lies between its first and its last."""
        ends = await ends_of(self._jetstream(), row.bus_subject)
        if ends is None or row.event_id in ends:
            return ends is not None
        first, last = await self._database.read(lambda session: [_seq_of(session, event) for event in ends])
        return first is not None and last is not None and first <= (row.seq or 0) <= last


def _chunks(rows: list[OutboxRow]) -> list[list[OutboxRow]]:
    return [rows[start : start + AT_ONCE] for start in range(0, len(rows), AT_ONCE)]


def _own_rows(session: Session, *, types: list[str], since: str, after: int) -> list[OutboxRow]:
    query = select(OutboxRow).where(
        col(OutboxRow.seq) > after, col(OutboxRow.published).is_(True), col(OutboxRow.type).in_(types),
        col(OutboxRow.created_at) >= since,
    )  # fmt: skip
    return list(session.exec(query.order_by(col(OutboxRow.seq)).limit(PAGE)))


def _unpublish(tx: Transaction, *, seqs: list[int | None]) -> None:
    tx.session.exec(update(OutboxRow).where(col(OutboxRow.seq).in_(seqs)).values(published=False))


def _seq_of(session: Session, event_id: str | None) -> int | None:
    return session.exec(select(OutboxRow.seq).where(OutboxRow.event_id == event_id)).first()


def _waiting(session: Session) -> int:
    return session.exec(select(func.count()).where(col(OutboxRow.published).is_(False))).one()


def _known(session: Session) -> str | None:
    row = session.get(BusSeenRow, EVENTS.name)
    return row.born if row is not None else None


def _remember(tx: Transaction, *, born: str) -> None:
    tx.session.merge(BusSeenRow(stream=EVENTS.name, born=born))
