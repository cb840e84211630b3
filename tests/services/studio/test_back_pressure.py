"""A broker that is away or a full disk slows the API with 503 and Retry-After; reads go on, nothing is lost."""

from __future__ import annotations

import asyncio
from pathlib import Path

import httpx
import pytest
from sqlalchemy import text
from sqlmodel import select

from finery_contracts.access import ProjectCreated, ProjectView
from finery_contracts.errors import Unavailable
from finery_kit.bus_init import bus_init
from finery_kit.db import Database, Transaction
from finery_kit.delivery import DELIVERY_METADATA, OutboxRow, emit
from finery_kit.nats_server import NatsServer
from finery_kit.ports import free_port
from finery_kit.service import connected, running
from finery_studio.app import Studio
from finery_studio.settings import StudioSettings

SECRET = "ab" * 32


async def test_writes_are_refused_while_the_broker_is_away_and_taken_again_by_themselves(tmp_path: Path) -> None:
    server = NatsServer(tmp_path, bytes.fromhex(SECRET), port=free_port())
    await server.start(())
    async with connected(server.url("init")) as client:
        await bus_init(client)
    studio = Studio(
        StudioSettings(nats_url=server.url("studio"), home=tmp_path, installation_secret=SECRET, operator_key="fk-op")
    )
    await asyncio.to_thread(studio.database.open)
    await studio.first_start()
    await asyncio.to_thread(studio.database.close)
    studio = Studio(studio.settings)
    transport = httpx.ASGITransport(app=studio.http())
    headers = {"authorization": "Bearer fk-op"}
    async with (
        running(studio.service),
        httpx.AsyncClient(transport=transport, base_url="http://studio", headers=headers) as http,
    ):
        await server.stop()
        refused = await until(http, 503)
        reads = await http.get("/api/v1/projects")
        await server.restart()
        taken = await until(http, 201)
        async with asyncio.timeout(20):
            while await waiting(studio):
                await asyncio.sleep(0.05)
    await server.stop()

    assert refused.json()["error"]["code"] == "unavailable"
    assert int(refused.headers["retry-after"]) > 0
    assert reads.status_code == 200
    assert taken.status_code == 201


async def until(http: httpx.AsyncClient, status: int) -> httpx.Response:
    async with asyncio.timeout(30):
        number = 0
        while True:
            number += 1
            answer = await http.post("/api/v1/projects", json={"name": f"p-{status}-{number}"})
            if answer.status_code == status:
                return answer
            await asyncio.sleep(0.1)


async def waiting(studio: Studio) -> int:
    return await studio.database.read(
        lambda s: len(list(s.exec(select(OutboxRow).where(OutboxRow.published == False))))  # noqa: E712
    )


async def test_a_full_disk_refuses_writes_whole_keeps_reads_and_heals(tmp_path: Path) -> None:
    database = Database(f"sqlite:///{tmp_path / 'full.sqlite'}", DELIVERY_METADATA)
    database.open()

    def fill(tx: Transaction, number: int) -> None:
        view = ProjectView(id=f"prj_{number}", name="n" * 5000, version=1, created_at=tx.now)
        emit(tx, ProjectCreated, view.id, project=view.id, version=1, data=view)

    def limit(tx: Transaction, pages: int) -> None:
        tx.session.connection().execute(text(f"pragma max_page_count = {pages}"))

    await database.write(lambda tx: limit(tx, 60))
    kept = 0

    async def fill_up() -> None:
        nonlocal kept
        for number in range(1000):
            await database.write(lambda tx, n=number: fill(tx, n))
            kept += 1

    with pytest.raises(Unavailable, match="no room") as full:
        await fill_up()
    rows = await database.read(lambda s: len(list(s.exec(select(OutboxRow)))))
    await database.write(lambda tx: limit(tx, 100_000))
    await database.write(lambda tx: fill(tx, 2000))
    after = await database.read(lambda s: len(list(s.exec(select(OutboxRow)))))
    await asyncio.to_thread(database.close)

    assert full.value.retry_after_s
    assert 0 < kept == rows
    assert after == rows + 1
