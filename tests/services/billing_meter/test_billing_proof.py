"""The ledger is provable from the event log, line by line; what somebody changed, added or took away is named."""

from __future__ import annotations

import random
from datetime import timedelta
from decimal import Decimal

import pytest
from billing_rig import AT, PRICES, Rig, attempt_ended, call_of, instance_ended, usage_recorded
from sqlalchemy import text
from test_billing_exactly_once import FIRST, OFFERS, prices_of, random_facts

from finery_billing_meter.ledger import verify
from finery_billing_meter.packages import handlers as packages
from finery_contracts.access import Role
from finery_contracts.errors import Forbidden
from finery_contracts.ids import new_id
from finery_contracts.registry import parse_event

FACTS = [
    attempt_ended(running_s=1234.567),
    attempt_ended("task_2", running_s=5000.25, flavour="gpu", instances=3),
    instance_ended(running_s=77.7),
    usage_recorded([call_of("dep_1", "key_1", 1000, 10)]),
]


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verify, "PAUSE_S", 0.0)


async def heard(rig: Rig) -> Rig:
    await rig.hear_all(FACTS)
    rig.log.events = list(FACTS)
    return rig


async def keep_what_was_said(rig: Rig) -> None:
    """Studio's log hears what the meter says, too."""
    rig.log.events += [parse_event(row.body) for row in await rig.said() if row.noun == "package"]


async def change(rig: Rig, statement: str) -> None:
    await rig.database.write(lambda tx: tx.session.connection().execute(text(statement)))


async def test_a_ledger_that_says_what_the_log_gives_is_proven(rig: Rig):
    await heard(rig)

    found = await rig.ask("bill.verify")

    assert (found.ok, found.facts, found.lines, found.differences) == (True, 4, 5, [])
    assert found.total_ledger == found.total_log == (await rig.ask("bill.summary")).total != 0


@pytest.mark.parametrize("seed", range(3))
async def test_packages_corrections_and_expiries_are_proven_too(rig: Rig, seed: int):
    dice = random.Random(seed)
    rig.prices, facts = prices_of(dice), random_facts(dice, 40)
    rig.log.events = [*facts, *(fact.model_copy(update={"id": new_id("evt")}) for fact in facts[:9])]
    dice.shuffle(rig.log.events)
    for day, part in ((0, 0), (20, 1), (95, 2)):
        rig.clock.now = FIRST + timedelta(days=day)
        for project in ("proj_1", "proj_2"):
            await rig.ask("package.buy", offer=dice.choice(OFFERS).name, project=project)
        for fact in rig.log.events[part::3]:
            await rig.hear(fact)
        await rig.database.write(packages.expire)
    await keep_what_was_said(rig)

    one = await rig.ask("bill.verify")
    everything = await rig.ask("bill.verify", role=Role.OPERATOR, all_projects=True)

    assert one.differences == []
    assert everything.differences == []
    assert (one.ok, everything.ok) == (True, True)
    assert everything.lines > one.lines > 0
    assert any(line.corrects for line in await rig.lines())


@pytest.mark.parametrize(
    ("statement", "what"),
    [
        ("update ledger_line set amount_parts = amount_parts + 1, posted_parts = posted_parts + 1", "amount"),
        ("update ledger_line set posted_parts = 0", "posted"),
        ("update ledger_line set quantity_parts = 5", "quantity"),
        ("update ledger_line set unit_price = '0.11'", "unit_price"),
        ("update ledger_line set credit = 'revenue:pocket'", "credit"),
        ("update ledger_line set created_by = 'user_9'", "created_by"),
        ("update ledger_line set started_at = '2026-01-01T00:00:00.000000+00:00'", "started_at"),
        ("update ledger_line set event = 'evt_1'", "event"),
        ("update ledger_line set noun = 'package'", "noun"),
        ("update ledger_line set name = 'somebody else'", "name"),
        ("update ledger_line set flavour = 'gpu'", "flavour"),
        ("update ledger_line set pool = 'own'", "pool"),
        ("update ledger_line set instances = 3", "instances"),
        ("update ledger_line set running = '1.0'", "running"),
        ("update ledger_line set unit = 'token'", "unit"),
        ("update ledger_line set revision = 2", "revision 0 is not there"),
        ("delete from ledger_line", "missing"),
        ("update ledger_line set source = 'task:task_1:9:1'", "surplus"),
    ],
)
async def test_what_was_tampered_with_is_named(rig: Rig, statement: str, what: str):
    await heard(rig)
    await change(rig, f"{statement} where source = 'task:task_1:1:1'")

    found = await rig.ask("bill.verify")

    assert not found.ok
    assert what in {difference.what for difference in found.differences}
    named = {difference.key.split("#")[0] for difference in found.differences}
    assert named <= {"task:task_1:1:1", "task:task_1:9:1"}


