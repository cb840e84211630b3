"""What the billing meter keeps of a bare loop: facts a second, charged once and durable, against merely stored once.

Both read the same stream of the same broker, 500 at a time, parse every fact into the same model, leave out what they
have seen, commit each batch (SQLite, synchronous=FULL) and acknowledge. The bare loop stores the event's id and its
running time. The meter is the service itself, relay and alarms included: it prices every fact, writes its ledger line,
follows what runs and says what it charged.
"""

from __future__ import annotations

import asyncio
import sqlite3
import time
from datetime import timedelta
from pathlib import Path

from nats.js import JetStreamContext

from finery_billing_meter.app import build
from finery_billing_meter.settings import BillingMeterSettings
from finery_contracts.jobs import TaskKind
from finery_contracts.streams import EVENTS, Durable
from finery_contracts.tasks import (
    AttemptEndedData,
    AttemptView,
    EndReason,
    RunInterval,
    TaskAttemptEnded,
    TaskState,
    TaskView,
)
from finery_kit.db import utc_now
from finery_kit.service import running
from tests.bench.facts import shares

FACTS, TURNS, BATCH = 15_000, 5, 500


def measure() -> list[float]:
    """The share of each pair of turns."""
    return shares(map(_fact, range(FACTS)), TaskAttemptEnded.filter_subject(), _bare, _meter, turns=TURNS)


def _fact(number: int) -> TaskAttemptEnded:
    """An attempt of an hour or so; each task has two of them."""
    now, task = utc_now() - timedelta(hours=2), f"task_{number // 2:026d}"
    attempt = AttemptView(
        number=number % 2 + 1, worker="trainer@host:1", state="ended", reason=EndReason.SUCCEEDED, claimed_at=now
    )
    view = TaskView(
        id=task, project=f"prj_{number % 20}", kind=TaskKind.TUNE, name=f"tune-{number}", state=TaskState.RUNNING,
        version=number % 2 + 4, created_by="ann", flavour="gpu", created_at=now, queued_at=now, started_at=now,
        request={"model": "mdl_1", "method": "lora", "epochs": 3, "datasets": ["dst_1"]}, attempts=[attempt],
    )  # fmt: skip
    interval = RunInterval(
        attempt=attempt.number, started_at=now, running_s=3600 + number / 7, reason=EndReason.SUCCEEDED, billed=True
    )
    return TaskAttemptEnded(
        id=f"evt_{number:026d}", type=TaskAttemptEnded.type_name(), source="finery/studio", subject=f"task/{task}",
        time=now, project=view.project, nounversion=view.version,
        data=AttemptEndedData(task=view, attempt=attempt, interval=interval),
        traceparent=f"00-{number + 1:032x}-{number + 1:016x}-01",
    )  # fmt: skip


async def _bare(subscription: JetStreamContext.PullSubscription, file: Path) -> float:
    """Facts a second: fetch, parse, leave out what was seen, store, commit, acknowledge."""
    database = sqlite3.connect(file, isolation_level=None)
    database.execute("pragma journal_mode=wal")
    database.execute("pragma synchronous=full")
    database.execute("create table seen (event text primary key, running_s real)")
    began, done = time.perf_counter(), 0
    while done < FACTS:
        messages = await subscription.fetch(min(BATCH, FACTS - done), timeout=5)
        facts = [TaskAttemptEnded.model_validate_json(message.data) for message in messages]
        database.execute("begin immediate")
        database.executemany(
            "insert into seen values (?, ?) on conflict do nothing",
            [(fact.id, fact.data.interval.running_s) for fact in facts],
        )
        database.execute("commit")
        for message in messages:
            await message.ack()
        done += len(messages)
    spent = time.perf_counter() - began
    database.close()
    return FACTS / spent


async def _meter(jetstream: JetStreamContext, url: str, home: Path) -> float:
    """Facts a second: the service, until every fact is acknowledged."""
    service = build(BillingMeterSettings(nats_url=url, home=home))
    async with running(service):
        began = time.perf_counter()
        while True:
            await asyncio.sleep(0.02)
            seen = await jetstream.consumer_info(EVENTS.name, Durable.BILLING_METER)
            if seen.num_pending == 0 and seen.num_ack_pending == 0:
                break
        spent = time.perf_counter() - began
        lines = await service.database.read(_lines) if service.database is not None else 0
    assert lines == FACTS, f"{lines} lines of {FACTS}"
    return FACTS / spent


def _lines(session) -> int:
    from sqlalchemy import func, select

    from finery_billing_meter.ledger.store import LEDGER

    return int(session.scalar(select(func.count()).select_from(LEDGER)) or 0)
