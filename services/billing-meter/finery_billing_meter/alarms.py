"""The billing meter's clock: one loop that sleeps until something in its own tables is due.

No deadline depends on the bus: what is due is written with its fact, and told when the bus is there. Several replicas
may run; the rows decide who says what.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

from sqlmodel import Session

from finery_kit.db import Database, Transaction

LONGEST_S = 30.0  # the wall clock may be set
SHORTEST_S = 0.02


@dataclass(frozen=True)
class Alarm:
    """Something that becomes due: when the next one does, and what is done then (how many there were)."""

    next_at: Callable[[Session], datetime | None]
    ring: Callable[[Transaction], int]


class Alarms:
    """All alarms of the service."""

    def __init__(self, database: Database, alarms: list[Alarm], after: Callable[[], None]) -> None:
        self._database, self._alarms, self._after = database, alarms, after
        self._wake = asyncio.Event()

    def wake(self) -> None:
        """Something changed; call it in the event loop."""
        self._wake.set()

    async def run(self) -> None:
        """Until cancelled: do what is due, sleep until the next time."""
        while True:
            self._wake.clear()
            next_at = await self.ring()
            wait_s = LONGEST_S
            if next_at is not None:
                wait_s = min(LONGEST_S, max(SHORTEST_S, (next_at - self._database.now()).total_seconds()))
            # Not wait_for: before Python 3.12 it loses a cancellation that meets the end of the wait.
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(wait_s):
                    await self._wake.wait()

    async def ring(self) -> datetime | None:
        """Do all that is due by now; when the next thing is."""
        upcoming: list[datetime] = []
        for alarm in self._alarms:
            next_at = await self._database.read(alarm.next_at)
            while next_at is not None and next_at <= self._database.now():
                if await self._database.write(alarm.ring) == 0:
                    break  # another replica has them at hand
                self._after()
                next_at = await self._database.read(alarm.next_at)
            if next_at is not None:
                upcoming.append(next_at)
        return min(upcoming, default=None)
