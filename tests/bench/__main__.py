"""``make bench [NAME=…]``: one line a figure, last of all.

bench <name> <median> (<min>–<max>) goal <goal> ok|short
"""

from __future__ import annotations

import statistics
import sys
from collections.abc import Callable
from dataclasses import dataclass

from tests.bench import admission, commit, hot, ingest, meter, neardup, submit, up, webhooks, weights


@dataclass(frozen=True)
class Figure:
    """What a benchmark measured; smaller is better, unless the goal is a floor."""

    name: str
    values: list[float]
    goal: float
    floor: bool = False

    def line(self) -> str:
        """The line that is printed."""
        median = statistics.median(self.values)
        verdict = "ok" if (median >= self.goal if self.floor else median <= self.goal) else "short"
        low, high = min(self.values), max(self.values)
        return f"bench {self.name} {median:.4g} ({low:.4g}–{high:.4g}) goal {self.goal:g} {verdict}"


def _up() -> list[Figure]:
    ready, memory = up.measure()
    return [Figure("up_ready_s", ready, 3), Figure("up_memory_mb", memory, 400)]


def _submit() -> list[Figure]:
    p50, p99 = submit.measure()
    return [Figure("submit_to_engine_ms", p50, 100), Figure("submit_to_engine_ms_p99", p99, 300)]


def _hot() -> list[Figure]:
    return [Figure("event_handler_ratio", hot.measure(), 0.8, floor=True)]


def _commit() -> list[Figure]:
    return [Figure("commit_to_consumer_p99_ms", commit.measure(), commit.GOAL_MS)]


def _webhook_ratio() -> list[Figure]:
    return [Figure("webhook_ratio", webhooks.ratio(), 0.7, floor=True)]


def _webhook_isolation() -> list[Figure]:
    return [Figure("webhook_isolation", webhooks.isolation(), 1.2)]


def _meter() -> list[Figure]:
    return [Figure("meter_ratio", meter.measure(), 0.5, floor=True)]


def _neardup() -> list[Figure]:
    return [Figure("neardup_vs_rensa", neardup.measure(), neardup.GOAL, floor=True)]


def _admission() -> list[Figure]:
    decisions = admission.measure()
    p99 = decisions[int(len(decisions) * 0.99)]
    return [
        Figure("admission_decision_ms", decisions, admission.GOAL_MS),
        Figure("admission_decision_ms_p99", [p99], admission.GOAL_MS),
    ]


def _ingest_datasets() -> list[Figure]:
    return [Figure("ingest_vs_datasets", ingest.against_datasets(), 3, floor=True)]


def _ingest_msgspec() -> list[Figure]:
    return [Figure("ingest_vs_msgspec", ingest.against_msgspec(), 0.8, floor=True)]


def _ingest_memory() -> list[Figure]:
    return [Figure("ingest_memory_mb", ingest.memory_mb(), 600)]


def _weights_header() -> list[Figure]:
    return [Figure("weights_header_ms", weights.header_ms(), weights.HEADER_GOAL_MS)]


def _weights_full() -> list[Figure]:
    return [Figure("weights_full_vs_sha256", weights.full_vs_sha256(), weights.FULL_GOAL, floor=True)]


BENCHES: dict[str, Callable[[], list[Figure]]] = {
    "up_ready_s": _up,
    "up_memory_mb": _up,
    "submit_to_engine_ms": _submit,
    "event_handler_ratio": _hot,
    "commit_to_consumer_p99_ms": _commit,
    "admission_decision_ms": _admission,
    "meter_ratio": _meter,
    "neardup_vs_rensa": _neardup,
    "webhook_ratio": _webhook_ratio,
    "webhook_isolation": _webhook_isolation,
    "ingest_vs_datasets": _ingest_datasets,
    "ingest_vs_msgspec": _ingest_msgspec,
    "ingest_memory_mb": _ingest_memory,
    "weights_header_ms": _weights_header,
    "weights_full_vs_sha256": _weights_full,
}


def main(names: list[str]) -> int:
    """Run the named ones, or all."""
    unknown = [name for name in names if name not in BENCHES]
    if unknown:
        print(f"no benchmark {', '.join(unknown)}; there are {', '.join(BENCHES)}", file=sys.stderr)
        return 2
    chosen = list(dict.fromkeys(BENCHES[name] for name in names or BENCHES))
    figures = [figure for bench in chosen for figure in bench()]
    shown = [f for f in figures if not names or any(f.name.startswith(name) for name in names)]
    for figure in shown:
        print(figure.line())
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
