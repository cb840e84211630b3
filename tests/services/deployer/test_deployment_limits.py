"""What the billing meter says of time and money: a deployment warns, stops, and is not started without money."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest
from deployer_bench import Bench

from finery_contracts.autostop import AutoStopDue, AutoStopFact, AutoStopView, AutoStopWarned
from finery_contracts.budgets import BudgetExhausted, BudgetFact, BudgetRestored, BudgetView
from finery_contracts.deployments import DeploymentAutoStopSoon, DeploymentState
from finery_contracts.envelope import Event
from finery_contracts.errors import Conflict

NOW = datetime(2026, 11, 21, 8, tzinfo=UTC)
State = DeploymentState


async def say(bench: Bench, kind: type[Event], noun_id: str, version: int, data: Any) -> None:
    """A fact of the billing meter."""
    event = kind(
        id=f"evt_{noun_id}_{version}", type=kind.type_name(), source="finery/billing-meter",
        subject=f"{kind.NOUN}/{noun_id}", time=NOW, project=data.project, nounversion=version, data=data,
    )  # fmt: skip
    await bench.client.jetstream().publish(event.bus_subject, event.model_dump_json().encode(), stream="EVENTS")


async def deadline(bench: Bench, kind: type[AutoStopFact], deployment: str, version: int, noun: str = "deployment"):
    data = AutoStopView.model_validate(
        {"noun": noun, "noun_id": deployment, "project": "proj_a", "limit_s": 3600, "used_s": 3600.0, "due_at": NOW,
         "version": version}
    )  # fmt: skip
    await say(bench, kind, deployment, version, data)


async def budget(bench: Bench, kind: type[BudgetFact], version: int, *, stop: bool = True, project: str = "proj_a"):
    data = BudgetView(
        id=f"bud_{project}", project=project, name="b", period="total", limit=Decimal(1), currency="USD", stop=stop,
        created_at=NOW, created_by="ann", version=version,
    )  # fmt: skip
    await say(bench, kind, data.id, version, data)


async def test_a_deployment_says_that_it_stops_soon_and_stops_when_its_time_is_used_up(bench: Bench):
    async with bench.deployer() as service:
        view = await bench.deploy(bench.model(), auto_stop_s=3600)
        await bench.until(view.id, State.RUNNING)

        await deadline(bench, AutoStopWarned, view.id, 1)
        warned = await bench.until(view.id, State.RUNNING, lambda v: v.auto_stop_at is not None)
        await deadline(bench, AutoStopDue, view.id, 2)
        await bench.until(view.id, State.STOPPED)

        assert (warned.auto_stop_at, warned.auto_stop_s) == (NOW, 3600)
        assert DeploymentAutoStopSoon in [type(fact) for fact in await bench.facts(service)]
        await bench.command("start", "chat")
        assert (await bench.until(view.id, State.RUNNING)).auto_stop_at is None


async def test_a_tasks_deadline_or_one_of_nobody_changes_nothing(bench: Bench):
    async with bench.deployer() as service:
        view = await bench.deploy(bench.model())
        await bench.until(view.id, State.RUNNING)
        before = await bench.facts(service)

        await deadline(bench, AutoStopDue, view.id, 1, noun="task")
        await deadline(bench, AutoStopDue, "dep_of_nobody", 1)
        await deadline(bench, AutoStopWarned, "dep_of_nobody", 2)
        other = await bench.deploy(bench.model("n"), name="other")  # by its end the three have been heard
        await deadline(bench, AutoStopDue, other.id, 3)
        await bench.until(other.id, State.STOPPED)

        assert (await bench.command("get", view.id)).state is State.RUNNING
        assert [fact for fact in await bench.facts(service) if fact.noun_id == view.id] == before


async def test_a_budget_that_is_used_up_stops_what_runs_and_what_would_start_until_there_is_money(bench: Bench):
    async with bench.deployer():
        mine = await bench.deploy(bench.model())
        theirs = await bench.deploy(bench.model(project="proj_b"))
        await bench.until(mine.id, State.RUNNING)

        await budget(bench, BudgetExhausted, 1)
        await bench.until(mine.id, State.STOPPED)

        for refused in (bench.command("start", "chat"), bench.deploy(bench.model("n"), name="other")):
            with pytest.raises(Conflict) as fault:
                await refused
            assert fault.value.error_code == "budget_exhausted"
        assert (await bench.command("get", theirs.id, "proj_b")).state in (State.DEPLOYING, State.RUNNING)
        await budget(bench, BudgetRestored, 2)

        async def may_start() -> bool:
            try:
                await bench.command("start", "chat")
            except Conflict:
                return False
            return True

        await bench.until_true(may_start)
        await bench.until(mine.id, State.RUNNING)


async def test_a_budget_that_only_warns_stops_nothing(bench: Bench):
    async with bench.deployer():
        view = await bench.deploy(bench.model())
        await bench.until(view.id, State.RUNNING)
        await budget(bench, BudgetExhausted, 1, stop=False)
        await deadline(bench, AutoStopWarned, view.id, 1)  # heard after it
        await bench.until(view.id, State.RUNNING, lambda v: v.auto_stop_at is not None)
        assert (await bench.command("get", view.id)).state is State.RUNNING
