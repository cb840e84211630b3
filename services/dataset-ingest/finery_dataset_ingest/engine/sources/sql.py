"""The rows of one query, read by a connection that cannot write.

Postgres: a read-only transaction and a cursor, which takes one statement that only reads. SQLite: a file opened for
reading, and an authorizer that lets nothing but reading through. Both end at the limits of rows, bytes and time.
"""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import Any

from finery_contracts.errors import Forbidden, InvalidRequest, TooLarge, Unavailable
from finery_contracts.sources import Endpoint, Limits, Origin, SqlSource
from finery_dataset_ingest.engine.sources.rows import RowWriter
from finery_ml.sources.files import opened
from finery_ml.sources.guard import addresses
from finery_ml.sources.landing import Landing, within

ROWS_AT_ONCE = 500
MAX_VALUE_BYTES = 16 * 2**20
HEAP_BYTES = 256 * 2**20
READS = {sqlite3.SQLITE_SELECT, sqlite3.SQLITE_READ, sqlite3.SQLITE_FUNCTION, sqlite3.SQLITE_RECURSIVE}
FORBIDDEN_FUNCTIONS = {"load_extension", "readfile", "writefile", "edit", "fts3_tokenizer"}


def fetch(source: SqlSource, origin: Origin, landing: Landing) -> None:
    """Every row, under the names of the columns."""
    assert origin.endpoint is not None
    query = source.query.strip().removesuffix(";")
    read = _sqlite if origin.endpoint.kind == "sqlite" else _postgres
    limits = origin.limits
    late = InvalidRequest(
        f"the query ran longer than {limits.statement_s:g} s; ask for less, or for what an index gives",
        code="query_too_slow", param="source",
    )  # fmt: skip
    with within(limits.statement_s + 1, late), read(query, origin, late) as (columns, rows):
        with landing.begin(source.connection) as arrival:
            writer = RowWriter(columns, arrival)
            for row in rows:
                writer.add(dict(zip(columns, row, strict=True)))
                if writer.rows > limits.max_rows:
                    raise TooLarge(f"the query gives more than {limits.max_rows:,} rows; ask for fewer",
                                   code="too_many_rows", param="source")  # fmt: skip
        landing.tell()


@contextmanager
def _sqlite(query: str, origin: Origin, late: InvalidRequest) -> Iterator[tuple[list[str], Iterator[Any]]]:
    assert origin.endpoint is not None
    path = origin.endpoint.database or ""
    with opened(f"file://{path}", origin.limits.roots) as descriptor:
        inode = os.fstat(descriptor).st_ino
    with closing(_open_sqlite(path, late, origin.limits)) as connection:
        if os.stat(path, follow_symlinks=False).st_ino != inode:
            raise Forbidden(f"{path} was exchanged while it was opened", code="path_not_allowed", param="source")
        try:
            cursor = connection.execute(query)
            if cursor.description is None:
                raise _no_rows()
            yield [column[0] for column in cursor.description], _in_groups(cursor)
        except (sqlite3.Error, sqlite3.Warning) as fault:
            if "interrupted" in str(fault):
                raise late from fault
            raise _refused(fault) from fault


def _open_sqlite(path: str, late: InvalidRequest, limits: Limits) -> sqlite3.Connection:
    quoted = path.replace("%", "%25").replace("?", "%3f").replace("#", "%23")
    try:
        connection = sqlite3.connect(f"file:{quoted}?mode=ro", uri=True, timeout=5)
        connection.execute("PRAGMA trusted_schema = OFF")
        connection.execute("PRAGMA query_only = ON")
        connection.execute("PRAGMA mmap_size = 0")
        connection.execute(f"PRAGMA hard_heap_limit = {HEAP_BYTES}")
    except sqlite3.Error as fault:
        raise InvalidRequest(f"{path} is no SQLite file that can be read", code="source_refused") from fault
    connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, MAX_VALUE_BYTES)
    connection.setlimit(sqlite3.SQLITE_LIMIT_ATTACHED, 0)
    until = time.monotonic() + limits.statement_s
    connection.set_progress_handler(lambda: time.monotonic() > until, 10_000)
    connection.set_authorizer(_may)
    return connection


def _may(action: int, first: str | None, second: str | None, _database: str | None, _trigger: str | None) -> int:
    if action == sqlite3.SQLITE_FUNCTION and (second or "").lower() in FORBIDDEN_FUNCTIONS:
        return sqlite3.SQLITE_DENY
    return sqlite3.SQLITE_OK if action in READS else sqlite3.SQLITE_DENY


@contextmanager
def _postgres(query: str, origin: Origin, late: InvalidRequest) -> Iterator[tuple[list[str], Iterator[Any]]]:
    import psycopg

    assert origin.endpoint is not None
    try:
        with (
            closing(_open_postgres(origin.endpoint, origin)) as connection,  # nothing is ever committed
            connection.cursor(name="finery", scrollable=False) as cursor,
        ):
            cursor.itersize = ROWS_AT_ONCE
            cursor.execute(query.encode())
            if cursor.description is None:
                raise _no_rows()
            yield [column.name for column in cursor.description], iter(cursor)
    except psycopg.errors.QueryCanceled as fault:
        raise late from fault
    except psycopg.OperationalError as fault:
        if fault.sqlstate is None or fault.sqlstate.startswith(("08", "53", "57")):
            told = f"the database does not answer: {_first_line(fault)}"
            raise Unavailable(told, code="source_unreachable") from None
        raise _refused(fault) from None
    except psycopg.Error as fault:
        raise _refused(fault) from None


def _open_postgres(endpoint: Endpoint, origin: Origin) -> Any:
    import psycopg

    host, milliseconds = endpoint.host or "", int(origin.limits.statement_s * 1000)
    connection = psycopg.connect(
        host=host, hostaddr=addresses(host, endpoint.port, origin.limits)[0], port=endpoint.port,
        dbname=endpoint.database, user=endpoint.user, password=(origin.secret or {}).get("password", ""),
        sslmode=endpoint.tls, passfile="/dev/null", connect_timeout=10, application_name="finery-ingest",
        options=f"-c statement_timeout={milliseconds} -c default_transaction_read_only=on",
    )  # fmt: skip
    connection.read_only = True
    return connection


def _in_groups(cursor: sqlite3.Cursor) -> Iterator[Any]:
    while rows := cursor.fetchmany(ROWS_AT_ONCE):
        yield from rows


def _refused(fault: Exception) -> InvalidRequest:
    return InvalidRequest(f"the query was refused: {_first_line(fault)}", code="query_refused", param="source")


def _no_rows() -> InvalidRequest:
    return InvalidRequest("the query gives no rows; send one SELECT", code="query_refused", param="source")


def _first_line(fault: Exception) -> str:
    return (str(fault).strip().splitlines() or [type(fault).__name__])[0][:300]
