"""How long studio takes to decide which of 10,000 waiting tasks of 100 projects a worker gets: inside real claims, from
the look at the counts to the locked row, on SQLite (or the database that a URL names). What a claim stores afterwards
is not part of the decision.
"""

from __future__ import annotations

import asyncio
import tempfile
import time
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
from finery_studio.tasks.store import TaskRow
from finery_studio.tasks.submit import NewTask, submit

PROJECTS, EACH, CLAIMS, WARM_UP = 100, 100, 500, 20
GOAL_MS = 5.0
SPECS: Any = {TaskKind.EVALUATE: lambda tx, task: EvaluateSpec(model="store://m", dataset="store://d")}


def measure(url: str | None = None) -> list[float]:
    """Milliseconds of each decision, sorted. On a fresh database; by default a SQLite file."""
    if url is not None:
        return asyncio.run(_measure(url))
    with tempfile.TemporaryDirectory(prefix="finery-bench-") as folder:
        return asyncio.run(_measure(f"sqlite:///{Path(folder) / 'studio.sqlite'}"))


async def _measure(url: str) -> list[float]:
    database = Database(url, STUDIO_METADATA, DELIVERY_METADATA)
    database.open()
    try:
        await database.write(PoolDesk(Policy(flavours=load_flavours()), lambda: None).begin)
        for number in range(PROJECTS):
            await database.write(lambda tx, n=number: _submit_all(tx, f"prj_{n:03}"))
        desk = TaskDesk(database, SPECS, {}, 3, HangRule(20, 60), lambda: None, lambda: None)
        times = [await database.write(lambda tx: _claim(tx, desk)) for _ in range(WARM_UP + CLAIMS)]
    finally:
        database.close()
    return sorted(times[WARM_UP:])


def _submit_all(tx: Transaction, project: str) -> None:
    actor = Actor(project=project, project_name=project, user="ann", key="key_1", role=Role.FULL)
    for number in range(EACH):
        submit(tx, NewTask(TaskKind.EVALUATE, "t", {}, TaskOptions(priority=number % 101)), actor, SPECS)


def _request() -> ClaimRequest:
    return ClaimRequest(request_id=new_id("req"), worker="w", kinds=[TaskKind.EVALUATE])


def _claim(tx: Transaction, desk: TaskDesk) -> float:
    """A whole claim; the answer is how long the decision in it took."""
    took = 0.0

    def timed(inner: Transaction, request: ClaimRequest) -> TaskRow | None:
        nonlocal took
        began = time.perf_counter()
        row = next_task(inner, request)
        took = (time.perf_counter() - began) * 1000
        return row

    desk.choose = timed
    assert desk.claim(tx, _request()).claim is not None
    return took
