"""Carries what is due: one loop that sleeps until the next delivery's turn and starts attempts side by side.

The table is the truth: an attempt is taken with a lease, sent outside any transaction, and settled under a version
check, so several replicas may run and any may be killed. What ended and what is due go into one transaction a turn. It
refuses to let one endpoint take the others' place.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections import Counter, deque
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import NamedTuple, Protocol
from urllib.parse import urlsplit

from opentelemetry.trace import SpanKind

from finery_contracts.errors import Unavailable
from finery_contracts.notifications import SubscriptionState
from finery_kit.db import Database, Transaction
from finery_kit.telemetry import span_from
from finery_notifier import deliveries, domain, links
from finery_notifier.deliveries import Addressee, Due
from finery_notifier.domain import Outcome, Purpose
from finery_notifier.lanes import SLOW_AFTER_S, Flight, Lanes, Room
from finery_notifier.settling import Ended, Rules, settle

log = logging.getLogger("finery.notifier")
POLL_S = 5.0
DRAIN_S = 5.0
BREATHE_S = 1.0
READY_S = 20.0
AHEAD = 4
"""Taken beforehand, in places of the main lane; half of that is worth a turn and its commit."""
SETTLE_S = 0.02
"""What ended waits so long for company."""


class Parcel(NamedTuple):
    """One attempt at a delivery. ``refusal``: why it must not be sent any more."""

    delivery: str
    version: int
    number: int
    channel: str
    purpose: Purpose
    event_id: str
    url: str
    endpoint: str
    subject: str
    content_type: str
    body: bytes
    secrets: tuple[str, ...]
    unsubscribe_url: str
    traceparent: str | None
    refusal: str | None

    def __repr__(self) -> str:
        """Without what is secret."""
        return f"Parcel(delivery={self.delivery!r}, version={self.version}, number={self.number})"


class Mail(Protocol):
    """The way out."""

    async def send(self, parcel: Parcel) -> Outcome:
        """Try once; every fault of the other side is an outcome, not an exception."""
        ...


class Courier:
    """The scheduler of deliveries. ``lease_s`` is longer than any attempt."""

    def __init__(
        self, database: Database, mail: Mail, *, rules: Rules, lanes: Lanes, lease_s: float, public_url: str,
        wake_relay: Callable[[], None],
    ) -> None:  # fmt: skip
        self._database, self._mail, self._wake_relay = database, mail, wake_relay
        self._rules, self._lanes, self._lease_s, self._public_url = rules, lanes, lease_s, public_url
        self._wake = asyncio.Event()
        self._flights: dict[asyncio.Task[None], tuple[Parcel, float]] = {}
        self._ready = deque[tuple[Parcel, float]]()
        self._free, self._busy = 0, Counter[str]()
        self._ended: list[Ended] = []
        self._soon: asyncio.TimerHandle | None = None
        self._stopping = False

    def wake(self) -> None:
        """Something became due; call it in the event loop."""
        self._wake.set()

    async def run(self) -> None:
        """Until stopped: settle what ended, start what is due, sleep until the next turn."""
        while not self._stopping:
            self._wake.clear()
            if self._soon is not None:
                self._soon.cancel()
                self._soon = None
            wait_s = await self.start_due()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(wait_s):
                    await self._wake.wait()

    async def start_due(self) -> float:
        """Settle what ended, start attempts as far as there is room; how long nothing else is due, in seconds."""
        now = time.monotonic()
        room = self._room(now)
        ended, self._ended = self._ended, []
        try:
            parcels, wait_s = await self._turn(ended, room)
        except Unavailable as fault:
            log.warning("courier_waits", extra={"error": fault.message})
            self._ended += ended
            return BREATHE_S
        self._ready.extend((parcel, now) for parcel in parcels)
        self._take_off(self._room(time.monotonic()))
        return wait_s

    def _take_off(self, room: Room) -> None:
        """Start what was claimed, as far as there is room; one that waited too long is left to its lease."""
        self._free, self._busy = room.free, room.busy
        self._start()

    def _start(self) -> None:
        now = time.monotonic()
        for _ in range(len(self._ready)):
            if self._free <= 0:
                return
            parcel, claimed = self._ready.popleft()
            if now - claimed > READY_S:
                continue
            if self._busy[parcel.endpoint] >= self._lanes.limit(parcel.endpoint):
                self._ready.append((parcel, claimed))
                continue
            self._busy[parcel.endpoint] += 1
            self._free -= 1
            flight = asyncio.create_task(self._attempt(parcel), name=parcel.delivery)
            self._flights[flight] = parcel, now
            flight.add_done_callback(self._landed)

    def _room(self, now: float) -> Room:
        return self._lanes.room(Flight(parcel.endpoint, now - began) for parcel, began in self._flights.values())

    async def landed(self) -> None:
        """Wait until all attempts under way have ended and are settled."""
        while self._flights:
            await asyncio.wait(set(self._flights))
        ended, self._ended = self._ended, []
        await self._settled(ended)

    async def drain(self) -> None:
        """Take nothing new, let attempts finish for a moment, hand back the rest to whoever comes next."""
        self._stopping = True
        self.wake()
        if self._flights:
            await asyncio.wait(set(self._flights), timeout=DRAIN_S)
        flights = dict(self._flights)
        for flight in flights:
            flight.cancel()
        await asyncio.gather(*flights, return_exceptions=True)
        await self.landed()
        left = {parcel.delivery: parcel.version for parcel, _ in (*flights.values(), *self._ready)}
        self._ready.clear()
        if left:
            await self._database.write(lambda tx: deliveries.give_back(tx, left))

    async def _turn(self, ended: Sequence[Ended], room: Room) -> tuple[list[Parcel], float]:
        """One transaction for what ended and what is due; when it fails, each that ended gets its own."""
        try:
            said, parcels, wait_s = await self._database.write(
                lambda tx: (settle(tx, ended, self._rules), *self._claim(tx, room))
            )
        except Unavailable:
            raise
        except Exception:
            if not ended:
                raise
            log.exception("turn_failed", extra={"ended": len(ended)})
            await self._settled(ended)
            return [], 0.0
        if said:
            self._wake_relay()
        return parcels, wait_s

    async def _settled(self, ended: Sequence[Ended]) -> None:
        """One by one: an attempt that cannot be settled comes again when its lease ends, and hurts no other."""
        for one in ended:
            try:
                if await self._database.write(lambda tx, one=one: settle(tx, [one], self._rules)):
                    self._wake_relay()
            except Exception:
                log.exception("delivery_unsettled", extra={"delivery": one.parcel.delivery})

    def _claim(self, tx: Transaction, room: Room) -> tuple[list[Parcel], float]:
        wanted = room.free + AHEAD * self._lanes.places - len(self._ready)
        if wanted < self._lanes.places:
            return [], SLOW_AFTER_S / 4
        known = room.busy + Counter(parcel.endpoint for parcel, _ in self._ready)
        rows = deliveries.claim_due(
            tx, room=wanted, in_flight=known, limit=self._lanes.ahead, closed=room.closed, lease_s=self._lease_s
        )
        parcels = _parcels(rows, self._public_url, tx.now)
        if len(parcels) == wanted:
            return parcels, SLOW_AFTER_S / 4
        known.update(parcel.endpoint for parcel in parcels)
        due = deliveries.next_due(tx, in_flight=known, limit=self._lanes.ahead, closed=room.closed)
        return parcels, min(POLL_S, max(0.01, (due - tx.now).total_seconds())) if due else POLL_S

    async def _attempt(self, parcel: Parcel) -> None:
        began = time.monotonic()
        outcome = Outcome(error=parcel.refusal) if parcel.refusal else await self._send(parcel)
        if not parcel.refusal:
            answered = outcome.status is not None and outcome.error is None
            self._lanes.landed(parcel.endpoint, took_s=time.monotonic() - began, answered=answered)
        self._ended.append(Ended(parcel, outcome, self._database.now()))

    async def _send(self, parcel: Parcel) -> Outcome:
        if parcel.traceparent is None:  # no cause, no trace
            outcome = await self._sent(parcel)
        else:
            outcome = await self._traced(parcel, parcel.traceparent)
        level = logging.DEBUG if outcome.delivered else logging.INFO
        if log.isEnabledFor(level):
            told = {"status": outcome.status, "error": outcome.error, "channel": parcel.channel}
            log.log(level, "delivery_attempt", extra=_about(parcel) | told)
        return outcome

    async def _traced(self, parcel: Parcel, cause: str) -> Outcome:
        about = _about(parcel)
        name = f"webhook POST {about['server.address']}" if parcel.channel == "webhook" else f"{parcel.channel} send"
        with span_from(cause, "notifier", name, kind=SpanKind.CLIENT, **about) as span:
            outcome = await self._sent(parcel)
            span.set_attributes({"http.response.status_code": outcome.status or 0, "delivered": outcome.delivered})
        return outcome

    async def _sent(self, parcel: Parcel) -> Outcome:
        try:
            return await self._mail.send(parcel)
        except Exception as fault:  # a fault of ours: the attempt still ends, is seen, and is not repeated for ever
            log.exception("delivery_broke", extra={"delivery": parcel.delivery})
            return Outcome(error=f"Finery could not send it: {type(fault).__name__}")

    def _landed(self, flight: asyncio.Task[None]) -> None:
        parcel, _ = self._flights.pop(flight)
        if not flight.cancelled() and flight.exception() is not None:
            log.error("attempt_broke", extra={"delivery": parcel.delivery, "error": repr(flight.exception())})
        self._busy[parcel.endpoint] -= 1
        self._free += 1  # too many for one that was late, until the next turn counts again
        if self._ready and not self._stopping:
            self._start()
        worth_it = AHEAD // 2 * self._lanes.places
        if len(self._ready) < self._lanes.places or len(self._ended) >= worth_it:
            self.wake()
        elif self._soon is None:
            self._soon = asyncio.get_running_loop().call_later(SETTLE_S, self.wake)


def _about(parcel: Parcel) -> dict[str, str | int]:
    host = urlsplit(parcel.endpoint).hostname or ""
    return {"server.address": host, "delivery": parcel.delivery, "attempt": parcel.number}


class _Terms(NamedTuple):
    """What all deliveries of one purpose for one subscription share."""

    purpose: Purpose
    refusal: str | None
    secrets: tuple[str, ...]
    unsubscribe_url: str


def _parcels(rows: Sequence[tuple[Due, Addressee]], public_url: str, now: datetime) -> list[Parcel]:
    known, parcels = dict[tuple[str, str], _Terms](), list[Parcel]()
    for due, to in rows:
        terms = known.get((to.id, due.purpose))
        if terms is None:
            terms = known[to.id, due.purpose] = _terms(Purpose(due.purpose), to, public_url, now)
        parcels.append(Parcel(
            delivery=due.id, version=due.version, number=due.attempts + 1, channel=due.channel, purpose=terms.purpose,
            event_id=due.event_id, url=to.url, endpoint=due.endpoint, subject=due.subject or "",
            content_type=due.content_type or "application/cloudevents+json", body=due.body, secrets=terms.secrets,
            unsubscribe_url=terms.unsubscribe_url, traceparent=due.traceparent, refusal=terms.refusal,
        ))  # fmt: skip
    return parcels


def _terms(purpose: Purpose, to: Addressee, public_url: str, now: datetime) -> _Terms:
    refusal = domain.refusal(purpose, SubscriptionState(to.state), confirm_until=to.confirm_until, now=now)
    secrets = tuple(domain.live_secrets(to.secret, to.retiring, now))
    return _Terms(purpose, refusal, secrets, links.unsubscribe_url(public_url, to.id, to.link_key))


__all__ = ["Courier", "Mail", "Parcel"]
