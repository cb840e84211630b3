"""``make chaos [KILLS=1000] [SEED=…] [DATABASE=sqlite]``: one long run on each database; the last line says it all."""

from __future__ import annotations

import argparse
import asyncio
import random
import sys
import tempfile
from pathlib import Path

from tests.chaos.checker import Verdict
from tests.chaos.run import Outcome, Plan, chaos

TASKS_PER_KILL = 3


def main() -> int:
    """0 when nothing is wrong."""
    asked = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    asked.add_argument("--kills", type=int, default=1000)
    asked.add_argument("--seed", type=int, default=random.SystemRandom().randrange(10**6))
    asked.add_argument("--database", choices=["sqlite", "postgres", "both"], default="both")
    said = asked.parse_args()
    databases = ["sqlite", "postgres"] if said.database == "both" else [said.database]
    kills = max(1, said.kills // len(databases))
    outcomes = list[Outcome]()
    for database in databases:
        plan = Plan(database, said.seed, kills, kills * TASKS_PER_KILL)
        with tempfile.TemporaryDirectory(prefix="finery-chaos-") as folder:
            outcome = asyncio.run(chaos(plan, Path(folder), lambda words: print(words, flush=True)))
        for words in outcome.verdict.faults:
            print(words)
        print(f"{database}: all quiet {outcome.settled_s:.1f} s after the last fault")
        outcomes.append(outcome)
    whole = Verdict()
    for outcome in outcomes:
        for name in ("lost", "doubled", "stuck", "misbilled"):
            getattr(whole, name).extend(getattr(outcome.verdict, name))
    print(Outcome(whole, sum(o.kills for o in outcomes), sum(o.tasks for o in outcomes), 0).line())
    return 0 if whole.good else 1


if __name__ == "__main__":
    sys.exit(main())
