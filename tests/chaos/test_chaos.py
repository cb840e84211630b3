"""A short run of chaos on each database. ``make chaos`` is the long one; SEED= repeats a schedule."""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest

from tests.chaos.run import Kind, Plan, chaos

KILLS, TASKS = 30, 110


@pytest.mark.timeout(600)
@pytest.mark.parametrize("database", ["sqlite", "postgres"])
async def test_nothing_is_lost_doubled_stuck_or_misbilled(database: Kind, tmp_path: Path) -> None:
    seed = int(os.environ.get("SEED", "0")) or random.SystemRandom().randrange(1, 10**6)

    outcome = await chaos(Plan(database, seed, KILLS, TASKS), tmp_path, print)

    assert outcome.verdict.good, "\n".join([f"SEED={seed}", *outcome.verdict.faults])
    assert outcome.kills >= KILLS * 2 // 3
    assert outcome.tasks >= TASKS
    print(outcome.line())
