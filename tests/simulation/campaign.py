"""Many seeds and all mutants, spread over processes. It refuses to stop at the first find."""

from __future__ import annotations

import multiprocessing
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor

from tests.simulation.domains import Mutant, planted
from tests.simulation.run import Result, simulate

SEEDS_FOR_A_MUTANT = 400


def violations(seeds: range, *, jobs: int) -> list[Result]:
    """Of the real domains: the seeds that failed."""
    with _pool(jobs) as pool:
        return [result for result in pool.map(simulate, seeds, chunksize=20) if result.violation]


def hunt(mutants: Sequence[Mutant], *, jobs: int, most: int = SEEDS_FOR_A_MUTANT) -> dict[Mutant, int | None]:
    """For each the first seed that finds it, among so many."""
    with _pool(jobs) as pool:
        return dict(zip(mutants, pool.map(_find, mutants, [most] * len(mutants)), strict=True))


def _find(mutant: Mutant, most: int) -> int | None:
    domains = planted(mutant)
    return next((seed for seed in range(most) if simulate(seed, domains).violation), None)


def _pool(jobs: int) -> ProcessPoolExecutor:
    return ProcessPoolExecutor(jobs, multiprocessing.get_context("spawn"))
