"""From a fact's commit to the consumer that hears it: outbox, relay, JetStream with its sync always, consumer.

Facts of forty tasks come at a steady 200 a second, whether or not the ones before them have arrived. The clock starts
when the transaction is durable, and stops in the consumer's handler. Whoever says and whoever hears are processes of
their own, as services are outside `finery up`; both read the system's monotonic clock.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import tempfile
import time
from collections.abc import Callable
from functools import partial
from multiprocessing.connection import Connection
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
TOTAL = WARM_UP + RATE * SECONDS


def measure() -> list[float]:
    """The 99th percentile of each run, in milliseconds."""
    return [_run() for _ in range(RUNS)]


def _run() -> float:
    spawn = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory(prefix="finery-bench-") as folder, nats_server(Path(folder) / "nats") as url:
        asyncio.run(_init(url))
        ours, theirs = spawn.Pipe()
        hearer = spawn.Process(target=_hear, args=(theirs, url, folder), daemon=True)
        hearer.start()
        assert ours.recv() == "ready"
        committed = asyncio.run(_say_all(url, Path(folder)))
        heard = ours.recv() if ours.poll(30) else {}
        hearer.terminate()
        hearer.join()
    assert len(heard) == len(committed) == TOTAL, f"{len(heard)} heard of {TOTAL}"
    times = sorted([(heard[fact] - at) * 1000 for fact, at in committed.items()][WARM_UP:])
    return times[int(len(times) * 0.99)]


async def _init(url: str) -> None:
    async with connected(url) as client:
        await bus_init(client)


async def _say_all(url: str, folder: Path) -> dict[str, float]:
    """When each fact was durable."""
    says, committed = _service("studio", url, folder), dict[str, float]()
    async with running(says), asyncio.TaskGroup() as group:
        began = time.perf_counter()
        for number in range(TOTAL):
            await asyncio.sleep(max(0.0, began + number / RATE - time.perf_counter()))
            group.create_task(_say(says, partial(_emit, number=number, committed=committed)))
        await asyncio.sleep(1)  # the relay publishes the last ones
    return committed


def _hear(pipe: Connection, url: str, folder: str) -> None:
    asyncio.run(_hear_all(pipe, url, Path(folder)))


async def _hear_all(pipe: Connection, url: str, folder: Path) -> None:
    """Send when each fact was heard."""
    hears, heard = _service("billing-meter", url, folder), dict[str, float]()

    def hear(_tx: Transaction, fact: TaskRunning) -> None:
        heard.setdefault(fact.id, time.perf_counter())

    listen_in_batches(hears, Durable.BILLING_METER, {TaskRunning: hear})
    async with running(hears):
        pipe.send("ready")
        while len(heard) < TOTAL:
            await asyncio.sleep(0.2)
        pipe.send(heard)


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
