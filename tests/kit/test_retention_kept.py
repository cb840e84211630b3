"""What the policy says is carried out: the broker's ages, keys of requests, what a service has heard."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from pathlib import Path

from nats.aio.client import Client
from sqlmodel import Session, select

from finery_contracts.retention import Retention
from finery_contracts.streams import DEAD, EVENTS, LOGS, METRICS
from finery_kit.bus_init import bus_init
from finery_kit.db import Database
from finery_kit.delivery import DELIVERY_METADATA
from finery_kit.delivery_tables import IdempotencyRow, InboxFloorRow, InboxRow
from finery_kit.idempotency import Asked, reserve
from finery_kit.inbox import remember
from finery_kit.service import Service, running
from finery_kit.settings import Settings
from finery_kit.testing import VirtualClock, nats_server

DAY_S = 86_400


async def ages(client: Client) -> list[float]:
    """In days."""
    names = (EVENTS.name, LOGS.name, METRICS.name, DEAD.name)
    infos = [await client.jetstream().stream_info(name) for name in names]
    return [(info.config.max_age or 0) / DAY_S for info in infos]


async def test_the_brokers_ages_follow_the_policy_also_when_it_changes(tmp_path: Path) -> None:
    with nats_server(tmp_path / "nats") as url:
        client = Client()
        await client.connect(url)
        found = list[list[float]]()
        for policy in (Retention(), Retention(events_days=40, logs_days=3, dead_days=5), Retention(logs_days=90)):
            await bus_init(client, policy=policy)
            found.append(await ages(client))
        await client.close()

    assert found == [[0, 30, 30, 30], [40, 3, 3, 5], [0, 90, 90, 30]]


async def test_a_service_forgets_keys_and_folds_its_inbox_by_the_policy_it_was_given(
    tmp_path: Path, database_url: str
) -> None:
    policy = tmp_path / "policy.yaml"
    policy.write_text("idempotency_hours: 2\ninbox_days: 40\n")
    clock = VirtualClock()
    database = Database(database_url, DELIVERY_METADATA, clock=clock)
    await asyncio.to_thread(database.open)
    await database.write(lambda tx: reserve(tx, Asked("prj_1", "old", "d")))
    await database.write(lambda tx: remember(tx, [("task", "task_1", 1), ("task", "task_1", 2)]))
    clock.now += timedelta(days=39)
    await database.write(lambda tx: remember(tx, [("task", "task_2", 1)]))
    clock.now += timedelta(days=1, hours=22.5)
    await database.write(lambda tx: reserve(tx, Asked("prj_1", "new", "d")))
    clock.now += timedelta(hours=1.5)
    await asyncio.to_thread(database.close)

    with nats_server(tmp_path / "nats") as url:
        settings = Settings(nats_url=url, home=tmp_path, retention_file=policy)
        service = Service("studio", settings, Database(database_url, DELIVERY_METADATA, clock=clock))
        async with running(service):
            assert service.database is not None
            async with asyncio.timeout(20):
                while await service.database.read(kept) != (1, [("task_2", 1)], [("task_1", 2)]):
                    await asyncio.sleep(0.05)


def kept(session: Session) -> tuple[int, list[tuple[str, int]], list[tuple[str, int]]]:
    """Keys, what is remembered row by row, and the floors."""
    keys = list(session.exec(select(IdempotencyRow)))
    rows = [(row.noun_id, row.version) for row in session.exec(select(InboxRow))]
    floors = [(row.noun_id, row.version) for row in session.exec(select(InboxFloorRow))]
    return len(keys), rows, floors
