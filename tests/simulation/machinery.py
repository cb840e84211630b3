"""The bus and the disk, as small models: what a crash leaves, what is published when, what comes late or twice.

A process writes in transactions: rows and facts become durable together or not at all. Its relay publishes the facts in
order; a crash between publishing and remembering that publishes once more. The bus gives each fact to each listener at
least once, in any order.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from finery_contracts.envelope import Event
from finery_contracts.model import Record
from tests.simulation.world import World

T = TypeVar("T")
REDELIVER_S = 2.0
MISSING = object()


class Crashed(Exception):
    """The process died; what it had not committed is gone."""


class Tx:
    """Staged rows and facts of one transaction."""

    def __init__(self, process: Process) -> None:
        self.process = process
        self.now = process.world.now
        self._rows: dict[tuple[str, object], Any] = {}
        self._facts: list[Event] = []

    def get(self, table: str, key: object) -> Any:
        """A row, as this transaction sees it; None when there is none."""
        staged = self._rows.get((table, key), MISSING)
        return self.process.disk.get(table, {}).get(key) if staged is MISSING else staged

    def put(self, table: str, key: object, row: object) -> None:
        """Write a row; None removes it."""
        self._rows[table, key] = row

    def emit(self, kind: type[Event], noun_id: str, *, version: int, data: Record, project: str) -> Event:
        """Store a fact with the rows."""
        event = kind(
            id=self.process.next_event_id(), type=kind.type_name(), source=f"finery/{kind.SAID_BY}",
            subject=f"{kind.NOUN}/{noun_id}", time=self.now, project=project, nounversion=version, data=data,
        )  # fmt: skip
        self._facts.append(event)
        return event

    def first_sight(self, event: Event) -> bool:
        """The inbox: True the first time, remembered with the effect."""
        key = (type(event).NOUN, event.noun_id, event.nounversion)
        if self.get("inbox", key):
            return False
        self.put("inbox", key, True)
        return True

    def commit(self) -> list[Event]:
        """Make it durable, all of it."""
        for (table, key), row in self._rows.items():
            rows = self.process.disk.setdefault(table, {})
            if row is None:
                rows.pop(key, None)
            else:
                rows[key] = row
        self.process.outbox.extend(self._facts)
        return self._facts


class Process:
    """A service with a disk that survives it. ``published`` is durable; who waits for what is not."""

    def __init__(self, world: World, bus: Bus, name: str) -> None:
        self.world, self.bus, self.name = world, bus, name
        self.up, self.epoch = True, 0
        self.disk: dict[str, dict[Any, Any]] = {}
        self.outbox: list[Event] = []
        self.published = 0
        self.on_restart: Callable[[], None] = lambda: None
        self._relaying = False
        self._events = 0

    def next_event_id(self) -> str:
        """Unique; also for what is never committed."""
        self._events += 1
        return f"evt_{self.name}_{self._events}"

    def write(self, work: Callable[[Tx], T], *, committed: Callable[[list[Event]], None] | None = None) -> T:
        """One transaction.

        Raises:
            Crashed: before the commit, when nothing of it stays; or after it, before anybody hears of it.
        """
        if not self.up:
            raise Crashed
        tx = Tx(self)
        answer = work(tx)
        if self.world.fault(0.004, 8):
            self.crash("before commit")
            raise Crashed
        facts = tx.commit()
        for fact in facts:
            self.world.trace(f"{self.name} says {type(fact).NOUN}.{type(fact).FACT} {fact.noun_id} v{fact.nounversion}")
        if committed is not None:
            committed(facts)
        if self.world.fault(0.004, 8):
            self.crash("after commit")
            raise Crashed
        self.wake_relay()
        return answer

    def crash(self, where: str) -> None:
        """It dies and is started again some seconds later."""
        if not self.up:
            return
        down_s = self.world.between(0.5, 8)
        self.world.disturb(down_s + 1)
        self.up, self._relaying, self.epoch = False, False, self.epoch + 1
        self.world.trace(f"{self.name} dies {where}")
        self.world.after(down_s, self._restart, self.epoch)

    def wake_relay(self) -> None:
        """There may be something to publish."""
        if self.up and not self._relaying and self.published < len(self.outbox):
            self._relaying = True
            self.world.after(0.005, self._relay, self.epoch)

    def _restart(self, epoch: int) -> None:
        if epoch == self.epoch:
            self.up = True
            self.world.trace(f"{self.name} starts")
            self.wake_relay()
            self.on_restart()

    def _relay(self, epoch: int) -> None:
        if epoch != self.epoch or not self.up:
            return
        if self.published >= len(self.outbox):
            self._relaying = False
            return
        if not self.bus.publish(self.outbox[self.published]):
            self.world.after(0.5, self._relay, epoch)
            return
        if self.world.fault(0.01, 8):
            self.crash("between publishing and remembering it")
            return
        self.published += 1
        self.world.after(0.002, self._relay, epoch)


class Bus:
    """Streams and requests. While it is away nothing is taken and nothing arrives."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.away_until_us = 0
        self.on_the_way = 0
        self._listeners: list[tuple[Process, Callable[[Event], bool], Callable[[Event], None]]] = []
        self._stored: set[str] = set()

    @property
    def up(self) -> bool:
        """Whether it answers."""
        return self.world.us >= self.away_until_us

    def outage(self, lasts_s: float) -> None:
        """It is away for so long."""
        self.world.trace(f"bus away for {lasts_s:.3f} s")
        self.world.disturb(lasts_s + 3)
        self.away_until_us = self.world.us + round(lasts_s * 1e6)

    def listen(self, process: Process, wanted: Callable[[Event], bool], handler: Callable[[Event], None]) -> None:
        """A durable consumer."""
        self._listeners.append((process, wanted, handler))

    def publish(self, event: Event) -> bool:
        """Take a fact; a repeated id is usually noticed. False while it is away."""
        if not self.up:
            return False
        if event.id in self._stored and not self.world.fault(0.5):
            return True
        self._stored.add(event.id)
        for process, wanted, handler in self._listeners:
            if wanted(event):
                self.send(process, handler, event)
        return True

    def send(self, process: Process, handler: Callable[[Any], None], message: object) -> None:
        """Deliver until it was handled."""
        self.on_the_way += 1
        self.world.after(self._delay_s(), self._deliver, process, handler, message)

    def ask(
        self, process: Process, work: Callable[[], Any], answer: Callable[[Any], None], *, timeout_s: float
    ) -> None:
        """A request; ``answer`` hears None when there was none in time, though the work may have been done."""
        if not self.up or self.world.fault(0.01, 3):
            self.world.after(timeout_s, answer, None)
        else:
            self.world.after(self.world.between(0.001, 0.03), self._serve, process, work, answer, timeout_s)

    def _serve(
        self, process: Process, work: Callable[[], Any], answer: Callable[[Any], None], timeout_s: float
    ) -> None:
        try:
            given = work() if process.up and self.up else None
        except Crashed:
            given = None
        lost = self.world.fault(0.01, 3)
        waits_s = timeout_s if given is None or lost else self.world.between(0.001, 0.03)
        self.world.after(waits_s, answer, None if lost else given)

    def _deliver(self, process: Process, handler: Callable[[Any], None], message: object) -> None:
        handled = False
        if self.up and process.up:
            try:
                handler(message)
                handled = True
            except Crashed:
                pass
        if not handled:
            self.world.after(REDELIVER_S, self._deliver, process, handler, message)
        elif self.world.fault(0.06):
            self.world.after(self.world.between(0.01, 15), self._deliver, process, handler, message)
        else:
            self.on_the_way -= 1

    def _delay_s(self) -> float:
        if self.world.fault(0.12, 6):
            return self.world.between(0.1, 6)
        return self.world.between(0.001, 0.05)
