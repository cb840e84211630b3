"""A broker that is away or a full disk slows the API with 503 and Retry-After; reads go on, nothing is lost."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import httpx
import pytest
from nats.js.errors import APIError
from sqlalchemy import text
from sqlmodel import select

from finery_contracts.access import ProjectCreated, ProjectView
from finery_contracts.errors import Unavailable
from finery_contracts.retention import Retention
from finery_contracts.streams import EVENTS, kept_by
from finery_kit import bus_init as bus_init_module
from finery_kit.bus_init import bus_init
from finery_kit.db import Database, Transaction
from finery_kit.delivery import DELIVERY_METADATA, OutboxRow, emit
from finery_kit.nats_server import NatsServer
from finery_kit.ports import free_port
from finery_kit.postgres_server import PostgresServer, postgres_server
from finery_kit.service import connected, running
from finery_studio.app import Studio
from finery_studio.settings import StudioSettings

SECRET = "ab" * 32


@contextlib.asynccontextmanager
async def house(
    folder: Path, *, database_url: str | None = None, max_file_store: str = "20GB"
) -> AsyncIterator[tuple[NatsServer, Studio, httpx.AsyncClient]]:
    """A real broker and a real studio on it, asked as its clients ask it."""
    server = NatsServer(folder, bytes.fromhex(SECRET), port=free_port(), max_file_store=max_file_store)
    await server.start()
    async with connected(server.url("init")) as client:
        await bus_init(client)
    studio = Studio(
        StudioSettings(
            nats_url=server.url("studio"), home=folder, installation_secret=SECRET, operator_key="fk-op",
            database_url=database_url,
        )
    )  # fmt: skip
    await asyncio.to_thread(studio.database.open)
    await studio.first_start()
    await asyncio.to_thread(studio.database.close)
    studio = Studio(studio.settings)
    transport = httpx.ASGITransport(app=studio.http(), raise_app_exceptions=False)
    headers = {"authorization": "Bearer fk-op"}
    async with (
        running(studio.service),
        httpx.AsyncClient(transport=transport, base_url="http://studio", headers=headers, timeout=60) as http,
    ):
        yield server, studio, http
    await server.stop()


async def test_writes_are_refused_while_the_broker_is_away_and_taken_again_by_themselves(tmp_path: Path) -> None:
    async with house(tmp_path) as (server, studio, http):
        await server.stop()
        refused = await until(http, 503)
        reads = await http.get("/api/v1/projects")
        await server.start()
        taken = await until(http, 201)
        await published(studio)

    assert refused.json()["error"]["code"] == "unavailable"
    assert int(refused.headers["retry-after"]) > 0
    assert reads.status_code == 200
    assert taken.status_code == 201


async def test_a_full_jetstream_refuses_writes_keeps_what_was_taken_and_goes_on_when_there_is_room(
    tmp_path: Path, service_database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = kept_by(Retention())  # nothing is reserved, so that there may be a very small store
    monkeypatch.setattr(bus_init_module, "kept_by", lambda _: tuple(replace(spec, max_bytes=-1) for spec in whole))
    async with house(tmp_path, database_url=service_database, max_file_store="2MB") as (server, studio, http):
        await fill_up(server)
        refused = await until(http, 503)
        reads = await http.get("/api/v1/projects")
        before = await waiting(studio)
        server._max_file_store = "1GB"  # the operator makes room
        await server.stop()
        await server.start()
        taken = await until(http, 201)
        await published(studio)
        names = {project["name"] for project in (await http.get("/api/v1/projects")).json()["data"]}
        said = await on_the_bus(server)

    assert (refused.json()["error"]["code"], int(refused.headers["retry-after"]) > 0) == ("unavailable", True)
    assert (reads.status_code, taken.status_code) == (200, 201)
    assert before > 0  # what was taken on before anybody noticed
    assert said == Counter(dict.fromkeys(names, 1))


async def fill_up(server: NatsServer) -> None:
    async with connected(server.url("trainer")) as client:
        for _ in range(50):
            try:
                await client.jetstream().publish("finery.log.prj_1.task_1", b"x" * 100_000, stream="LOGS")
            except APIError:
                return
    raise AssertionError("it never got full")


async def on_the_bus(server: NatsServer) -> Counter[str]:
    """Names of the projects whose facts the stream has, each as often as it is there."""
    async with connected(server.url("studio")) as client:
        jetstream = client.jetstream()
        last = (await jetstream.stream_info(EVENTS.name)).state.last_seq
        found = [await jetstream.get_msg(EVENTS.name, seq, direct=True) for seq in range(1, last + 1)]
    facts = [ProjectCreated.model_validate_json(message.data or b"") for message in found]
    return Counter(fact.data.name for fact in facts)


async def test_a_postgres_that_is_away_is_told_of_and_everything_goes_on_when_it_is_back(tmp_path: Path) -> None:
    with postgres_server() as postgres, postgres.fresh() as url:
        async with house(tmp_path, database_url=url) as (server, studio, http):
            assert (await http.post("/api/v1/projects", json={"name": "before"})).status_code == 201
            await asyncio.to_thread(postgres.stop)
            refused = [await http.post("/api/v1/projects", json={"name": f"away-{n}"}) for n in range(20)]
            reads = await http.get("/api/v1/projects")
            await asyncio.to_thread(postgres.start)
            taken = await until(http, 201)
            await published(studio)
            names = {project["name"] for project in (await http.get("/api/v1/projects")).json()["data"]}
            said = await on_the_bus(server)

    for answer in (*refused, reads):  # nobody can be known without it, so reads are refused, too
        assert (answer.status_code, answer.json()["error"]["code"]) == (503, "unavailable"), answer.text
        assert int(answer.headers["retry-after"]) > 0
    assert names == {"default", "before", taken.json()["name"]}
    assert said == Counter(dict.fromkeys(names, 1))


FULL = """
create function full_disk() returns trigger language plpgsql as
$$ begin raise exception 'could not extend file: No space left on device' using errcode = '53100'; end $$;
create trigger full_disk before insert or update on {table} for each row execute function full_disk();
"""


@pytest.mark.parametrize("table", ["outbox", "project"])
async def test_a_full_postgres_refuses_writes_whole_and_reads_go_on(
    tmp_path: Path, postgres: PostgresServer, table: str
) -> None:
    with postgres.fresh() as url:
        async with house(tmp_path, database_url=url) as (server, studio, http):
            await published(studio)
            await studio.database.write(lambda tx: tx.session.connection().execute(text(FULL.format(table=table))))
            refused = [await http.post("/api/v1/projects", json={"name": f"full-{n}"}) for n in range(5)]
            reads = await http.get("/api/v1/projects")
            await studio.database.write(
                lambda tx: tx.session.connection().execute(text("drop function full_disk cascade"))
            )
            taken = await http.post("/api/v1/projects", json={"name": "room"})
            await published(studio)
            said = await on_the_bus(server)

    for answer in refused:
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "30"), answer.text
    assert [project["name"] for project in reads.json()["data"]] == ["default"]
    assert taken.status_code == 201
    assert said == Counter(default=1, room=1)


async def published(studio: Studio) -> None:
    async with asyncio.timeout(30):
        while await waiting(studio):
            await asyncio.sleep(0.05)


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
