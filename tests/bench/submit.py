"""From the POST leaving the client to the engine at work, warm: HTTP, SQL, outbox, doorbell, claim, fork.

The end is the start of the engine's own span; both clocks are this machine's.
"""

from __future__ import annotations

import time

import httpx

from tests.bench.house import house

RUNS, EACH = 3, 40
RECORD = b'{"messages": [{"role": "user", "content": "hi %d"}, {"role": "assistant", "content": "hello"}]}\n'


def measure() -> tuple[list[float], list[float]]:
    """(p50 of each run, p99 of each run) in milliseconds."""
    p50, p99 = [], []
    with house() as running, running.client as client:
        _warm_up(client)
        for run in range(RUNS):
            times = sorted(_once(client, run * EACH + n) for n in range(EACH))
            p50.append(times[len(times) // 2])
            p99.append(times[min(len(times) - 1, int(len(times) * 0.99))])
    return p50, p99


def _warm_up(client: httpx.Client) -> None:
    """The first engine starts the warm host; wait until it forks."""
    until = time.monotonic() + 60
    while _once(client, -1) > 300 and time.monotonic() < until:
        pass


def _once(client: httpx.Client, number: int) -> float:
    began_ns = time.time_ns()
    answer = client.post("/api/v1/datasets", files={"file": ("one.jsonl", RECORD % number)})
    answer.raise_for_status()
    task = answer.json()["task"]
    while True:
        spans = client.get(f"/api/v1/tasks/{task}/trace").json()["spans"]
        starts = [span["start_ns"] for span in spans if span["name"] == "engine.ingest"]
        if starts:
            return (starts[0] - began_ns) / 1e6
        time.sleep(0.05)
