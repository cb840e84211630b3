"""Refills a lost stream from the outbox: what the bus no longer has is marked unpublished, and the relay says it again.

Same bytes, same ids, in the same order; whoever hears it has it in its inbox and does nothing twice. It also notices by
itself that the stream is another one than last time. It refuses to look at facts of others that are kept here.
"""

# nats-py leaves parts of its interface untyped.
# pyright: reportUnknownMemberType=false
from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from functools import partial

import nats.errors
from nats.js import JetStreamContext
from nats.js.api import Header
from nats.js.errors import APIError, NotFoundError
from sqlalchemy import func, update
from sqlmodel import Session, col, select

from finery_contracts.access import Role
from finery_contracts.errors import Forbidden
from finery_contracts.model import Record
from finery_contracts.rebuild import RebuildState
from finery_contracts.registry import EVENTS as KINDS
from finery_contracts.streams import EVENTS
from finery_kit.bus import Call
from finery_kit.db import Database, Transaction
from finery_kit.dead import headers_of
from finery_kit.delivery_tables import BusSeenRow, OutboxRow

log = logging.getLogger("finery.rebuild")
PAGE = 500
LOOK_S = 5.0


class Rebuilder:
    """One service's. ``also``: what else it wrote on the bus and writes again, such as a bucket."""

    def __init__(
        self, owner: str, database: Database, jetstream: Callable[[], JetStreamContext],
        wake: Callable[[], None], also: Sequence[Callable[[], Awaitable[None]]],
    ) -> None:  # fmt: skip
        self._owner, self._database, self._jetstream = owner, database, jetstream
        self._wake, self._also = wake, also
        self._own = [name for name, kind in KINDS.items() if owner == kind.SAID_BY]
        self._under_way: asyncio.Task[None] | None = None
        self._state = RebuildState(owner=owner)

    async def on_rebuild(self, call: Call[Record]) -> RebuildState:
        """RPC: begin, unless it is under way."""
        _only_operators(call)
        self.begin()
        return await self.state()

    async def on_state(self, call: Call[Record]) -> RebuildState:
        """RPC: how far it is."""
        _only_operators(call)
        return await self.state()

    def begin(self) -> None:
        """Compare everything with the stream, in the background."""
        if self._under_way is None or self._under_way.done():
            self._state = RebuildState(owner=self._owner, running=True)
            self._under_way = asyncio.create_task(self._run(), name=f"rebuild:{self._owner}")

    async def state(self) -> RebuildState:
        """Where it stands."""
        return self._state.model_copy(update={"waiting": await self._database.read(_waiting)})

    async def watch(self) -> None:
        """Rebuild when the stream is another one than last time. Until cancelled."""
        while True:
            try:
                await self._look()
            except (nats.errors.Error, APIError, TimeoutError, OSError) as fault:  # the bus is away, or empty yet
                log.debug("rebuild_looks_later", extra={"owner": self._owner, "error": repr(fault)})
            await asyncio.sleep(LOOK_S)

    async def _look(self) -> None:
        info = await self._jetstream().stream_info(EVENTS.name)
        born = str(info.created)
        known = await self._database.read(lambda session: _known(session))
        if known == born:
            return
        if known is not None:
            log.warning("stream_is_new", extra={"owner": self._owner, "stream": EVENTS.name})
            self._state = RebuildState(owner=self._owner, running=True)
            await self.refill()
        await self._database.write(lambda tx: _remember(tx, born))

    async def _run(self) -> None:
        try:
            await self.refill()
        except Exception as fault:
            log.exception("rebuild_failed", extra={"owner": self._owner})
            self._state = self._state.model_copy(update={"running": False, "error": type(fault).__name__})

    async def refill(self) -> None:
        """Compare every own fact with the stream; what is lost is said again."""
        place = 0
        while rows := await self._database.read(partial(_own_rows, types=self._own, after=place)):
            place = rows[-1].seq or place
            lost = [row.seq for row in rows if not await self._is_there(row)]
            if lost:
                await self._database.write(partial(_unpublish, seqs=lost))
                self._wake()
            counted = {"checked": self._state.checked + len(rows), "lost": self._state.lost + len(lost)}
            self._state = self._state.model_copy(update=counted)
        for write_again in self._also:
            await write_again()
        self._state = self._state.model_copy(update={"running": False})
        log.info("rebuilt", extra={"owner": self._owner, "checked": self._state.checked, "lost": self._state.lost})

    async def _is_there(self, row: OutboxRow) -> bool:
        """Of a subject the stream has a run of facts without a hole: whatever lies between its first and its last."""
        last = await self._said(row.bus_subject)
        if last is None or last == row.event_id:
            return last is not None
        first = await self._said(row.bus_subject, first=True)
        ends = await self._database.read(lambda session: [_seq_of(session, event) for event in (first, last)])
        return ends[0] is not None and ends[1] is not None and ends[0] <= (row.seq or 0) <= ends[1]

    async def _said(self, subject: str, *, first: bool = False) -> str | None:
        """The id of the last fact on a subject, or of the first."""
        try:
            if first:
                found = await self._jetstream().get_msg(EVENTS.name, 1, subject=subject, direct=True, next=True)
            else:
                found = await self._jetstream().get_msg(EVENTS.name, subject=subject, direct=True)
        except NotFoundError:
            return None
        return headers_of(found).get(Header.MSG_ID)


def _only_operators(call: Call[Record]) -> None:
    if call.by.role is not Role.OPERATOR:
        raise Forbidden("only an operator may rebuild the bus")


def _own_rows(session: Session, *, types: list[str], after: int) -> list[OutboxRow]:
    query = select(OutboxRow).where(
        col(OutboxRow.seq) > after, col(OutboxRow.published).is_(True), col(OutboxRow.type).in_(types)
    )
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


def _remember(tx: Transaction, born: str) -> None:
    tx.session.merge(BusSeenRow(stream=EVENTS.name, born=born))
