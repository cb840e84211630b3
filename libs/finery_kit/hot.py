"""The hot path of facts: taken many at a time, parsed once, applied in one transaction, acknowledged together.

For services whose work is bounded by how many facts they hear (meter, projections, deliveries); the table of routes is
the same as elsewhere. One bad fact hurts no other: when a batch fails, its facts are taken one by one. It refuses to
promise more than the ordinary path does: at least once, applied once, in the order in which the stream has them.
"""

# nats-py leaves parts of its interface untyped.
# pyright: reportUnknownMemberType=false
from __future__ import annotations

import asyncio
import gc
import logging
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any, NamedTuple

from nats.aio.msg import Msg
from pydantic import ValidationError

from finery_contracts.envelope import Event
from finery_contracts.registry import UnknownEventType, parse_at, place_of
from finery_contracts.streams import consumer_of, redo_subject
from finery_kit.db import Transaction
from finery_kit.dead import headers_of, subject_of
from finery_kit.inbox import first_sights
from finery_kit.pull import Pull
from finery_kit.redelivery import attend, give_up, through_outages
from finery_kit.service import Service
from finery_kit.telemetry import batch_span

log = logging.getLogger("finery.bus")
BATCH, AHEAD = 1000, 1
GC_THRESHOLD = 50_000


class Heard(NamedTuple):
    """A fact, and the very bytes it came in."""

    event: Event
    body: bytes


@dataclass(frozen=True)
class Together:
    """A row of ROUTES whose handler takes facts that came one after the other at once: ``(transaction, [event, …])``.

    ``with_bytes``: it gets ``Heard`` instead of the event. What it emits names the cause itself
    (``traceparent=event.traceparent``): many causes share the call.
    """

    handler: Callable[[Transaction, list[Any]], None]
    with_bytes: bool = False


Handler = Callable[[Transaction, Any], None]
HotRoutes = Mapping[type[Event], Handler | Together]


class Taken(NamedTuple):
    """A fact at hand: how it came, and who takes it."""

    message: Msg
    event: Event
    route: Handler | Together


def listen_in_batches(
    service: Service, durable: str, routes: HotRoutes, *, after: Callable[[], None] | None = None
) -> HotConsumer:
    """Attach a service's table of facts to its durable consumer. ``after`` runs when a change was committed."""
    consumer = HotConsumer(service, durable, routes, after)
    service.loops.append(consumer.run)
    return consumer


class HotConsumer:
    """One durable consumer's reader."""

    def __init__(
        self, service: Service, durable: str, routes: HotRoutes, after: Callable[[], None] | None = None
    ) -> None:
        found = consumer_of(durable)
        if found is None or service.database is None:
            raise ValueError(f"{service.name}: {durable} is no declared consumer, or the service has no database")
        self._stream, self._database = found[0].name, service.database
        self._service, self._durable, self._routes, self._after = service, durable, routes, after
        self._places = {place_of(kind.filter_subject()) for kind in routes}
        self._redo = redo_subject(durable)
        self._pull: Pull | None = None
        self._at_hand = deque[list[Taken]]()  # read, and not settled yet

    async def run(self) -> None:
        """Until cancelled. While a batch is being committed the next ones are read."""
        calm_the_garbage_collector()
        self._at_hand.clear()  # what a run that broke had read comes again
        ready = asyncio.Queue[list[Taken]](maxsize=AHEAD)
        async with (
            Pull(self._service.client, self._stream, self._durable, batch=BATCH) as self._pull,
            asyncio.TaskGroup() as group,
        ):
            group.create_task(self._settle_all(ready), name=f"settle:{self._durable}")
            while True:
                facts = await self._read_all(await self._pull.messages())
                self._at_hand.append(facts)
                await ready.put(facts)

    async def _settle_all(self, ready: asyncio.Queue[list[Taken]]) -> None:
        while True:
            await self._settle(await ready.get())
            self._at_hand.popleft()

    async def _read_all(self, messages: Sequence[Msg]) -> list[Taken]:
        """Those that have a route. By the subject alone, unread: what has none, and what was said again to others."""
        facts: list[Taken] = []
        for message in messages:
            place = self._redone(message) if message.subject == self._redo else place_of(message.subject)
            if place not in self._places:
                await message.ack()
                continue
            try:
                event = parse_at(place, message.data)
            except UnknownEventType:
                await message.ack()
            except (ValidationError, UnicodeDecodeError) as fault:
                await give_up(self._service.client, message, self._durable, fault)
            else:
                facts.append(Taken(message, event, self._routes[type(event)]))
        return facts

    @staticmethod
    def _redone(message: Msg) -> str:
        return place_of(subject_of(message))

    async def _settle(self, facts: list[Taken]) -> None:
        async def apply_all() -> None:
            await self._apply(facts)

        if not facts:
            return
        try:
            await through_outages(lambda: self._held(facts), self._durable, apply_all)
        except asyncio.CancelledError:
            raise
        except Exception as fault:
            if len(facts) > 1:
                log.warning("batch_taken_apart", extra={"durable": self._durable, "facts": len(facts)})
            for fact in facts:
                await self._settle_one(fact, fault if len(facts) == 1 else None)

    def _held(self, facts: Sequence[Taken]) -> list[Msg]:
        held = {id(fact.message): fact.message for some in (facts, *self._at_hand) for fact in some}
        return [*held.values(), *(self._pull.waiting if self._pull is not None else ())]

    async def _settle_one(self, fact: Taken, failed: Exception | None) -> None:
        async def apply_it() -> None:
            if failed is not None:
                raise failed
            await self._apply([fact])

        await attend(self._service.client, fact.message, self._durable, apply_it)

    async def _apply(self, facts: list[Taken]) -> None:
        causes = [(_cause(fact), fact.event.subject) for fact in facts]
        name = f"process {facts[0].event.type}" if len(facts) == 1 else "process facts"
        with batch_span(self._service.name, name, causes):
            applied = await self._database.write(lambda tx: apply_batch(tx, facts))
        for fact in facts:
            await fact.message.ack()
        if applied and self._after is not None:
            self._after()


def calm_the_garbage_collector() -> None:
    """A batch of parsed facts is tens of thousands of objects, none of them in a cycle. At its ordinary thresholds the
    collector looked through the whole process again and again for them and took half of the time (measured)."""
    gc.freeze()  # what the start made stays anyway
    gc.set_threshold(max(GC_THRESHOLD, gc.get_threshold()[0]), 20, 100)


def _cause(fact: Taken) -> str | None:
    return headers_of(fact.message).get("traceparent") or fact.event.traceparent


def apply_batch(tx: Transaction, facts: Sequence[Taken]) -> int:
    """Those that were not seen here, in their order, by their handlers; how many they were."""
    new = {id(event) for event in first_sights(tx, [fact.event for fact in facts])}
    unseen = [fact for fact in facts if id(fact.event) in new]
    for route, run in _runs(unseen):
        if not isinstance(route, Together):
            for fact in run:
                route(tx, fact.event)
        elif route.with_bytes:
            route.handler(tx, [Heard(fact.event, fact.message.data) for fact in run])
        else:
            route.handler(tx, [fact.event for fact in run])
    return len(unseen)


def _runs(facts: Sequence[Taken]) -> Iterator[tuple[Handler | Together, list[Taken]]]:
    """Neighbours with the same handler, so that the order of the stream is kept."""
    for _, run in groupby(facts, key=lambda fact: id(fact.route)):
        neighbours = list(run)
        yield neighbours[0].route, neighbours
