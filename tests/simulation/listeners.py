"""The notifier and the endpoints it calls, driven as its handlers and its courier drive the domain.

Endpoints fail, are away, ask to wait, go for good; who hears what, and when it is tried again, is judged by tables of
its own: Standard Webhooks' waits, and the patterns as the specification words them.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any

from finery_contracts.envelope import Event
from finery_contracts.notifications import SubscriptionState
from finery_contracts.tasks import NotifyChoice
from tests.simulation.domains import Domains
from tests.simulation.machinery import Bus, Crashed, Process, Tx
from tests.simulation.world import START, Violation, World

WAITS_S = (5, 5 * 60, 30 * 60, 2 * 3600, 5 * 3600, 10 * 3600, 14 * 3600, 20 * 3600, 24 * 3600)
JITTER = 0.1
LEASE_S = 30.0
TTL = timedelta(hours=24)


@dataclass
class Endpoint:
    """How one answers: so many failures of a kind first, then well; ``gone``: then 410; ``dead``: never well."""

    failures: int = 0
    status: int | None = 500
    retry_after_s: float | None = None
    gone: bool = False
    dead: bool = False


@dataclass(frozen=True)
class Subscription:
    """As it is stored."""

    id: str
    topic: str
    events: tuple[str, ...]
    state: SubscriptionState = SubscriptionState.PENDING
    confirmed_at: datetime | None = None


@dataclass(frozen=True)
class Delivery:
    """One fact on its way to one subscription."""

    id: str
    subscription: str
    event_id: str
    due_at: datetime
    state: str = "waiting"
    attempts: int = 0


class Notifier:
    """Topics ``all`` and ``mine``, some subscriptions, and the courier."""

    def __init__(self, world: World, bus: Bus, domains: Domains) -> None:
        self.world, self.domain = world, domains.notifier
        self.process = Process(world, bus, "notifier")
        self.process.on_restart = self._recover
        self.endpoints: dict[str, Endpoint] = {}
        self.heard: dict[str, set[str]] = {}
        self.facts: list[Event] = []
        self._tried: dict[str, tuple[int, datetime, float]] = {}
        self._gone: set[str] = set()
        bus.listen(self.process, lambda event: type(event).NOUN in ("task", "deployment", "package"), self.on_fact)

    def subscribe(self, subscription: Subscription, endpoint: Endpoint) -> None:
        """It waits for its owner's yes."""
        self.endpoints[subscription.id], self.heard[subscription.id] = endpoint, set()
        self.process.disk.setdefault("subscription", {})[subscription.id] = subscription

    def confirm(self, subscription_id: str) -> bool:
        """Its owner says yes; True when that was taken."""

        def work(tx: Tx) -> bool:
            row: Subscription = tx.get("subscription", subscription_id)
            question = self.domain.refusal(
                self.domain.Purpose.CONFIRMATION, row.state, confirm_until=START + TTL, now=tx.now
            )
            if question is not None:
                return True
            state = self.domain.move(row.state, SubscriptionState.CONFIRMED)
            tx.put("subscription", row.id, replace(row, state=state, confirmed_at=tx.now))
            return True

        return self.process.write(work)

    def on_fact(self, event: Event) -> None:
        """A fact from the bus becomes deliveries."""

        def work(tx: Tx) -> list[Delivery]:
            if not tx.first_sight(event):
                return []
            fact = _fact(event)
            topics = self.domain.topics_of(fact, _choice(event))
            made: list[Delivery] = []
            for row in self.process.disk.get("subscription", {}).values():
                late = row.confirmed_at is None or row.confirmed_at > event.time
                if row.state is not SubscriptionState.CONFIRMED or late or row.topic not in topics:
                    continue
                if self.domain.hears(row.events, fact):
                    made.append(Delivery(f"{event.id}>{row.id}", row.id, event.id, tx.now))
                    tx.put("delivery", made[-1].id, made[-1])
            return made

        for delivery in self.process.write(work):
            self._carry_at(delivery)

    # --- the courier --------------------------------------------------------------------------------------------

    def _carry_at(self, delivery: Delivery) -> None:
        wait_s = (delivery.due_at - self.world.now).total_seconds()
        self.world.after(wait_s, self._carry, delivery.id, self.process.epoch)

    def _recover(self) -> None:
        for delivery in self.process.disk.get("delivery", {}).values():
            if delivery.state == "waiting":
                self._carry_at(delivery)

    def _carry(self, delivery_id: str, epoch: int) -> None:
        """One attempt: it is persisted that it begins, then it is made, then what came of it is persisted."""
        if epoch != self.process.epoch or not self.process.up:
            return
        row: Delivery = self.process.disk["delivery"][delivery_id]
        if row.state != "waiting" or row.due_at > self.world.now:
            return
        try:
            self._attempt(row)
        except Crashed:
            return

    def _attempt(self, row: Delivery) -> None:
        to: Subscription = self.process.disk["subscription"][row.subscription]
        no = self.domain.refusal(self.domain.Purpose.FACT, to.state, confirm_until=START, now=self.world.now)
        self._must((no is None) == (str(to.state) == "confirmed"), f"{row.id}: {to.state} and {no}")
        if no is not None:
            self.process.write(lambda tx: tx.put("delivery", row.id, replace(row, state="dead")))
            return
        leased = replace(row, attempts=row.attempts + 1, due_at=self.world.now + timedelta(seconds=LEASE_S))
        self.process.write(lambda tx: tx.put("delivery", row.id, leased))
        self._check_wait(row)
        outcome = self._call(row)
        jitter = self.world.rng.random()
        settled = self.domain.settle(
            outcome, attempts=leased.attempts, schedule_s=WAITS_S, now=self.world.now, jitter=jitter
        )
        self._check_settled(row.id, leased.attempts, outcome, settled)

        def work(tx: Tx) -> None:
            tx.put("delivery", row.id, replace(leased, state=settled.state, due_at=settled.due_at))
            if outcome.status == 410:
                there: Subscription = tx.get("subscription", to.id)
                if there.state is not SubscriptionState.DISABLED:
                    gone = self.domain.move(there.state, SubscriptionState.DISABLED)
                    tx.put("subscription", to.id, replace(there, state=gone))

        self.process.write(work, committed=lambda _: self._remember(row, leased.attempts, outcome))
        if settled.state == "waiting":
            self._carry_at(replace(leased, due_at=settled.due_at))

    def _call(self, row: Delivery) -> Any:
        """The endpoint is called, and answers in its way."""
        to = self.process.disk["subscription"][row.subscription]
        self._must(to.confirmed_at is not None, f"{row.id} went to an endpoint that nobody confirmed")
        self._must(to.id not in self._gone, f"{row.id} went to an endpoint that is gone")
        point = self.endpoints[to.id]
        if point.dead or point.failures > 0:
            point.failures -= 1
            error = None if point.status is not None else "it did not answer"
            return self.domain.Outcome(point.status, error, point.retry_after_s)
        if point.gone:
            return self.domain.Outcome(status=410)
        self.heard[to.id].add(row.event_id)
        return self.domain.Outcome(status=self.world.rng.choice((200, 202, 204)))

    # --- what must hold -----------------------------------------------------------------------------------------

    def _remember(self, row: Delivery, number: int, outcome: Any) -> None:
        self._tried[row.id] = (number, self.world.now, outcome.retry_after_s or 0.0)
        if outcome.status == 410:
            self._gone.add(row.subscription)

    def _check_wait(self, row: Delivery) -> None:
        """Not sooner than the published wait after the attempt before, nor than the endpoint asked for."""
        if row.id not in self._tried or self._tried[row.id][0] != row.attempts:
            return
        number, at, asked_s = self._tried[row.id]
        waited_s = (self.world.now - at).total_seconds()
        self._must(waited_s >= WAITS_S[number - 1], f"{row.id}: attempt {number + 1} came after {waited_s} s")
        self._must(waited_s >= min(asked_s, 86_400), f"{row.id}: asked to wait {asked_s} s, it waited {waited_s} s")

    def _check_settled(self, delivery: str, number: int, outcome: Any, settled: Any) -> None:
        well = outcome.status is not None and outcome.status // 100 == 2
        gone = outcome.status == 410
        last = number == len(WAITS_S) + 1
        wanted = "delivered" if well else "dead" if gone or last else "waiting"
        self._must(settled.state == wanted, f"{delivery}: attempt {number}, {outcome} gives {settled.state}")
        if wanted == "waiting":
            wait_s = (settled.due_at - self.world.now).total_seconds()
            most_s = max(WAITS_S[number - 1] * (1 + JITTER), min(outcome.retry_after_s or 0.0, 86_400))
            self._must(wait_s <= most_s + 0.001, f"{delivery}: attempt {number + 1} in {wait_s} s, at most {most_s}")

    def nobody_was_forgotten(self, facts: list[Event]) -> None:
        """At the end: every confirmed subscriber heard every fact that it chose, and nothing else."""
        for row in self.process.disk.get("subscription", {}).values():
            point = self.endpoints[row.id]
            if row.confirmed_at is None:
                self._must(not self.heard[row.id], f"{row.id} was told though it is not confirmed")
                continue
            chosen = {event.id for event in facts if row.confirmed_at <= event.time and _chooses(row, event)}
            extra = self.heard[row.id] - chosen
            self._must(not extra, f"{row.id} heard {sorted(extra)}, which it did not choose")
            if not point.gone and not point.dead:
                missed = chosen - self.heard[row.id]
                self._must(not missed, f"{row.id} never heard {sorted(missed)}")

    def _must(self, holds: bool, otherwise: str) -> None:
        if not holds:
            raise Violation(otherwise)


def _fact(event: Event) -> str:
    return f"{type(event).NOUN}.{type(event).FACT}"


def _choice(event: Event) -> NotifyChoice | None:
    return getattr(event.data, "notify", None)


def _chooses(row: Subscription, event: Event) -> bool:
    """SPEC NO2 in other words: the topic that the noun chose for this fact, or ``all``; then the own filter."""
    choice = _choice(event)
    fact = _fact(event)
    mine = choice is not None and choice.topic == row.topic and _named(choice.events, fact)
    return (row.topic == "all" or mine) and _named(row.events, fact)


def _named(patterns: Any, fact: str) -> bool:
    noun = fact[: fact.index(".")]
    if not patterns:
        return True
    return bool({fact, fact[len(noun) + 1 :], noun + ".*"} & set(patterns))
