"""``--seeds N``: so many seeds, then every mutant; the last line counts. ``--seed N --trace``: one, line by line."""

from __future__ import annotations

import argparse
import multiprocessing
import sys
import time

from tests.simulation.campaign import hunt, violations
from tests.simulation.domains import planted
from tests.simulation.mutants import mutants
from tests.simulation.run import simulate

SHOWN = 5


def main() -> int:
    """The exit status."""
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description=__doc__)
    parser.add_argument("--seeds", type=int, default=1000, help="how many, from --first on")
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--seed", type=int, help="only this one")
    parser.add_argument("--trace", action="store_true", help="with --seed: print everything that happens")
    parser.add_argument("--mutant", help="with --seed: plant this fault")
    parser.add_argument("--jobs", type=int, default=multiprocessing.cpu_count())
    given = parser.parse_args()
    if given.seed is not None:
        return show(given.seed, given.mutant, whole=given.trace)
    return many(given.first, given.seeds, given.jobs)


def show(seed: int, name: str | None, *, whole: bool) -> int:
    """One seed."""
    chosen = next((mutant for mutant in mutants() if mutant.name == name), None)
    result = simulate(seed, planted(chosen) if chosen is not None else None, keep=True)
    if whole or result.violation:
        print("\n".join(result.lines))
    print(f"seed={seed} digest={result.digest} violation={result.violation}")
    return 1 if result.violation else 0


def many(first: int, seeds: int, jobs: int) -> int:
    """Many seeds on the real domains, then every mutant."""
    began = time.monotonic()
    failed = violations(range(first, first + seeds), jobs=jobs)
    took_s = time.monotonic() - began
    hunted = hunt(list(mutants()), jobs=jobs)
    for result in failed[:SHOWN]:
        print(f"\nseed {result.seed}: {result.violation}")
        print("\n".join(simulate(result.seed, keep=True).lines))
    for mutant, seed in hunted.items():
        print(f"mutant {mutant.module}.{mutant.name}: {'NOT FOUND' if seed is None else f'found by seed {seed}'}")
    found = sum(1 for seed in hunted.values() if seed is not None)
    print(f"{seeds} seeds in {took_s:.1f} s, mutants in {time.monotonic() - began - took_s:.1f} s, {jobs} processes")
    print(f"simulate seeds={seeds} violations={len(failed)} mutants={len(hunted)} found={found}")
    return 0 if not failed and found == len(hunted) else 1


if __name__ == "__main__":
    sys.exit(main())
