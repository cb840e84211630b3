"""How soon `finery up` answers on a fresh home, and what it holds before the first job."""

from __future__ import annotations

import time

from tests.bench.house import house

RUNS = 5
SETTLE_S = 2.0


def measure() -> tuple[list[float], list[float]]:
    """Seconds from the command to its ready line; megabytes of the process and its children two seconds later."""
    ready: list[float] = []
    memory: list[float] = []
    for _ in range(RUNS):
        with house() as running:
            ready.append(running.ready_s)
            time.sleep(SETTLE_S)
            memory.append(running.memory_mb)
    return ready, memory
