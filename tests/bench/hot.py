"""What the kit's hot path keeps of bare nats-py: facts a second, applied and stored, against fetched and parsed alone.

Both read the same stream of the same broker, 500 at a time, parse every fact into the same model and acknowledge each.
The bare loop stops there. The kit looks each up in its inbox besides, hands them to a handler that stores a row of
each, commits (SQLite, synchronous=FULL) before it acknowledges, and keeps spans. They take turns, so that the machine's
mood meets both alike. Nothing else runs in the process.
"""

from __future__ import annotations

import asyncio
import tempfile
import time
from pathlib import Path

from nats.aio.client import Client
from nats.js.api import AckPolicy, ConsumerConfig
from sqlalchemy import Column, Integer, MetaData, String, Table, insert

from finery_contracts.jobs import TaskKind
from finery_contracts.streams import EVENTS, Durable
from finery_contracts.tasks import AttemptView, TaskProgress, TaskRunning, TaskState, TaskView
from finery_kit.bus_init import bus_init, heal_consumers
from finery_kit.db import Database, Transaction, utc_now
from finery_kit.delivery import DELIVERY_METADATA
from finery_kit.hot import Together, listen_in_batches
from finery_kit.service import Service, connected, running
from finery_kit.settings import Settings
from finery_kit.testing import nats_server
from tests.bench.facts import fill

FACTS, TURNS, BATCH = 20_000, 5, 500
STORED = MetaData()
ROWS = Table("heard", STORED, Column("event_id", String, primary_key=True), Column("version", Integer))


def measure() -> list[float]:
    """The share of each pair of turns."""
    with tempfile.TemporaryDirectory(prefix="finery-bench-") as folder, nats_server(Path(folder) / "nats") as url:
        return asyncio.run(_measure(url, Path(folder)))


async def _measure(url: str, folder: Path) -> list[float]:
    async with connected(url) as client:
        await bus_init(client)
        await fill(client, map(_fact, range(FACTS)))
        shares: list[float] = []
        for turn in range(TURNS + 1):
            bare = await _bare(client)
            kit = await _kit(client, url, folder / str(turn))
            if turn:  # the first one warms both up
                shares.append(kit / bare)
        return shares


def _fact(number: int) -> TaskRunning:
    """A fact as large as most are."""
    now, task = utc_now(), f"task_{number // 5:026d}"
    view = TaskView(
        id=task, project="prj_1", kind=TaskKind.TUNE, name=f"tune-{number}", state=TaskState.RUNNING,
        version=number % 5, created_by="ann", created_at=now, queued_at=now, started_at=now,
        progress=TaskProgress(step=1, total=100),
        request={"model": "mdl_1", "method": "lora", "epochs": 3, "datasets": ["dst_1"]},
        attempts=[AttemptView(number=1, worker="trainer@host:1", state="running", claimed_at=now)],
    )  # fmt: skip
    return TaskRunning(
        id=f"evt_{number:026d}", type=TaskRunning.type_name(), source="finery/studio", subject=f"task/{task}", time=now,
        project="prj_1", nounversion=number % 5, data=view,
        traceparent=f"00-{number + 1:032x}-{number + 1:016x}-01",
    )  # fmt: skip


async def _bare(client: Client) -> float:
    """Facts a second: fetch, parse, acknowledge."""
    jetstream = client.jetstream()
    await jetstream.add_consumer(
        EVENTS.name, ConsumerConfig(durable_name="bare", ack_policy=AckPolicy.EXPLICIT, max_ack_pending=1000)
    )
    subscription = await jetstream.pull_subscribe_bind("bare", EVENTS.name)
    began, done = time.perf_counter(), 0
    while done < FACTS:
        for message in await subscription.fetch(min(BATCH, FACTS - done), timeout=5):
            assert TaskRunning.model_validate_json(message.data).type
            await message.ack()
            done += 1
    spent = time.perf_counter() - began
    await subscription.unsubscribe()
    await jetstream.delete_consumer(EVENTS.name, "bare")
    return FACTS / spent


async def _kit(client: Client, url: str, home: Path) -> float:
    """Facts a second: the same, applied once and stored."""
    jetstream = client.jetstream()
    durable = Durable.BILLING_METER
    await jetstream.delete_consumer(EVENTS.name, durable)
    await heal_consumers(jetstream, ("public",))
    home.mkdir()
    database = Database(f"sqlite:///{home / 'meter.sqlite'}", DELIVERY_METADATA, STORED)
    service = Service("meter", Settings(nats_url=url, home=home), database)
    stored, all_there = [0], asyncio.Event()

    def store(tx: Transaction, facts: list[TaskRunning]) -> None:
        rows = [{"event_id": fact.id, "version": fact.nounversion} for fact in facts]
        tx.session.connection().execute(insert(ROWS), rows)
        stored[0] += len(rows)

    def look() -> None:
        if stored[0] == FACTS:
            all_there.set()

    listen_in_batches(service, durable, {TaskRunning: Together(store)}, after=look)
    async with running(service):
        began = time.perf_counter()
        await asyncio.wait_for(all_there.wait(), 120)
        spent = time.perf_counter() - began
    return FACTS / spent
