"""How many attempts an endpoint may have under way, so that one that hangs never takes the others' places. Pure.

An endpoint that answers quickly earns room, one that does not loses it: it may have one attempt at a time, in a lane of
its own that all slow endpoints share. What is known here is a replica's own and is forgotten with it.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import NamedTuple

SLOW_AFTER_S = 1.0
FIRST, REMEMBERED = 4, 10_000


class Flight(NamedTuple):
    """An attempt under way, for so long."""

    endpoint: str
    age_s: float


@dataclass(frozen=True)
class Room:
    """What may be started now: so many, but none at the ``closed`` endpoints."""

    free: int
    busy: Counter[str]
    closed: frozenset[str]


@dataclass
class Lanes:
    """``places`` in the main lane, half as many beside it for the slow; at most ``most`` for one endpoint."""

    places: int
    most: int
    _limits: OrderedDict[str, int] = field(default_factory=OrderedDict[str, int])
    _slow: OrderedDict[str, None] = field(default_factory=OrderedDict[str, None])

    @property
    def slow_places(self) -> int:
        """Of the lane for the slow."""
        return max(1, self.places // 2)

    def limit(self, endpoint: str) -> int:
        """How many attempts it may have under way."""
        return 1 if endpoint in self._slow else min(self.most, self._limits.get(endpoint, min(FIRST, self.most)))

    def ahead(self, endpoint: str) -> int:
        """How many deliveries for it may be at hand: those under way and as many that wait for their places."""
        return self.limit(endpoint) * (1 if endpoint in self._slow else 2)

    def room(self, flights: Iterable[Flight]) -> Room:
        """What may be started beside what is under way. Whoever is late is slow from now on."""
        busy, slow = Counter[str](), 0
        known = list(flights)
        for flight in known:
            if flight.age_s >= SLOW_AFTER_S:
                self._remember_slow(flight.endpoint)
        for flight in known:
            busy[flight.endpoint] += 1
            slow += flight.endpoint in self._slow
        aside = min(slow, self.slow_places)
        free = self.places - (len(known) - aside)
        closed = frozenset(self._slow) if slow >= self.slow_places else frozenset(self._slow.keys() & busy.keys())
        return Room(max(0, free), busy, closed)

    def landed(self, endpoint: str, *, took_s: float, answered: bool) -> None:
        """An attempt ended."""
        if took_s >= SLOW_AFTER_S:
            self._remember_slow(endpoint)
            self._limits.pop(endpoint, None)
            return
        if not answered:
            self._limits.pop(endpoint, None)
            return
        self._slow.pop(endpoint, None)
        self._limits[endpoint] = min(self.most, self._limits.get(endpoint, FIRST) + 1)
        self._limits.move_to_end(endpoint)
        if len(self._limits) > REMEMBERED:
            self._limits.popitem(last=False)

    def _remember_slow(self, endpoint: str) -> None:
        self._slow[endpoint] = None
        self._slow.move_to_end(endpoint)
        if len(self._slow) > REMEMBERED:
            self._slow.popitem(last=False)
