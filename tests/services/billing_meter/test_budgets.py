"""Budgets warn and stop when they are reached, also while something still runs; costs so far and estimates agree."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest
from billing_rig import AT, PRICES, Rig, attempt_ended
from test_autostop import Story, alarms
from test_billing_packages import OFFERS

from finery_contracts.errors import FineryError
from finery_contracts.registry import parse_event
from finery_contracts.tasks import EndReason


async def told(rig: Rig) -> list[tuple[str, Decimal, int | None]]:
    events = [parse_event(row.body) for row in await rig.said() if row.noun == "budget"]
    return [(type(event).FACT, event.data.used, event.data.alerted) for event in events]


async def running(rig: Rig, *, flavour: str = "gpu") -> Story:
    """A task that runs since AT on one instance: three dollars an hour."""
    rig.clock.now = AT
    story = Story(limit_s=None)
    story.task = story.task.model_copy(update={"flavour": flavour})
    story.claim()
    story.report(preparing_s=0, running_s=0)
    await rig.hear(story.said[-1])
    return story


async def test_thresholds_are_told_when_they_are_reached_while_the_task_still_runs(rig: Rig):
    await running(rig)
    await rig.ask("budget.create", name="lab", limit="30", alert_at=[50, 80], stop=True)

    times = []
    for _ in range(12):
        next_at = await alarms(rig).ring()
        if next_at is None or next_at > AT + timedelta(hours=11):
            break
        rig.clock.now = next_at
        times.append(next_at)
    await alarms(rig).ring()

    assert [fact for fact, _, _ in await told(rig)] == ["alerted", "alerted", "exhausted"]
    assert [used for _, used, _ in await told(rig)] == pytest.approx([15, 24, 30], abs=Decimal("0.001"))
    assert times[0] == pytest.approx(AT + timedelta(hours=5), abs=timedelta(seconds=1))


async def test_the_ledger_and_what_runs_count_once(rig: Rig):
    story = await running(rig)
    await rig.ask("budget.create", name="lab", limit="30")
    story.now = rig.clock.now = AT + timedelta(hours=4)
    assert (await rig.ask("cost", noun_id="task_1")).running == 12
    story.report(preparing_s=0, running_s=4 * 3600.0, end=EndReason.SUCCEEDED)
    await rig.hear_all(story.said[-2:])
    rig.clock.advance(3600)

    cost = await rig.ask("cost", noun_id="task_1")
    (budget,) = (await rig.ask("budget.list")).data

    assert (cost.amount, cost.charged, cost.running) == (12, 12, 0)
    assert budget.used == 12


async def test_a_new_month_gives_money_again_and_a_threshold_is_told_once_a_month(rig: Rig):
    rig.clock.now = AT
    await rig.ask("budget.create", name="lab", limit="1", alert_at=[100])
    await rig.hear(attempt_ended(running_s=3600.0, flavour="gpu"))
    await alarms(rig).ring()
    await rig.hear(attempt_ended("task_2", running_s=3600.0, flavour="gpu"))
    next_at = await alarms(rig).ring()
    assert next_at == datetime(2026, 4, 1, tzinfo=UTC)
    rig.clock.now = next_at
    await alarms(rig).ring()

    assert [fact for fact, _, _ in await told(rig)] == ["alerted", "exhausted", "restored"]
    (budget,) = (await rig.ask("budget.list")).data
    assert (budget.used, budget.exhausted) == (0, False)


async def test_a_total_budget_has_no_month_and_a_users_budget_counts_only_that_user(rig: Rig):
    rig.clock.now = AT + timedelta(days=60)
    await rig.hear(attempt_ended(running_s=3600.0, flavour="gpu", user="ann"))
    await rig.hear(attempt_ended("task_2", running_s=3600.0, flavour="gpu", user="bob"))
    await rig.ask("budget.create", name="all", limit="100", period="total")
    await rig.ask("budget.create", name="bobs", limit="100", period="total", user="bob")

    budgets = {budget.name: budget.used for budget in (await rig.ask("budget.list")).data}

    assert budgets == {"all": 6, "bobs": 3}


async def test_what_a_package_pays_for_uses_no_budget(rig: Rig):
    rig.prices = PRICES.model_copy(update={"packages": OFFERS})
    rig.clock.now = AT
    await rig.ask("package.buy", offer="small")
    await running(rig)
    rig.clock.now = AT + timedelta(hours=10)
    covered = (await rig.ask("cost", noun_id="task_1")).running
    rig.clock.now = AT + timedelta(hours=12)

    assert (covered, (await rig.ask("cost", noun_id="task_1")).running) == (0, 6)


async def test_deleting_an_exhausted_budget_restores_and_frees_its_name(rig: Rig):
    rig.clock.now = AT
    await rig.ask("budget.create", name="lab", limit="1", alert_at=[])
    await rig.hear(attempt_ended(running_s=3600.0, flavour="gpu"))
    await alarms(rig).ring()

    await rig.ask("budget.delete", budget="lab")
    await rig.ask("budget.create", name="lab", limit="9")

    assert [fact for fact, _, _ in await told(rig)] == ["exhausted", "restored"]
    with pytest.raises(FineryError, match="no budget other"):
        await rig.ask("budget.delete", budget="other")
    with pytest.raises(FineryError, match="no budget lab"):
        await rig.ask("budget.delete", budget="lab", project="proj_2")


async def test_the_same_request_under_one_key_makes_one_budget_and_one_purchase(rig: Rig):
    rig.prices = PRICES.model_copy(update={"packages": OFFERS})
    rig.clock.now = AT
    budgets = [await rig.ask("budget.create", key="k1", name="lab", limit="1") for _ in range(3)]
    bought = [await rig.ask("package.buy", key="k2", offer="small") for _ in range(3)]

    assert len({budget.id for budget in budgets}) == len({package.id for package in bought}) == 1
    assert (await rig.ask("bill.summary")).total == 20
    with pytest.raises(FineryError):
        await rig.ask("package.buy", key="k2", offer="odd")


async def test_an_estimate_is_a_range_and_names_the_package_that_would_pay(rig: Rig):
    rig.prices = PRICES.model_copy(update={"packages": OFFERS})
    rig.clock.now = AT
    bought = await rig.ask("package.buy", offer="small")

    found = await rig.ask("estimate", flavour="gpu", instances=2, seconds=6 * 3600, low_s=3600, high_s=9 * 3600)

    assert [price.amount for price in (found.low, found.expected, found.high)] == [0, 6, 24]
    assert [covered.package for covered in found.expected.covered] == [bought.id]
    with pytest.raises(FineryError, match="there is no flavour tpu; there are cpu, gpu"):
        await rig.ask("estimate", flavour="tpu", seconds=1)