@pytest.mark.parametrize(
    "statement",
    ["update token_count set tokens = tokens - 1", "delete from token_count", "update token_count set key = 'x'"],
)
async def test_a_counter_of_tokens_that_was_tampered_with_is_named(rig: Rig, statement: str):
    rig.log.events = [usage_recorded([call_of("dep_1", "key_1", 100, 0)])]
    await rig.hear_all(rig.log.events)
    assert (await rig.ask("bill.verify")).ok
    await change(rig, statement)

    found = await rig.ask("bill.verify")

    assert not found.ok
    assert "usage:seg_1:0:dep_1:prompt:key_1" in {difference.key for difference in found.differences}


@pytest.mark.parametrize(
    "statement",
    [
        "update ledger_line set noun_id = 'task_9' where revision = 0 and source = 'task:task_late:1:1'",
        "update ledger_line set started_at = ended_at where revision = 1",
        "update ledger_line set corrects = '' where revision = 1",
    ],
)
async def test_what_was_reversed_may_not_be_changed_either(rig: Rig, statement: str):
    rig.prices = PRICES.model_copy(update={"packages": OFFERS})
    rig.clock.now = FIRST
    await rig.ask("package.buy", offer="month")
    for name, hour in (("task_late", 40), ("task_early", 1)):
        rig.log.events.append(
            attempt_ended(name, running_s=30 * 3600.0, flavour="gpu", started_at=FIRST + timedelta(hours=hour))
        )
        await rig.hear(rig.log.events[-1])
    await keep_what_was_said(rig)
    assert (await rig.ask("bill.verify")).ok
    assert any(line.corrects for line in await rig.lines())
    await change(rig, statement)

    assert not (await rig.ask("bill.verify")).ok


async def test_a_fact_that_never_arrived_and_a_line_without_a_fact_are_told_apart(rig: Rig):
    await heard(rig)
    rig.log.events[0] = attempt_ended("task_9", running_s=3600.0)

    found = await rig.ask("bill.verify")

    assert {(d.key, d.what) for d in found.differences} == {
        ("task:task_9:1:1", "missing"), ("task:task_1:1:1", "surplus"),
    }  # fmt: skip
    assert found.total_log - found.total_ledger == Decimal("0.12") - Decimal("0.041152233")


async def test_what_is_on_its_way_is_waited_for(rig: Rig, monkeypatch: pytest.MonkeyPatch):
    await heard(rig)
    late = attempt_ended("task_9")
    rig.log.events.append(late)

    async def arrives(_seconds: float) -> None:
        await rig.hear(late)

    monkeypatch.setattr(verify.asyncio, "sleep", arrives)

    assert (await rig.ask("bill.verify")).ok


async def test_a_fact_that_has_no_price_any_more_is_named(rig: Rig):
    await heard(rig)
    rig.prices = PRICES.model_copy(update={"flavours": {"gpu": PRICES.flavours["gpu"]}})

    found = await rig.ask("bill.verify")

    assert "price_missing" in {difference.what for difference in found.differences}


async def test_each_project_is_proven_by_itself_and_all_of_them_only_by_the_operator(rig: Rig):
    await heard(rig)
    await rig.hear(attempt_ended("task_7", project="proj_2"))

    assert (await rig.ask("bill.verify")).ok
    assert not (await rig.ask("bill.verify", project="proj_2")).ok
    with pytest.raises(Forbidden):
        await rig.ask("bill.verify", role=Role.FULL, all_projects=True)


async def test_a_bill_as_of_a_time_is_what_was_written_by_then(rig: Rig):
    rig.prices = PRICES.model_copy(update={"packages": OFFERS})
    rig.clock.now = AT
    await rig.ask("package.buy", offer="month")
    await rig.hear(attempt_ended("late", running_s=40 * 3600.0, flavour="gpu", started_at=AT + timedelta(hours=2)))
    rig.clock.advance(3600)
    await rig.hear(attempt_ended("early", running_s=30 * 3600.0, flavour="gpu", started_at=AT + timedelta(hours=1)))

    before = await rig.ask("bill.as_of", at=AT.isoformat())
    now = await rig.ask("bill.as_of", at=rig.clock.now.isoformat())

    assert (before.total, before.as_of) == (Decimal(17), AT)
    assert now.total == Decimal(17) + 30 * Decimal(3) == (await rig.ask("bill.summary")).total
    assert (await rig.ask("bill.as_of", at="2026-01-01")).total == 0
