"""One way to the database for every service: plain functions of a Transaction, on SQLite and on Postgres.

A function that is handed to ``write`` cannot await, so no network call can hide inside a transaction. SQLite gets one
writer thread that groups commits (single commits are bounded by fsync, groups are not); Postgres gets a thread each.
"""

from __future__ import annotations

import asyncio
import contextvars
import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, TypeVar

from sqlalchemy import MetaData, create_engine, event
from sqlalchemy.engine import Connection, Engine
from sqlalchemy.orm import Session
from sqlmodel import Session as SqlModelSession

from finery_contracts.errors import Unavailable

T = TypeVar("T")
GROUP = 50


def utc_now() -> datetime:
    """The clock of a running service; tests hand in another."""
    return datetime.now(UTC)


@dataclass
class Transaction:
    """What a unit of work gets: the session, the time it began, and what to do once it is committed."""

    session: SqlModelSession
    now: datetime
    after_commit: list[Callable[[], None]] = field(default_factory=list[Callable[[], None]])


@dataclass
class _Unit:
    work: Callable[[Transaction], Any]
    context: contextvars.Context
    done: Future[Any]


class Database:
    """A service's own database. Nobody else opens it."""

    def __init__(self, url: str, *metadata: MetaData, clock: Callable[[], datetime] = utc_now) -> None:
        self.url = url
        self._clock = clock
        self._metadata = metadata
        self.is_sqlite = url.startswith("sqlite")
        self._engine = _sqlite_engine(url) if self.is_sqlite else create_engine(url, pool_size=10)
        self._pool = ThreadPoolExecutor(max_workers=4 if self.is_sqlite else 8, thread_name_prefix="db")
        self._units: queue.SimpleQueue[_Unit | None] = queue.SimpleQueue()
        self._writer: threading.Thread | None = None

    def open(self) -> None:
        """Make the tables that are missing and start the writer."""
        for metadata in self._metadata:
            metadata.create_all(self._engine)
        if self.is_sqlite:
            self._writer = threading.Thread(target=self._write_in_groups, name="db-writer", daemon=True)
            self._writer.start()

    def close(self) -> None:
        """Finish what was handed in, then let go."""
        if self._writer is not None:
            self._units.put(None)
            self._writer.join(timeout=30)
            self._writer = None
        self._pool.shutdown()
        self._engine.dispose()

    async def write(self, work: Callable[[Transaction], T]) -> T:
        """Run ``work`` in a transaction and return after it is durable. It sees all writes before it."""
        context = contextvars.copy_context()
        if self.is_sqlite:
            if self._writer is None:
                raise Unavailable("the database is closed: the service is stopping")
            unit = _Unit(work, context, Future())
            self._units.put(unit)
            return await asyncio.wrap_future(unit.done)
        return await asyncio.get_running_loop().run_in_executor(self._pool, self._write_one, work, context)

    async def read(self, work: Callable[[SqlModelSession], T]) -> T:
        """Run a query. It sees what was committed before it began."""

        def run() -> T:
            with SqlModelSession(self._engine, expire_on_commit=False) as session:
                return work(session)

        return await asyncio.get_running_loop().run_in_executor(self._pool, run)

    def _write_one(self, work: Callable[[Transaction], T], context: contextvars.Context) -> T:
        with SqlModelSession(self._engine, expire_on_commit=False) as session:
            transaction = Transaction(session, self._clock())
            answer = context.run(work, transaction)
            session.commit()
        for action in transaction.after_commit:
            action()
        return answer

    def _write_in_groups(self) -> None:
        while True:
            unit = self._units.get()
            if unit is None:
                return
            group = [unit]
            stop = False
            while len(group) < GROUP and not self._units.empty():
                following = self._units.get()
                if following is None:
                    stop = True
                    break
                group.append(following)
            self._commit_group(group)
            if stop:
                return

    def _commit_group(self, group: list[_Unit]) -> None:
        answers: list[tuple[_Unit, Any]] = []
        actions: list[Callable[[], None]] = []
        try:
            with SqlModelSession(self._engine, expire_on_commit=False) as session:
                for unit in group:
                    transaction = Transaction(session, self._clock())
                    try:
                        with session.begin_nested():
                            answer = unit.context.run(unit.work, transaction)
                    except Exception as fault:
                        unit.done.set_exception(fault)
                        continue
                    answers.append((unit, answer))
                    actions += transaction.after_commit
                session.commit()
        except Exception as fault:  # the commit itself: everybody in the group must hear of it
            for unit in group:
                if not unit.done.done():
                    unit.done.set_exception(fault)
            return
        for action in actions:
            action()
        for unit, answer in answers:
            unit.done.set_result(answer)


def _sqlite_engine(url: str) -> Engine:
    engine = create_engine(url, connect_args={"check_same_thread": False, "timeout": 15})

    def configure(connection: Any, _record: Any) -> None:
        # SQLAlchemy begins the transactions (see below), the driver must not.
        connection.isolation_level = None
        cursor = connection.cursor()
        for pragma in ("journal_mode=WAL", "synchronous=FULL", "busy_timeout=15000", "foreign_keys=ON"):
            cursor.execute(f"PRAGMA {pragma}")
        cursor.close()

    def begin(connection: Connection) -> None:
        immediate = threading.current_thread().name == "db-writer"
        connection.exec_driver_sql("BEGIN IMMEDIATE" if immediate else "BEGIN")

    event.listen(engine, "connect", configure)
    event.listen(engine, "begin", begin)
    return engine


__all__ = ["Database", "Session", "Transaction", "utc_now"]
