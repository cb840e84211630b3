"""From a fact's commit to the consumer that hears it: outbox, relay, JetStream with its sync always, consumer.

Facts of forty tasks come at a steady 200 a second, whether or not the ones before them have arrived. The clock starts
when the transaction is durable, and stops in the consumer's handler. Nothing else runs in the process.
"""

from __future__ import annotations

import asyncio
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from finery_contracts.jobs import TaskKind
from finery_contracts.streams import Durable
from finery_contracts.tasks import TaskRunning, TaskState, TaskView
from finery_kit.bus_init import bus_init
from finery_kit.db import Database, Transaction, utc_now
from finery_kit.delivery import DELIVERY_METADATA, emit
from finery_kit.hot import listen_in_batches
from finery_kit.service import Service, connected, running
from finery_kit.settings import Settings
from finery_kit.testing import nats_server

GOAL_MS, RUNS, SECONDS, RATE, NOUNS, WARM_UP = 10.0, 5, 10, 200, 40, 200


def measure() -> list[float]:
    """The 99th percentile of each run, in milliseconds."""
    return [_run() for _ in range(RUNS)]


def _run() -> float:
    with tempfile.TemporaryDirectory(prefix="finery-bench-") as folder, nats_server(Path(folder) / "nats") as url:
        times = sorted(asyncio.run(_times_ms(url, Path(folder)))[WARM_UP:])
    return times[int(len(times) * 0.99)]


async def _times_ms(url: str, folder: Path) -> list[float]:
    async with connected(url) as client:
        await bus_init(client)
    says, hears = _service("studio", url, folder), _service("billing-meter", url, folder)
    committed: dict[str, float] = {}
    heard: dict[str, float] = {}

    def hear(_tx: Transaction, fact: TaskRunning) -> None:
        heard.setdefault(fact.id, time.perf_counter())

    listen_in_batches(hears, Durable.BILLING_METER, {TaskRunning: hear})
    total = WARM_UP + RATE * SECONDS
    async with running(says, hears), asyncio.TaskGroup() as group:
        began = time.perf_counter()
        for number in range(total):
            await asyncio.sleep(max(0.0, began + number / RATE - time.perf_counter()))
            group.create_task(_say(says, partial(_emit, number=number, committed=committed)))
        async with asyncio.timeout(30):
            while len(heard) < total:
                await asyncio.sleep(0.05)
    return [(heard[fact] - at) * 1000 for fact, at in committed.items()]


async def _say(service: Service, work: Callable[[Transaction], None]) -> None:
    assert service.database is not None
    await service.database.write(work)
    service.wake_relay()


def _emit(tx: Transaction, *, number: int, committed: dict[str, float]) -> None:
    task, version = f"task_{number % NOUNS:026d}", number // NOUNS
    view = TaskView(
        id=task, project="prj_1", kind=TaskKind.TUNE, name="tune", state=TaskState.RUNNING, version=version,
        created_by="ann", created_at=utc_now(),
    )  # fmt: skip
    fact = emit(tx, TaskRunning, task, project="prj_1", version=version, data=view).id
    tx.after_commit.append(lambda: committed.setdefault(fact, time.perf_counter()))


def _service(name: str, url: str, home: Path) -> Service:
    database = Database(f"sqlite:///{home / f'{name}.sqlite'}", DELIVERY_METADATA)
    return Service(name, Settings(nats_url=url, home=home), database)
