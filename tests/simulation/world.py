"""Time, chance and the record of one run. Everything that happens is drawn from one seeded generator and one heap.

It refuses the real clock: two runs of a seed make the same trace, to the byte.
"""

from __future__ import annotations

import hashlib
import heapq
import random
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

START = datetime(2026, 1, 31, 23, 58, tzinfo=UTC)
SECOND = 1_000_000


class Violation(Exception):
    """Something that must never be."""


class World:
    """Virtual time in whole microseconds since ``START``; ``quiet_us`` is when the last fault may begin."""

    def __init__(self, seed: int, *, faults_s: float, keep: bool) -> None:
        self.seed = seed
        self.rng = random.Random(seed)
        self.us = 0
        self.quiet_us = int(faults_s * SECOND)
        self.disturbed_until_us = 0
        self.lines: list[str] = []
        self._keep = keep
        self._heap: list[tuple[int, int, Callable[..., None], tuple[Any, ...]]] = []
        self._count = 0
        self._digest = hashlib.blake2b(digest_size=16)
        self.steps = 0

    @property
    def now(self) -> datetime:
        """The moment, as a service's clock shows it."""
        return START + timedelta(microseconds=self.us)

    @property
    def digest(self) -> str:
        """Of all that was traced so far."""
        return self._digest.hexdigest()

    @property
    def faulty(self) -> bool:
        """Whether faults may still begin."""
        return self.us < self.quiet_us

    def after(self, delay_s: float, do: Callable[..., None], *given: Any) -> None:
        """Do it so much later."""
        self._count += 1
        heapq.heappush(self._heap, (self.us + max(0, round(delay_s * SECOND)), self._count, do, given))

    def fault(self, chance: float, lasts_s: float = 0.0) -> bool:
        """Whether a fault of this chance strikes now; how long it is felt is remembered."""
        if not self.faulty or self.rng.random() >= chance:
            return False
        self.disturb(lasts_s)
        return True

    def disturb(self, lasts_s: float) -> None:
        """Something is not as it should be for so long."""
        self.disturbed_until_us = max(self.disturbed_until_us, self.us + round(lasts_s * SECOND))

    def calm_for_s(self) -> float:
        """How long nothing has been disturbed."""
        return (self.us - self.disturbed_until_us) / SECOND

    def between(self, low: float, high: float) -> float:
        """A number from there."""
        return low + (high - low) * self.rng.random()

    def trace(self, text: str) -> None:
        """Write it down."""
        line = f"{self.us / SECOND:12.6f} {text}"
        self._digest.update(line.encode())
        if self._keep:
            self.lines.append(line)

    def step(self) -> bool:
        """The next thing happens; False when nothing is left to happen."""
        if not self._heap:
            return False
        self.us, _, do, given = heapq.heappop(self._heap)
        self.steps += 1
        do(*given)
        return True
