"""A house whose JetStream is full in mid-load, and one whose Postgres goes: refused with a time, nothing lost."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import httpx
import pytest
from nats.js.errors import APIError

from finery.embedded import Options, house
from finery_contracts.retention import Retention
from finery_contracts.streams import kept_by
from finery_kit import bus_init as bus_init_module
from finery_kit.nats_server import NatsServer
from finery_kit.ports import free_port
from finery_kit.postgres_server import postgres_server
from finery_kit.service import connected
from tests.chaos.receiver import Receiver, receiving
from tests.conftest import OWNERS
from tests.flows.conftest import QuickExecutor
from tests.flows.test_rebuild import (
    Brokers,
    Load,
    all_of,
    all_was_told,
    at_rest,
    judge,
    said_on_the_bus,
    verified,
)

WISHES = 24


@asynccontextmanager
async def loaded(home: Path) -> AsyncIterator[tuple[httpx.AsyncClient, Load, Receiver]]:
    """A house with somebody who wants things of it."""
    options = Options(home=home, port=free_port(), allow_webhook_networks=("127.0.0.0/8",))
    async with receiving(random.Random(1)) as receiver, house(options) as ready:
        receiver.peaceful = True
        headers = {"authorization": f"Bearer {ready.api_key}"}
        async with httpx.AsyncClient(base_url=ready.url, headers=headers, timeout=60) as api:
            load = Load(api)
            await load.prepare(receiver)
            yield api, load, receiver


async def wishes(load: Load, count: int) -> None:
    async with asyncio.timeout(120):
        while len(load.tasks) < count:
            await asyncio.sleep(0.02)


async def refused(api: httpx.AsyncClient, load: Load) -> None:
    """Until a new task is answered with 503 and a time."""
    wish = {"kind": "ingest", "dataset": load.dataset, "name": "too-much"}
    async with asyncio.timeout(60):
        while True:
            answer = await api.post("/api/v1/tasks", json=wish)
            assert answer.status_code in (201, 503), answer.text
            if answer.status_code == 503:
                assert answer.json()["error"]["code"] == "unavailable"
                assert int(answer.headers["retry-after"]) > 0
                return
            await asyncio.sleep(0.2)


async def all_went_well(api: httpx.AsyncClient, load: Load, receiver: Receiver, broker: NatsServer) -> None:
    await at_rest(api, WISHES, receiver)
    proof = await verified(api)
    log, facts = await said_on_the_bus(api, broker)
    tasks = {task["name"]: task for task in await all_of(api, "/api/v1/tasks") if task["name"].startswith("wish-")}
    assert {name: task["id"] for name, task in tasks.items()} == load.tasks
    assert {task["state"] for task in tasks.values()} == {"succeeded"}
    assert proof["ok"], proof
    judge(log, facts)
    await all_was_told(receiver, log, list(tasks.values()))


async def test_a_jetstream_that_gets_full_in_mid_load_loses_nothing(
    tmp_path: Path, house_database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = kept_by(Retention())  # nothing is reserved, so that there may be a very small store
    monkeypatch.setattr(bus_init_module, "kept_by", lambda _: tuple(replace(spec, max_bytes=-1) for spec in whole))
    monkeypatch.setattr("finery.embedded.LocalExecutor", QuickExecutor)
    monkeypatch.setenv("QUICK_TUNE_S", "0.3")
    brokers = Brokers(monkeypatch, max_file_store="4MB")
    async with loaded(tmp_path / "home") as (api, load, receiver):
        (broker,) = brokers.made
        running = asyncio.create_task(load.run(WISHES))
        await wishes(load, 6)
        await fill_up(broker)
        await refused(api, load)
        assert (await api.get("/api/v1/tasks")).status_code == 200
        assert (await api.get("/api/v1/events")).status_code == 200

        broker._max_file_store = "1GB"  # the operator makes room, which takes a restart of the broker
        assert broker._process is not None
        broker._process.terminate()
        async with asyncio.timeout(120):
            await running
        await all_went_well(api, load, receiver, broker)


async def fill_up(broker: NatsServer) -> None:
    async with connected(broker.url("trainer")) as client:
        for _ in range(100):
            try:
                await client.jetstream().publish("finery.log.prj_0.task_0", b"x" * 100_000, stream="LOGS")
            except APIError:
                return
    raise AssertionError("it never got full")


async def test_a_postgres_that_goes_in_mid_load_loses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("finery.embedded.LocalExecutor", QuickExecutor)
    monkeypatch.setenv("QUICK_TUNE_S", "0.3")
    brokers = Brokers(monkeypatch)
    with postgres_server() as postgres, postgres.house(OWNERS) as url:
        monkeypatch.setenv("FINERY_DATABASE_URL", url)
        async with loaded(tmp_path / "home") as (api, load, receiver):
            running = asyncio.create_task(load.run(WISHES))
            for count in (6, 14):
                await wishes(load, count)
                await asyncio.to_thread(postgres.stop)
                await refused(api, load)
                await asyncio.sleep(1)
                await asyncio.to_thread(postgres.start)
            async with asyncio.timeout(120):
                await running
            await all_went_well(api, load, receiver, brokers.made[0])
