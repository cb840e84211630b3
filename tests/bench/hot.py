"""What the kit's hot path keeps of bare nats-py: facts a second, applied and stored, against fetched and parsed alone.

Both read the same stream of the same broker, 500 at a time, parse every fact into the same model and acknowledge each.
The bare loop stops there. The kit looks each up in its inbox besides, hands them to a handler that stores a row of
each, commits (SQLite, synchronous=FULL) before it acknowledges, and keeps spans. Nothing else runs.
"""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

from nats.js import JetStreamContext
from sqlalchemy import Column, Integer, MetaData, String, Table, insert

from finery_contracts.jobs import TaskKind
from finery_contracts.streams import Durable
from finery_contracts.tasks import AttemptView, TaskProgress, TaskRunning, TaskState, TaskView
from finery_kit.db import Database, Transaction, utc_now
from finery_kit.delivery import DELIVERY_METADATA
from finery_kit.hot import Together, listen_in_batches
from finery_kit.service import Service, running
from finery_kit.settings import Settings
from tests.bench.facts import shares

FACTS, TURNS, BATCH = 20_000, 5, 500
STORED = MetaData()
ROWS = Table("heard", STORED, Column("event_id", String, primary_key=True), Column("version", Integer))


def measure() -> list[float]:
    """The share of each pair of turns."""
    return shares(map(_fact, range(FACTS)), "finery.evt.>", _bare, _kit, turns=TURNS)


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


async def _bare(subscription: JetStreamContext.PullSubscription, _file: Path) -> float:
    """Facts a second: fetch, parse, acknowledge."""
    began, done = time.perf_counter(), 0
    while done < FACTS:
        for message in await subscription.fetch(min(BATCH, FACTS - done), timeout=5):
            assert TaskRunning.model_validate_json(message.data).type
            await message.ack()
            done += 1
    return FACTS / (time.perf_counter() - began)


async def _kit(_jetstream: JetStreamContext, url: str, home: Path) -> float:
    """Facts a second: the same, applied once and stored."""
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

    listen_in_batches(service, Durable.BILLING_METER, {TaskRunning: Together(store)}, after=look)
    async with running(service):
        began = time.perf_counter()
        await asyncio.wait_for(all_there.wait(), 120)
        spent = time.perf_counter() - began
    return FACTS / spent
