"""Carries what is due: one loop that sleeps until the next delivery's turn and starts attempts side by side.

The table is the truth: an attempt is taken with a lease, sent outside any transaction, and settled under a version
check, so several replicas may run and any may be killed. It refuses to let one endpoint take the others' place.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Protocol
from urllib.parse import urlsplit

from opentelemetry.trace import SpanKind

from finery_contracts.notifications import SubscriptionState
from finery_kit.db import Database, Transaction
from finery_kit.telemetry import span_from
from finery_notifier import domain, store
from finery_notifier.domain import Outcome, Purpose, Settled
from finery_notifier.handlers import on_agreed, on_died, on_gone
from finery_notifier.store import DeliveryRow, SubscriptionRow

log = logging.getLogger("finery.notifier")
PER_ENDPOINT = 4
POLL_S = 5.0
DRAIN_S = 5.0


@dataclass(frozen=True)
class Parcel:
    """One attempt at a delivery. ``refusal``: why it must not be sent any more."""

    delivery: str
    version: int
    number: int
    purpose: Purpose
    event_id: str
    url: str
    endpoint: str
    body: bytes = field(repr=False)
    secret: str = field(repr=False)
    traceparent: str | None
    refusal: str | None


class Mail(Protocol):
    """The way out."""

    async def send(self, parcel: Parcel) -> Outcome:
        """Try once; every fault of the other side is an outcome, not an exception."""
        ...


class Courier:
    """The scheduler of deliveries. ``lease_s`` is longer than any attempt."""

    def __init__(
        self, database: Database, mail: Mail, *, schedule_s: Sequence[float], concurrency: int, lease_s: float,
        wake_relay: Callable[[], None],
    ) -> None:  # fmt: skip
        self._database, self._mail, self._wake_relay = database, mail, wake_relay
        self._schedule_s, self._concurrency, self._lease_s = tuple(schedule_s), concurrency, lease_s
        self._wake = asyncio.Event()
        self._flights: dict[asyncio.Task[None], Parcel] = {}
        self._stopping = False

    def wake(self) -> None:
        """Something became due; call it in the event loop."""
        self._wake.set()

    async def run(self) -> None:
        """Until stopped: start what is due, sleep until the next turn."""
        while not self._stopping:
            self._wake.clear()
            wait_s = await self.start_due()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._wake.wait(), wait_s)

    async def start_due(self) -> float:
        """Start attempts as far as there is room; the answer is how long nothing else is due, in seconds."""
        in_flight = Counter(parcel.endpoint for parcel in self._flights.values())
        room = self._concurrency - len(self._flights)
        if room <= 0:
            return POLL_S
        parcels, wait_s = await self._database.write(lambda tx: self._claim(tx, room, in_flight))
        for parcel in parcels:
            flight = asyncio.create_task(self._attempt(parcel), name=f"webhook:{parcel.delivery}")
            self._flights[flight] = parcel
            flight.add_done_callback(self._landed)
        return wait_s

    async def landed(self) -> None:
        """Wait until all attempts under way are settled."""
        while self._flights:
            await asyncio.wait(set(self._flights))

    async def drain(self) -> None:
        """Take nothing new, let attempts finish for a moment, hand back the rest to whoever comes next."""
        self._stopping = True
        self.wake()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self.landed(), DRAIN_S)
        left = {parcel.delivery: parcel.version for parcel in self._flights.values()}
        flights = list(self._flights)
        for flight in flights:
            flight.cancel()
        await asyncio.gather(*flights, return_exceptions=True)
        if left:
            await self._database.write(lambda tx: store.give_back(tx, left))

    def _claim(self, tx: Transaction, room: int, in_flight: Counter[str]) -> tuple[list[Parcel], float]:
        rows = store.claim_due(tx, room=room, in_flight=in_flight, per_endpoint=PER_ENDPOINT, lease_s=self._lease_s)
        parcels = [_parcel(tx, delivery, subscription) for delivery, subscription in rows]
        if len(parcels) == room:
            return parcels, POLL_S
        busy = in_flight + Counter(parcel.endpoint for parcel in parcels)
        due = store.next_due(tx, in_flight=busy, per_endpoint=PER_ENDPOINT)
        return parcels, min(POLL_S, max(0.01, (due - tx.now).total_seconds())) if due else POLL_S

    async def _attempt(self, parcel: Parcel) -> None:
        outcome = Outcome(error=parcel.refusal) if parcel.refusal else await self._send(parcel)
        said = await self._database.write(lambda tx: self._settle(tx, parcel, outcome))
        if said:
            self._wake_relay()

    async def _send(self, parcel: Parcel) -> Outcome:
        host = urlsplit(parcel.endpoint).hostname or ""
        about = {"server.address": host, "delivery": parcel.delivery, "attempt": parcel.number}
        with span_from(parcel.traceparent, "notifier", f"webhook POST {host}", kind=SpanKind.CLIENT, **about) as span:
            outcome = await self._mail.send(parcel)
            span.set_attributes({"http.response.status_code": outcome.status or 0, "delivered": outcome.delivered})
        log.info("webhook_attempt", extra=about | {"status": outcome.status, "error": outcome.error})
        return outcome

    def _settle(self, tx: Transaction, parcel: Parcel, outcome: Outcome) -> bool:
        """Apply what came of an attempt; True when a fact was said. One that was overtaken changes nothing."""
        delivery = tx.session.get(DeliveryRow, parcel.delivery)
        if delivery is None or delivery.version != parcel.version:
            return False
        subscription = tx.session.get_one(SubscriptionRow, delivery.subscription_id)

        settled = self._decide(parcel, outcome, tx.now)

        delivery.state, delivery.due_at, delivery.last_error = settled.state, settled.due_at, settled.error
        delivery.version, delivery.last_status = parcel.version + 1, outcome.status
        delivery.attempts += 0 if parcel.refusal else 1
        if settled.state == "delivered":
            delivery.delivered_at = tx.now
        if outcome.agreed and subscription.state == SubscriptionState.PENDING:
            on_agreed(tx, subscription)
        if outcome.status == domain.GONE:
            on_gone(tx, subscription)
        if settled.state == "dead":
            on_died(tx, delivery)
        return outcome.agreed or settled.state == "dead"

    def _decide(self, parcel: Parcel, outcome: Outcome, now: datetime) -> Settled:
        if parcel.refusal is not None:
            return Settled("dead", now, f"not sent: {parcel.refusal}")
        return domain.settle(
            outcome, attempts=parcel.number, schedule_s=self._schedule_s, now=now, jitter=random.random()
        )

    def _landed(self, flight: asyncio.Task[None]) -> None:
        parcel = self._flights.pop(flight)
        if not flight.cancelled() and flight.exception() is not None:
            log.error("delivery_unsettled", extra={"delivery": parcel.delivery, "error": repr(flight.exception())})
        self.wake()


def _parcel(tx: Transaction, delivery: DeliveryRow, subscription: SubscriptionRow) -> Parcel:
    purpose = Purpose(delivery.purpose)
    refusal = domain.refusal(
        purpose, SubscriptionState(subscription.state), confirm_until=subscription.confirm_until, now=tx.now
    )
    return Parcel(
        delivery=delivery.id, version=delivery.version, number=delivery.attempts + 1, purpose=purpose,
        event_id=delivery.event_id, url=subscription.url, endpoint=delivery.endpoint, body=delivery.body,
        secret=subscription.secret, traceparent=delivery.traceparent, refusal=refusal,
    )  # fmt: skip
