"""How long an engine's steps take and for how long there was none, by a monotonic clock. The studio judges it."""

from __future__ import annotations

import statistics
import time
from collections import deque
from collections.abc import Callable

REMEMBERED = 50
ENOUGH = 5


class Pace:
    """The rhythm of one attempt."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._seen: tuple[object, ...] = ()
        self._step: tuple[int, float] | None = None
        self._moved_at = clock()
        self._steps_s: deque[float] = deque(maxlen=REMEMBERED)

    def seen(self, phase: str, step: int, message: str | None) -> None:
        """A picture came; one that differs from the last is progress, one step more is measured."""
        now = self._clock()
        if (phase, step, message) != self._seen:
            self._seen, self._moved_at = (phase, step, message), now
        if self._step is None or step < self._step[0]:
            self._step = (step, now)
        elif step > self._step[0]:
            before, at = self._step
            self._steps_s.append((now - at) / (step - before))
            self._step = (step, now)

    @property
    def quiet_s(self) -> float:
        """Seconds without progress."""
        return self._clock() - self._moved_at

    @property
    def median_step_s(self) -> float | None:
        """Of the newest fifty steps; None before there are five."""
        return statistics.median(self._steps_s) if len(self._steps_s) >= ENOUGH else None
