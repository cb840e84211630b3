"""Lists of tasks: filters, search, orders and pages; and at 200,000 tasks every one of them by an index (SPEC TA2)."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator, Callable
from typing import Any, get_args

import pytest
import pytest_asyncio
from admission_rig import AdmissionRig, admission_rig
from sqlalchemy import text

from finery_contracts.errors import InvalidRequest
from finery_contracts.jobs import TaskKind
from finery_studio.tasks.listing import Sort, Wanted, cursor, list_tasks, metadata_of, page_of
from finery_studio.tasks.store import TaskRow, label_of

MANY = 200_000
SORTS: tuple[Sort, ...] = get_args(Sort)
KEYS: dict[str, Callable[[Any], Any]] = {
    "created": lambda row: row.id, "name": lambda row: (row.name, row.id), "state": lambda row: (row.state, row.id),
    "priority": lambda row: (row.priority, row.id),
}  # fmt: skip


@pytest_asyncio.fixture
async def rig(database_url: str) -> AsyncIterator[AdmissionRig]:
    async with admission_rig(database_url) as made:
        yield made


async def names(rig: AdmissionRig, project: str = "a", **said: Any) -> list[str]:
    rows = await rig.database.read(lambda s: list_tasks(s, project, Wanted(**said)))
    return [row.name for row in rows]


@pytest.mark.parametrize("sort", SORTS)
async def test_pages_of_every_order_join_without_gap_or_double(rig: AdmissionRig, sort: Sort) -> None:
    for number in range(11):
        await rig.submit("a", name=f"n{number % 4}~{number % 2}", priority=number % 3)
    await rig.submit("b", name="n0")
    await rig.claim()
    found, after = list[Any](), None
    for _ in itertools.count():
        wanted = Wanted(sort=sort, after=after, limit=3)
        page = await rig.database.read(lambda s, w=wanted: list_tasks(s, "a", w))
        if not page:
            break
        found, after = [*found, *page], cursor(page[-1], sort)

    assert len(found) == len({row.id for row in found}) == 11
    assert found == sorted(found, key=KEYS[sort.removeprefix("-")], reverse=sort.startswith("-"))


async def test_filters_search_and_metadata_hold_together(rig: AdmissionRig) -> None:
    await rig.submit("a", name="Desk_Blue", metadata={"team": "shop", "run": "1"})
    await rig.submit("a", TaskKind.VALIDATE, name="desk-red", metadata={"team": "shop"}, priority=9)
    await rig.submit("a", name="100%", metadata={"team": "shop", "run": "2" * 5000})
    await rig.submit("b", name="desk-of-another", metadata={"team": "shop"})
    await rig.claim()

    assert await names(rig, search="DESK") == ["desk-red", "Desk_Blue"]
    assert await names(rig, search="k_") == ["Desk_Blue"]
    assert await names(rig, search="%") == ["100%"]
    assert await names(rig, kind="validate", search="desk") == ["desk-red"]
    assert await names(rig, state="preparing") == ["Desk_Blue"]
    assert await names(rig, metadata={"team": "shop"}) == ["100%", "desk-red", "Desk_Blue"]
    assert await names(rig, metadata={"team": "shop"}, sort="name", limit=2) == ["100%", "Desk_Blue"]
    assert await names(rig, metadata={"team": "shop", "run": "2" * 5000}) == ["100%"]
    assert await names(rig, metadata={"team": "shop", "run": "3"}) == []
    assert await names(rig, user="ann", pool="public", sort="-priority") == ["100%", "Desk_Blue", "desk-red"]
    assert await names(rig, user="bob") == []
    one = (await rig.database.read(lambda s: list_tasks(s, "a", Wanted(search="100"))))[0]
    assert await names(rig, search=one.id) == ["100%"]
    assert await names(rig, "b", search=one.id) == []


async def test_a_deleted_task_is_found_by_nothing(rig: AdmissionRig) -> None:
    task = await rig.submit("a", metadata={"team": "shop"})
    await rig.write(lambda tx: rig.tasks.terminate(tx, "a", task.id))
    await rig.write(lambda tx: rig.tasks.delete(tx, "a", task.id))
    assert await names(rig, metadata={"team": "shop"}) == []
    labels = await rig.database.read(lambda s: s.execute(text("select count(*) from task_label")).scalar())
    assert (labels, await rig.drift()) == (0, [])


@pytest.mark.parametrize("after", ["nonsense", "urgent~task_1", "~task_1"])
def test_a_cursor_of_another_order_is_refused(after: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        page_of("a", Wanted(sort="priority", after=after))
    assert refused.value.error_code == "cursor_invalid"


def test_metadata_is_read_from_the_query_as_openai_writes_it() -> None:
    assert metadata_of("metadata[team]=shop&limit=3&metadata%5Bx%5D=&metadata=1") == {"team": "shop", "x": ""}


# --- at 200,000 tasks -------------------------------------------------------------------------------------------------

COPIES = {"id": "'task_' || n", "project": "'prj_' || (n % 20)", "name": "'tune-' || n", "kind": "'tune'",
          "state": "'succeeded'"}  # fmt: skip
"""Columns that differ from the task that is copied."""
LABELS = "insert into task_label (project, label, task) select project, '{label}', id from task where {rare}"
FIRST = 100_000_000
NUMBERS = {
    "sqlite": "with recursive c(n) as (select {0} union all select n + 1 from c where n < {1}) select n from c",
    "postgresql": "select n from generate_series({0}, {1}) as n",
}
LISTS: dict[str, Wanted] = {
    **{f"sorted by {sort}": Wanted(sort=sort) for sort in SORTS},
    **{f"a late page by {sort}": Wanted(sort=sort, after=place) for sort, place in {
        "-created": "task_100150000", "created": "task_100150000", "name": "tune-100150000~task_100150000",
        "-name": "tune-100150000~task_100150000", "state": "succeeded~task_100150000",
        "priority": "50~task_100150000", "-priority": "50~task_100150000"}.items()},
    "of a kind": Wanted(kind="tune"),
    "in a state": Wanted(state="succeeded"),
    "in a state that is rare": Wanted(state="failed", sort="name"),
    "of a kind by priority": Wanted(kind="tune", sort="-priority"),
    "searched": Wanted(search="0015"),
    "searched for what is not there": Wanted(search="nothing like it"),
    "with metadata": Wanted(metadata={"team": "shop"}),
    "with two of metadata": Wanted(metadata={"team": "shop", "run": "1"}, after="task_100150000"),
    "with metadata by name": Wanted(metadata={"team": "shop"}, sort="name", state="succeeded"),
}  # fmt: skip


async def test_at_200000_tasks_no_list_reads_the_table_from_end_to_end(rig: AdmissionRig) -> None:
    kind = "sqlite" if rig.database.is_sqlite else "postgresql"

    pattern = await rig.submit("pattern")
    await rig.write(lambda tx: rig.tasks.terminate(tx, "pattern", pattern.id))
    table: Any = vars(TaskRow)["__table__"]

    def fill(tx: Any) -> None:
        for index in table.indexes:  # made afterwards, in one go: three times as quick
            index.drop(tx.session.connection())
        names = [column.name for column in table.columns]
        values = ", ".join(COPIES.get(name, name) for name in names)
        numbers = NUMBERS[kind].format(FIRST, FIRST + MANY - 1)
        tx.session.execute(
            text(f"insert into task ({', '.join(names)}) select {values} from task, ({numbers}) as many")
        )
        for entry, some in ((("team", "shop"), "%777"), (("run", "1"), "%777"), (("any", "thing"), "%3")):
            tx.session.execute(text(LABELS.format(label=label_of(*entry), rare=f"id like '{some}'")))
        for index in table.indexes:
            index.create(tx.session.connection())
        tx.session.execute(text("analyze"))

    await rig.write(fill)
    plans = {name: await _plan(rig, wanted) for name, wanted in LISTS.items()}

    for name, plan in plans.items():
        whole = [line for line in plan if "Seq Scan" in line or (line.startswith("SCAN ") and "USING" not in line)]
        assert not whole, f"{name}: {plan}"
        assert any("ix_task_" in line or "_pkey" in line or "task_label" in line for line in plan), f"{name}: {plan}"
    if rig.database.is_sqlite:  # Postgres does so once it has vacuumed
        assert "COVERING INDEX ix_task_by_age" in "".join(plans["searched"]), plans["searched"]
    orders = ("sorted by", "a late page", "with metadata", "of a kind", "in a state")
    for name in (name for name in LISTS if name.startswith(orders) and "by name" not in name and "rare" not in name):
        sorting = [line for line in plans[name] if line.strip().startswith(("Sort", "USE TEMP B-TREE FOR ORDER BY"))]
        assert not sorting, f"{name} sorts what it found: {plans[name]}"
    assert len(await names(rig, "prj_3", search="100150003")) == 1
    assert len(await names(rig, "prj_17", metadata={"team": "shop"}, limit=100)) == 100


async def _plan(rig: AdmissionRig, wanted: Wanted) -> list[str]:
    def explain(session: Any) -> list[str]:
        bind = session.get_bind()
        told = str(page_of("prj_17", wanted).compile(bind, compile_kwargs={"literal_binds": True}))
        prefix = "explain query plan " if rig.database.is_sqlite else "explain "
        with bind.connect().execution_options(no_parameters=True) as connection:
            return [str(row[-1]) for row in connection.exec_driver_sql(prefix + told)]

    return await rig.database.read(explain)
