"""How long a claim takes when 10,000 tasks of 100 projects wait: everything studio does between the request and the
commit, on SQLite, one claim after the other. Every claimed task stays running, so the counts are as long as they get.
"""

from __future__ import annotations

import asyncio
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from finery_contracts.access import Actor, Role
from finery_contracts.ids import new_id
from finery_contracts.jobs import EvaluateSpec, TaskKind
from finery_contracts.options import TaskOptions
from finery_contracts.work import ClaimRequest
from finery_kit.db import Database, Transaction
from finery_kit.delivery import DELIVERY_METADATA
from finery_studio.pools.flavours import load_flavours
from finery_studio.pools.handlers import PoolDesk
from finery_studio.pools.queue import next_task
from finery_studio.pools.store import Policy
from finery_studio.store import STUDIO_METADATA
from finery_studio.tasks.handlers import HangRule, TaskDesk
from finery_studio.tasks.submit import NewTask, submit

PROJECTS, EACH, CLAIMS = 100, 100, 500
GOAL_MS = 5.0
SPECS: Any = {TaskKind.EVALUATE: lambda tx, task: EvaluateSpec(model="store://m", dataset="store://d")}


@dataclass(frozen=True)
class Times:
    """Milliseconds of each claim, sorted: the decision alone, and with what is stored of it."""

    decision_ms: list[float]
    claim_ms: list[float]


def measure(url: str | None = None) -> Times:
    """On a fresh database; by default a SQLite file."""
    if url is not None:
        return asyncio.run(_measure(url))
    with tempfile.TemporaryDirectory(prefix="finery-bench-") as folder:
        return asyncio.run(_measure(f"sqlite:///{Path(folder) / 'studio.sqlite'}"))


async def _measure(url: str) -> Times:
    database = Database(url, STUDIO_METADATA, DELIVERY_METADATA)
    database.open()
    try:
        await database.write(PoolDesk(Policy(flavours=load_flavours()), lambda: None).begin)
        for number in range(PROJECTS):
            await database.write(lambda tx, n=number: _submit_all(tx, f"prj_{n:03}"))
        desk = TaskDesk(database, SPECS, {}, 3, HangRule(20, 60), lambda: None, lambda: None)
        taken = [await _claim(desk) for _ in range(CLAIMS)]
        decided = [await database.write(_decide) for _ in range(CLAIMS)]
    finally:
        database.close()
    return Times(sorted(decided), sorted(taken))


def _submit_all(tx: Transaction, project: str) -> None:
    actor = Actor(project=project, project_name=project, user="ann", key="key_1", role=Role.FULL)
    for number in range(EACH):
        submit(tx, NewTask(TaskKind.EVALUATE, "t", {}, TaskOptions(priority=number % 101)), actor, SPECS)


def _request() -> ClaimRequest:
    return ClaimRequest(request_id=new_id("req"), worker="w", kinds=[TaskKind.EVALUATE])


async def _claim(desk: TaskDesk) -> float:
    began = time.perf_counter()
    answer = await desk.on_claim(_request())
    assert answer.claim is not None
    return (time.perf_counter() - began) * 1000


def _decide(tx: Transaction) -> float:
    began = time.perf_counter()
    assert next_task(tx, _request()) is not None
    return (time.perf_counter() - began) * 1000
