"""Queries as sources, on a real Postgres and on SQLite: rows come, nothing is written, nothing runs for ever."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psycopg
import pytest
from sources_rig import fetched, tcp_to

from finery_contracts.errors import FineryError, Forbidden, InvalidRequest, TooLarge, Unavailable
from finery_contracts.sources import Endpoint
from finery_dataset_ingest.engine.sources import sql
from finery_kit.postgres_server import PostgresServer

TABLE = "create table chat (n integer primary key, human text, assistant text)"
ROWS = [(1, "Hallo", "Guten Tag"), (2, "你好", 'he said "hi", ok'), (3, "x", "y")]


@pytest.fixture
def postgres_endpoint(postgres: PostgresServer) -> Iterator[Endpoint]:
    with postgres.fresh() as url, tcp_to(postgres.socket / ".s.PGSQL.5432") as port:
        name = urlsplit(url).path.removeprefix("/")
        with psycopg.connect(f"host={postgres.socket} dbname={name} user=postgres") as connection:
            connection.execute(TABLE)
            for row in ROWS:
                connection.execute("insert into chat values (%s, %s, %s)", row)
        yield Endpoint(kind="postgres", host="127.0.0.1", port=port, database=name, user="postgres", tls="disable")


@pytest.fixture
def sqlite_endpoint(tmp_path: Path) -> Endpoint:
    path = tmp_path / "chat.sqlite"
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute(TABLE)
        connection.executemany("insert into chat values (?, ?, ?)", ROWS)
    return Endpoint(kind="sqlite", database=str(path))


@pytest.fixture(params=["postgres", "sqlite"])
def endpoint(request: pytest.FixtureRequest) -> Endpoint:
    return request.getfixturevalue(f"{request.param}_endpoint")


def run(folder: Path, endpoint: Endpoint, query: str, **limits: Any) -> Any:
    source = {"kind": "sql", "connection": "db", "query": query}
    place = folder / f"run-{len(list(folder.glob('run-*')))}"
    place.mkdir()
    return fetched(place, source, endpoint=endpoint, secret={"password": "s3cr3t"}, roots=[str(folder)], **limits)


def rows_left(endpoint: Endpoint) -> int:
    if endpoint.kind == "sqlite":
        with closing(sqlite3.connect(endpoint.database or "")) as connection:
            return connection.execute("select count(*) from chat").fetchone()[0]
    told = f"host={endpoint.host} port={endpoint.port} dbname={endpoint.database} user=postgres sslmode=disable"
    with psycopg.connect(told) as connection:
        found = connection.execute("select count(*) from chat").fetchone()
        assert found is not None
        return found[0]


def test_the_columns_of_a_table_become_one(tmp_path: Path, endpoint: Endpoint) -> None:
    came = run(tmp_path, endpoint, "select n as conversation_id, human, assistant from chat order by n;")
    told = 'conversation_id,human,assistant\n1,Hallo,Guten Tag\n2,你好,"he said ""hi"", ok"\n3,x,y\n'
    assert came.only.decode() == told


def test_other_columns_become_objects_and_json_stays_json(tmp_path: Path, endpoint: Endpoint) -> None:
    messages = json.dumps([{"role": "user", "content": "hi"}, {"role": "assistant", "content": "ho"}])
    came = run(tmp_path, endpoint, f"select '{messages}' as messages, n, null as gone from chat where n < 3 order by n")
    assert came.rows == [{"messages": json.loads(messages), "n": 1}, {"messages": json.loads(messages), "n": 2}]


WRITES = [
    "delete from chat",
    "with gone as (delete from chat returning *) select * from gone",
    "insert into chat values (9, 'a', 'b') returning n",
    "select 1; delete from chat",
    "select * from chat; drop table chat; select 1",
    "create table other (n integer)",
    "drop table chat",
    "begin; delete from chat; commit",
]


@pytest.mark.parametrize("query", WRITES)
def test_nothing_that_writes_is_carried_out(tmp_path: Path, endpoint: Endpoint, query: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        run(tmp_path, endpoint, query)
    assert refused.value.error_code == "query_refused"
    assert rows_left(endpoint) == 3


@pytest.mark.parametrize(
    "query",
    [
        "select set_config('transaction_read_only', 'off', false)",
        "select set_config('default_transaction_read_only', 'off', false), nextval('s')",
        "copy chat to program 'touch /tmp/never'",
    ],
)
def test_postgres_is_not_talked_out_of_reading_only(tmp_path: Path, postgres_endpoint: Endpoint, query: str) -> None:
    with pytest.raises(InvalidRequest):
        run(tmp_path, postgres_endpoint, query)


def test_what_a_read_only_transaction_lets_through_is_never_committed(
    tmp_path: Path, postgres_endpoint: Endpoint
) -> None:
    """Before version 16 Postgres makes large objects there, too."""
    with suppress(InvalidRequest):
        run(tmp_path, postgres_endpoint, "select lo_create(424242) as made")
    left = run(tmp_path, postgres_endpoint, "select count(*) as n from pg_largeobject_metadata where oid = 424242")
    assert left.rows == [{"n": 0}]


@pytest.mark.parametrize(
    "query",
    [
        "select load_extension('x.so')",
        "attach database '/tmp/never.sqlite' as other",
        "pragma query_only = off",
        "select * from pragma_database_list",
        "vacuum into '/tmp/never.sqlite'",
    ],
)
def test_sqlite_reads_one_file_and_nothing_else(tmp_path: Path, sqlite_endpoint: Endpoint, query: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        run(tmp_path, sqlite_endpoint, query)
    assert refused.value.error_code == "query_refused"


SLOW = {
    "postgres": "select pg_sleep(60)",
    "sqlite": "with recursive n(i) as (select 1 union all select i + 1 from n) select count(*) from n",
}


def test_a_query_that_runs_too_long_is_stopped(tmp_path: Path, endpoint: Endpoint) -> None:
    with pytest.raises(InvalidRequest) as refused:
        run(tmp_path, endpoint, SLOW[endpoint.kind], statement_s=0.5)
    assert refused.value.error_code == "query_too_slow"


def test_a_query_that_lifts_its_own_time_limit_is_stopped_all_the_same(
    tmp_path: Path, postgres_endpoint: Endpoint
) -> None:
    query = (
        "select case when n = 1 then set_config('statement_timeout', '0', false) else pg_sleep(30)::text end from chat"
    )
    with pytest.raises(InvalidRequest) as refused:
        run(tmp_path, postgres_endpoint, query, statement_s=1.0)
    assert refused.value.error_code == "query_too_slow"


def test_rows_and_bytes_have_limits(tmp_path: Path, endpoint: Endpoint) -> None:
    with pytest.raises(TooLarge) as refused:
        run(tmp_path, endpoint, "select a.n from chat a, chat b, chat c", max_rows=20)
    assert refused.value.error_code == "too_many_rows"


def test_bytes_have_a_limit(tmp_path: Path, endpoint: Endpoint) -> None:
    wide = "repeat('x', 100000)" if endpoint.kind == "postgres" else "hex(zeroblob(50000))"
    with pytest.raises(TooLarge) as refused:
        run(tmp_path, endpoint, f"select {wide} as text from chat", max_bytes=150_000)
    assert refused.value.error_code == "source_too_large"


def test_a_value_larger_than_any_record_is_refused(
    tmp_path: Path, sqlite_endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sql, "MAX_VALUE_BYTES", 1_000_000)
    with pytest.raises(InvalidRequest):
        run(tmp_path, sqlite_endpoint, "select hex(zeroblob(900000)) as text")


def test_columns_that_share_a_name_are_refused(tmp_path: Path, endpoint: Endpoint) -> None:
    with pytest.raises(InvalidRequest) as refused:
        run(tmp_path, endpoint, "select human, human from chat")
    assert refused.value.error_code == "columns_unclear"


def test_bytes_that_are_no_text_are_refused_with_the_row(tmp_path: Path, endpoint: Endpoint) -> None:
    with pytest.raises(FineryError) as refused:
        run(
            tmp_path,
            endpoint,
            "select cast('a' as bytea) as text" if endpoint.kind == "postgres" else "select x'00' as t",
        )
    assert (refused.value.error_code, "row 1" in refused.value.message) == ("value_not_text", True)


def test_an_sqlite_file_behind_a_link_or_outside_is_not_opened(tmp_path: Path, sqlite_endpoint: Endpoint) -> None:
    (tmp_path / "link.sqlite").symlink_to(sqlite_endpoint.database or "")
    for place in (str(tmp_path / "link.sqlite"), "/etc/other.sqlite"):
        with pytest.raises(Forbidden):
            run(tmp_path, Endpoint(kind="sqlite", database=place), "select 1 as one")


def test_a_database_at_an_internal_address_is_not_connected_to(tmp_path: Path, postgres_endpoint: Endpoint) -> None:
    with pytest.raises(InvalidRequest) as refused:
        run(tmp_path, postgres_endpoint, "select 1 as one", allow_networks=[])
    assert refused.value.error_code == "address_not_allowed"


def test_a_database_that_is_away_is_no_mistake_of_the_user(tmp_path: Path, postgres_endpoint: Endpoint) -> None:
    away = postgres_endpoint.model_copy(update={"port": 1})
    with pytest.raises(Unavailable) as failed:
        run(tmp_path, away, "select 1 as one")
    assert "s3cr3t" not in failed.value.message
