"""The simulator itself: a seed is a seed, the real domains hold, and every planted fault is found."""

from __future__ import annotations

import pytest

from tests.simulation.campaign import hunt, violations
from tests.simulation.domains import DoesNotApply, Mutant, planted, real
from tests.simulation.mutants import mutants
from tests.simulation.run import simulate

SEEDS = 150
JOBS = 2


def test_a_seed_reproduces_to_the_byte_and_another_is_another() -> None:
    first, again, other = simulate(7, keep=True), simulate(7, keep=True), simulate(8)

    assert first.digest == again.digest
    assert first.lines == again.lines
    assert first.steps == again.steps > 100
    assert other.digest != first.digest


def test_no_seed_shows_a_fault_of_the_domains() -> None:
    failed = violations(range(SEEDS), jobs=JOBS)

    assert {result.seed: result.violation for result in failed} == {}


def test_every_planted_fault_is_found() -> None:
    found = hunt(list(mutants()), jobs=JOBS)

    assert len(found) >= 30
    assert len({mutant.name for mutant in found}) == len(found)
    assert [mutant.name for mutant, seed in found.items() if seed is None] == []


def test_a_fault_that_no_longer_applies_stops_the_run_and_leaves_the_real_modules_alone() -> None:
    before = real()

    with pytest.raises(DoesNotApply, match="0 times"):
        planted(Mutant("stale", "tasks", "no such text anywhere", "x"))
    fresh = planted(next(mutants()))

    assert real() == before
    assert fresh.tasks is not before.tasks
    assert fresh.tasks.report is not before.tasks.report
