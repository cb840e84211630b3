"""One way to the database for every service: plain functions of a Transaction, on SQLite and on Postgres.

A function that is handed to ``write`` cannot await, so no network call can hide inside a transaction. SQLite gets one
writer thread that groups commits (single commits are bounded by fsync, groups are not); Postgres gets a thread each.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import logging
import queue
import threading
from collections.abc import AsyncGenerator, Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, TypeVar

from sqlalchemy import MetaData, create_engine, event, text
from sqlalchemy.engine import Connection, Engine
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session
from sqlmodel import Session as SqlModelSession

from finery_contracts.errors import Unavailable
from finery_kit.outage import outages_told
from finery_kit.upgrade import add_what_is_missing

log = logging.getLogger("finery.db")
T = TypeVar("T")
GROUP = 50
# Keys of Postgres advisory locks; a database belongs to one service, so they cannot meet another's.
LOCK_TABLES, LOCK_RELAY, LOCK_OUTBOX = 4241, 4242, 4243


def utc_now() -> datetime:
    """The clock of a running service; tests hand in another."""
    return datetime.now(UTC)


@dataclass
class Transaction:
    """What a unit of work gets: the session, the time it began, and what to do before and once it is committed."""

    session: SqlModelSession
    now: datetime
    before_commit: list[Callable[[], None]] = field(default_factory=list[Callable[[], None]])
    after_commit: list[Callable[[], None]] = field(default_factory=list[Callable[[], None]])

    def run(self, work: Callable[[Transaction], T]) -> T:
        """The work, then what it left for the end, when no other statement of it is waiting."""
        answer = work(self)
        self.session.flush()
        for action in self.before_commit:
            action()
        return answer


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
        self._door = threading.Lock()  # so that nothing is handed in behind the writer's back
        self._held = set[Connection]()

    def open(self) -> None:
        """Make the tables and columns that are missing and start the writer."""
        with self._engine.begin() as connection:
            if not self.is_sqlite:  # two replicas that start at once
                connection.execute(text("select pg_advisory_xact_lock(:key)"), {"key": LOCK_TABLES})
            for metadata in self._metadata:
                add_what_is_missing(connection, metadata)
        if self.is_sqlite:
            self._writer = threading.Thread(target=self._write_in_groups, name="db-writer", daemon=True)
            self._writer.start()

    def close(self) -> None:
        """Finish what was handed in, then let go."""
        with self._door:
            writer, self._writer = self._writer, None
            self._units.put(None)
        if writer is not None:
            writer.join(timeout=30)
        self._pool.shutdown()
        for held in self._held.copy():  # by somebody who was cancelled and had no more time to give it back
            held.close()
        self._engine.dispose()

    def now(self) -> datetime:
        """What its transactions would call now."""
        return self._clock()

    async def write(self, work: Callable[[Transaction], T]) -> T:
        """Run ``work`` in a transaction and return after it is durable. It sees all writes before it.

        Raises:
            Unavailable: the database is full or away; nothing of the work happened.
        """
        context = contextvars.copy_context()
        with outages_told():
            if not self.is_sqlite:
                return await asyncio.get_running_loop().run_in_executor(self._pool, self._write_one, work, context)
            unit = _Unit(work, context, Future())
            with self._door:
                if self._writer is None:
                    raise Unavailable("the database is closed: the service is stopping")
                self._units.put(unit)
            return await asyncio.wrap_future(unit.done)

    async def read(self, work: Callable[[SqlModelSession], T]) -> T:
        """Run a query. It sees what was committed before it began.

        Raises:
            Unavailable: the database is away.
        """

        def run() -> T:
            with SqlModelSession(self._engine, expire_on_commit=False) as session:
                return work(session)

        with outages_told():
            return await asyncio.get_running_loop().run_in_executor(self._pool, run)

    @contextlib.asynccontextmanager
    async def alone(self, key: int) -> AsyncGenerator[bool]:
        """True inside while no other process holds ``key``; it is held across awaits, outside any transaction.

        SQLite: always True. Postgres: a lock of one session, so it needs a direct connection, not a pooler that hands
        out transactions; a connection that is cut loses it.
        """
        if self.is_sqlite:
            yield True
            return
        loop = asyncio.get_running_loop()
        taking = loop.run_in_executor(self._pool, self._take, key)
        try:
            yield await asyncio.shield(taking) is not None
        finally:  # whoever was cancelled while taking still gives back
            held = await taking
            if held is not None:
                await loop.run_in_executor(self._pool, self._give_back, held, key)

    def _take(self, key: int) -> Connection | None:
        connection = self._engine.connect().execution_options(isolation_level="AUTOCOMMIT")
        if connection.scalar(text("select pg_try_advisory_lock(:key)"), {"key": key}):
            self._held.add(connection)
            return connection
        connection.close()
        return None

    def _give_back(self, held: Connection, key: int) -> None:
        try:
            held.execute(text("select pg_advisory_unlock(:key)"), {"key": key})
        except DBAPIError as fault:  # the connection was cut, and the lock ended with it
            log.warning("lock_was_lost", extra={"key": key, "error": repr(fault)})
            held.invalidate()
        finally:
            held.close()
            self._held.discard(held)

    def _write_one(self, work: Callable[[Transaction], T], context: contextvars.Context) -> T:
        with SqlModelSession(self._engine, expire_on_commit=False) as session:
            transaction = Transaction(session, self._clock())
            answer = context.run(transaction.run, work)
            session.commit()
        _run_all(transaction.after_commit)
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

    def _commit_group(self, units: list[_Unit]) -> None:
        # From here on a caller that is cancelled cannot take its future away; one that was before is left out.
        group = [unit for unit in units if unit.done.set_running_or_notify_cancel()]
        answers: list[tuple[_Unit, Any]] = []
        actions: list[Callable[[], None]] = []
        try:
            with SqlModelSession(self._engine, expire_on_commit=False) as session:
                for unit in group:
                    transaction = Transaction(session, self._clock())
                    try:
                        with session.begin_nested():
                            answer = unit.context.run(transaction.run, unit.work)
                    except Exception as fault:
                        unit.done.set_exception(fault)
                        if not _in_transaction(session):
                            raise
                        continue
                    answers.append((unit, answer))
                    actions += transaction.after_commit
                session.commit()
        except Exception as fault:  # the commit itself: everybody in the group must hear of it
            for unit in group:
                if not unit.done.done():
                    unit.done.set_exception(fault)
            return
        _run_all(actions)
        for unit, answer in answers:
            unit.done.set_result(answer)


def _run_all(actions: list[Callable[[], None]]) -> None:
    """What failed here cannot undo what is committed, and must not stop the writer: it is logged."""
    for action in actions:
        try:
            action()
        except Exception:
            log.exception("after_commit_failed")


def _in_transaction(session: SqlModelSession) -> bool:
    """SQLite may end the whole transaction by itself (disk full): the driver's commit then passes for a success."""
    return bool(getattr(session.connection().connection, "in_transaction", False))


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


__all__ = ["LOCK_OUTBOX", "LOCK_RELAY", "Database", "Session", "Transaction", "utc_now"]
