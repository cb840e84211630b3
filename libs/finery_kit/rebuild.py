"""Has what a service said on a lost stream said again: on request, and by itself when the stream is another one.

Same bytes, same ids, in the same order, and before anything new; whoever hears it has it in its inbox and does nothing
twice. Where it is kept is the affair of ``Said``: an outbox (``refill``), or the gateway's journal.
"""

# nats-py leaves parts of its interface untyped.
# pyright: reportUnknownMemberType=false
from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import Protocol

import nats.errors
from nats.aio.client import Client
from nats.js import JetStreamContext
from nats.js.api import Header
from nats.js.errors import APIError, NotFoundError

from finery_contracts.access import Role
from finery_contracts.errors import Forbidden, Unavailable
from finery_contracts.model import Record
from finery_contracts.rebuild import RebuildState
from finery_contracts.streams import EVENTS
from finery_kit.bus import Call
from finery_kit.dead import headers_of

log = logging.getLogger("finery.rebuild")
LOOK_S = 5.0
Note = Callable[[int, int], None]
"""So many facts were compared, so many of them were lost."""


class Said(Protocol):
    """What a service said on the bus, and can say again."""

    async def known(self) -> str | None:
        """The birth of the stream that it was said to."""
        ...

    async def remember(self, born: str) -> None:
        """It is said to this one now."""
        ...

    async def say_again(self, note: Note) -> None:
        """Compare everything with the stream; what is lost is said again, or will be before anything new."""
        ...

    async def waiting(self) -> int:
        """How much the bus does not have yet."""
        ...


class Rebuilder:
    """One service's. ``also``: what else it wrote on the bus and writes again, such as a bucket."""

    def __init__(
        self, owner: str, said: Said, client: Callable[[], Client], also: Sequence[Callable[[], Awaitable[None]]]
    ) -> None:
        self._owner, self._said, self._client, self._also = owner, said, client, also
        self._under_way: asyncio.Task[None] | None = None
        self._state = RebuildState(owner=owner)
        self._one_at_a_time = asyncio.Lock()
        self._looked_at: int | None = None  # the connection, by its number of reconnects

    # --- for whoever publishes ----------------------------------------------------------------------------------------

    def check(self) -> None:
        """Nothing may be said before it is known that the stream still holds what was said before.

        Raises:
            Unavailable: the bus is away or was; ``look`` first.
        """
        if not self._client().is_connected or self._looked_at != self._connection:
            raise Unavailable("the bus was away: it is to be looked at what it still has")

    def doubt(self) -> None:
        """Something was not taken: the stream may have gone under a connection that stands."""
        self._looked_at = None

    async def look(self) -> None:
        """Refill the stream when it is another one than last time.

        Raises:
            nats.errors.Error, APIError, TimeoutError, OSError: the bus is away, or empty yet.
        """
        async with self._one_at_a_time:
            connection = self._connection
            info = await self._jetstream().stream_info(EVENTS.name)
            born, known = str(info.created), await self._said.known()
            if known != born:
                if known is not None:
                    log.warning("stream_is_new", extra={"owner": self._owner, "stream": EVENTS.name})
                    await self._refill()
                await self._said.remember(born)
            self._looked_at = connection

    async def watch(self) -> None:
        """Look from time to time. Until cancelled."""
        while True:
            try:
                await self.look()
            except (nats.errors.Error, APIError, TimeoutError, OSError, Unavailable) as fault:
                log.debug("rebuild_looks_later", extra={"owner": self._owner, "error": repr(fault)})
            await asyncio.sleep(LOOK_S)

    # --- for operators --------------------------------------------------------------------------------------------

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
        return self._state.model_copy(update={"waiting": await self._said.waiting()})

    async def _run(self) -> None:
        try:
            async with self._one_at_a_time:
                await self._refill()
        except Exception as fault:
            log.exception("rebuild_failed", extra={"owner": self._owner})
            self._state = self._state.model_copy(update={"running": False, "error": type(fault).__name__})

    async def _refill(self) -> None:
        self._state = RebuildState(owner=self._owner, running=True)
        await self._said.say_again(self._note)
        for write_again in self._also:
            await write_again()
        self._state = self._state.model_copy(update={"running": False})
        log.info("rebuilt", extra={"owner": self._owner, "checked": self._state.checked, "lost": self._state.lost})

    def _note(self, checked: int, lost: int) -> None:
        counted = {"checked": self._state.checked + checked, "lost": self._state.lost + lost}
        self._state = self._state.model_copy(update=counted)

    @property
    def _connection(self) -> int:
        return self._client().stats["reconnects"]

    def _jetstream(self) -> JetStreamContext:
        return self._client().jetstream(timeout=10)


async def ends_of(jetstream: JetStreamContext, subject: str) -> tuple[str, str] | None:
    """The ids of the first and the last fact that the stream has on a subject; None where it has none."""
    last = await _id_on(jetstream, subject, first=False)
    first = await _id_on(jetstream, subject, first=True) if last is not None else None
    return (first, last) if first is not None and last is not None else None


async def _id_on(jetstream: JetStreamContext, subject: str, *, first: bool) -> str | None:
    try:
        if first:
            found = await jetstream.get_msg(EVENTS.name, 1, subject=subject, direct=True, next=True)
        else:
            found = await jetstream.get_msg(EVENTS.name, subject=subject, direct=True)
    except NotFoundError:
        return None
    return headers_of(found).get(Header.MSG_ID)


def _only_operators(call: Call[Record]) -> None:
    if call.by.role is not Role.OPERATOR:
        raise Forbidden("only an operator may rebuild the bus")
