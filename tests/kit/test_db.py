"""What a unit of work may rely on, on SQLite and on Postgres; some of it is a matter of one of them only."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator

import pytest
from sqlalchemy import MetaData, create_engine, text
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import registry
from sqlmodel import Field, Session, SQLModel, col, select

from finery_contracts.errors import Unavailable
from finery_kit.db import Database, Transaction
from tests.kit.delivery_rig import opened

METADATA = MetaData()
ON_SQLITE = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
ON_POSTGRES = pytest.mark.parametrize("database_url", ["postgres"], indirect=True)


class _Table(SQLModel, registry=registry(metadata=METADATA)):
    metadata = METADATA


class Word(_Table, table=True):
    """Something to write."""

    __tablename__ = "kit_test_word"
    place: int | None = Field(default=None, primary_key=True)
    text: str = Field(unique=True)


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    with opened(database_url, METADATA) as made:
        yield made


def add(tx: Transaction, word: str) -> str:
    tx.session.add(Word(text=word))
    return word


def words(session: Session) -> list[str]:
    return [row.text for row in session.exec(select(Word).order_by(col(Word.place)))]


class Gate:
    """Holds the writer until it is opened, so that what follows is put into one group."""

    def __init__(self) -> None:
        self.entered, self.opened = threading.Event(), threading.Event()

    def __call__(self, _tx: Transaction) -> None:
        self.entered.set()
        assert self.opened.wait(10)


async def behind_gate(database: Database) -> tuple[Gate, asyncio.Task[None]]:
    gate = Gate()
    held = asyncio.create_task(database.write(gate))
    await asyncio.to_thread(gate.entered.wait, 10)
    return gate, held


async def test_a_failing_unit_of_work_undoes_itself_and_nobody_else(database: Database):
    def fail_after_writing(tx: Transaction) -> None:
        add(tx, "half")
        tx.session.flush()
        raise ValueError("changed my mind")

    def break_a_rule(tx: Transaction) -> None:
        add(tx, "one")

    gate, held = await behind_gate(database)
    works = [lambda tx: add(tx, "one"), fail_after_writing, break_a_rule, lambda tx: add(tx, "two")]
    first = asyncio.create_task(database.write(works[0]))
    if not database.is_sqlite:  # there they run side by side: let the rule have something to be broken against
        await first
    others = [asyncio.create_task(database.write(work)) for work in works[1:]]
    await asyncio.sleep(0)
    gate.opened.set()
    answers = await asyncio.gather(first, *others, return_exceptions=True)
    await held

    assert answers[0] == "one"
    assert isinstance(answers[1], ValueError)
    assert isinstance(answers[2], IntegrityError)
    assert answers[3] == "two"
    assert sorted(await database.read(words)) == ["one", "two"]


async def test_what_was_awaited_is_durable_and_seen_by_another_connection(database: Database, database_url: str):
    def seen() -> list[str]:
        engine = create_engine(database_url)
        with Session(engine) as session:
            found = words(session)
        engine.dispose()
        return found

    await asyncio.gather(*(database.write(lambda tx, n=n: add(tx, f"w{n}")) for n in range(120)))

    assert sorted(await asyncio.to_thread(seen)) == sorted(f"w{n}" for n in range(120))


@ON_SQLITE
async def test_units_of_work_are_applied_in_the_order_they_were_handed_in(database: Database):
    await asyncio.gather(*(database.write(lambda tx, n=n: add(tx, f"w{n:03}")) for n in range(300)))

    assert await database.read(words) == [f"w{n:03}" for n in range(300)]


async def test_a_write_is_seen_by_the_next_read_and_the_next_write(database: Database):
    for n in range(20):
        await database.write(lambda tx, n=n: add(tx, f"w{n}"))
        assert len(await database.read(words)) == n + 1
        assert len(await database.write(lambda tx: words(tx.session))) == n + 1


@ON_SQLITE
async def test_a_unit_of_a_group_sees_what_the_units_before_it_wrote(database: Database):
    gate, held = await behind_gate(database)
    first = asyncio.create_task(database.write(lambda tx: add(tx, "one")))
    second = asyncio.create_task(database.write(lambda tx: words(tx.session)))
    await asyncio.sleep(0)
    gate.opened.set()

    assert await asyncio.gather(held, first, second) == [None, "one", ["one"]]


@ON_SQLITE
async def test_a_caller_that_is_cancelled_while_waiting_takes_nobody_down(database: Database):
    gate, held = await behind_gate(database)
    gone = asyncio.create_task(database.write(lambda tx: add(tx, "gone")))
    stays = asyncio.create_task(database.write(lambda tx: add(tx, "stays")))
    await asyncio.sleep(0)

    gone.cancel()
    await asyncio.gather(gone, return_exceptions=True)
    gate.opened.set()

    assert gone.cancelled()
    assert await stays == "stays"
    await held
    assert await database.write(lambda tx: add(tx, "later")) == "later"
    assert await database.read(words) == ["stays", "later"]


@ON_SQLITE
async def test_a_caller_that_is_cancelled_while_its_work_runs_takes_nobody_down(database: Database):
    gate, held = await behind_gate(database)

    held.cancel()
    await asyncio.gather(held, return_exceptions=True)
    gate.opened.set()

    assert await database.write(lambda tx: add(tx, "later")) == "later"


async def test_what_fails_after_the_commit_harms_neither_the_answer_nor_the_next_write(
    database: Database, caplog: pytest.LogCaptureFixture
):
    ran: list[str] = []

    def work(tx: Transaction) -> str:
        tx.after_commit.append(lambda: {}["missing"])
        tx.after_commit.append(lambda: ran.append("second"))
        return add(tx, "one")

    assert await database.write(work) == "one"
    assert await database.write(lambda tx: add(tx, "two")) == "two"
    assert ran == ["second"]
    assert "after_commit_failed" in caplog.text


@ON_SQLITE
async def test_when_sqlite_ends_the_transaction_by_itself_everybody_in_the_group_hears_of_it(database: Database):
    def lose_everything(tx: Transaction) -> None:  # what SQLite may do when the disk is full
        tx.session.connection().exec_driver_sql("ROLLBACK")
        raise OSError("disk full")

    gate, held = await behind_gate(database)
    works = [lambda tx: add(tx, "before"), lose_everything, lambda tx: add(tx, "after")]
    tasks = [asyncio.create_task(database.write(work)) for work in works]
    await asyncio.sleep(0)
    gate.opened.set()
    answers = await asyncio.gather(held, *tasks, return_exceptions=True)

    assert [isinstance(answer, Exception) for answer in answers] == [False, True, True, True]
    assert await database.read(words) == []
    assert await database.write(lambda tx: add(tx, "later")) == "later"


async def test_nothing_is_run_before_the_commit_of_a_unit_that_failed(database: Database):
    ran: list[str] = []

    def work(tx: Transaction, name: str, *, fails: bool) -> None:
        tx.before_commit.append(lambda: ran.append(f"before {name}"))
        tx.after_commit.append(lambda: ran.append(f"after {name}"))
        if fails:
            raise ValueError(name)

    with pytest.raises(ValueError, match="bad"):
        await database.write(lambda tx: work(tx, "bad", fails=True))
    await database.write(lambda tx: work(tx, "good", fails=False))

    assert ran == ["before good", "after good"]


@ON_SQLITE
async def test_closing_finishes_what_was_handed_in_and_refuses_the_rest(database_url: str):
    database = Database(database_url, METADATA)
    database.open()
    gate, held = await behind_gate(database)
    waiting = asyncio.create_task(database.write(lambda tx: add(tx, "in time")))
    await asyncio.sleep(0)

    closing = asyncio.create_task(asyncio.to_thread(database.close))
    while database._writer is not None:
        await asyncio.sleep(0)
    with pytest.raises(Unavailable, match="stopping"):
        await database.write(lambda tx: add(tx, "too late"))
    gate.opened.set()

    assert await waiting == "in time"
    await asyncio.gather(held, closing)


@ON_POSTGRES
async def test_of_two_processes_one_is_alone_and_the_lock_outlives_awaits(database: Database, database_url: str):
    other = Database(database_url, METADATA)
    other.open()
    try:
        async with database.alone(7) as first:
            await database.write(lambda tx: add(tx, "one"))
            async with other.alone(7) as second:
                assert (first, second) == (True, False)
        async with other.alone(7) as after:
            assert after
    finally:
        other.close()


@ON_POSTGRES
async def test_a_lock_is_given_back_by_a_caller_that_was_cancelled(database: Database):
    async def hold(entered: asyncio.Event) -> None:
        async with database.alone(7):
            entered.set()
            await asyncio.Event().wait()

    for wait_until_held in (True, False):
        entered = asyncio.Event()
        holder = asyncio.create_task(hold(entered))
        await (entered.wait() if wait_until_held else asyncio.sleep(0))
        holder.cancel()
        await asyncio.gather(holder, return_exceptions=True)

        async with database.alone(7) as free:
            assert free


@ON_POSTGRES
async def test_a_lock_whose_connection_was_cut_is_free_again(database: Database):
    cut = text(
        "select pg_terminate_backend(pid) from pg_locks where locktype = 'advisory' and objid = 7 and classid = 0"
    )
    async with database.alone(7):
        await database.read(lambda session: session.scalar(cut))

    async with database.alone(7) as free:
        assert free


@ON_POSTGRES
async def test_closing_gives_back_a_lock_that_is_still_held(database: Database, database_url: str):
    other = Database(database_url, METADATA)
    other.open()
    holding = other.alone(7)
    assert await holding.__aenter__()
    other.close()

    async with database.alone(7) as free:
        assert free
    with pytest.raises(RuntimeError, match="shutdown"):
        await holding.__aexit__(None, None, None)
