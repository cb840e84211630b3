"""What the billing meter says of time and money, as studio follows it: tasks are warned, stopped, held, let go on."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal
from functools import partial
from typing import Any

import pytest

from finery_contracts.autostop import AutoStopDue, AutoStopView, AutoStopWarned
from finery_contracts.budgets import BudgetExhausted, BudgetRestored, BudgetView
from finery_contracts.envelope import Event
from finery_contracts.jobs import TaskKind
from finery_contracts.tasks import EndReason, TaskState
from finery_contracts.work import Claim, HeartbeatRequest
from finery_studio.app import ROUTES
from tests.services.studio.studio_rig import Rig

NOW = datetime(2026, 11, 21, 8, tzinfo=UTC)


async def hear(studio: Rig, kind: type[Event], data: Any, *, version: int = 1) -> None:
    """The fact, through studio's own table."""
    noun_id = getattr(data, "noun_id", None) or data.id
    event = kind(
        id=f"evt_{version}", type=kind.type_name(), source="finery/billing-meter", subject=f"{kind.NOUN}/{noun_id}",
        time=NOW, project=data.project, nounversion=version, data=data,
    )  # fmt: skip
    await studio.write(partial(ROUTES[kind], event=event, desk=studio.studio.tasks))


def deadline(studio: Rig, task: str, noun: Any = "task") -> AutoStopView:
    return AutoStopView(
        noun=noun, noun_id=task, project=studio.actor.project, limit_s=3600, used_s=3600, due_at=NOW, version=1
    )


def budget(studio: Rig, *, stop: bool = True) -> BudgetView:
    return BudgetView(
        id="bud_1", project=studio.actor.project, name="team", period="month", limit=Decimal(5), currency="USD",
        stop=stop, created_at=NOW, created_by="ann", version=1,
    )  # fmt: skip


async def running(studio: Rig) -> Claim:
    """An ingest that a worker holds."""
    await studio.upload()
    claim = await studio.claim(TaskKind.INGEST)
    assert claim is not None
    return claim


async def commanded(studio: Rig, claim: Claim) -> str:
    beat = HeartbeatRequest(task_id=claim.task_id, attempt=claim.attempt, worker="w")
    return (await studio.studio.tasks.on_heartbeat(beat)).command


async def test_a_task_is_warned_and_stopped_with_its_next_heartbeat(studio: Rig) -> None:
    claim = await running(studio)
    await hear(studio, AutoStopWarned, deadline(studio, claim.task_id))
    assert await commanded(studio, claim) == "continue"
    assert (await studio.said(claim.task_id))[-1] == "task.auto_stop_soon"

    await hear(studio, AutoStopDue, deadline(studio, claim.task_id))
    assert await commanded(studio, claim) == "stop"
    await studio.end(claim, reason=EndReason.TERMINATED)

    task = await studio.task(claim.task_id)
    assert (task.state, task.attempts[0].reason) == (TaskState.TERMINATED, EndReason.AUTO_STOP)


@pytest.mark.parametrize("kind", [AutoStopWarned, AutoStopDue])
async def test_a_deadline_of_what_has_ended_or_is_no_task_changes_nothing(studio: Rig, kind: type[Event]) -> None:
    claim = await running(studio)
    await hear(studio, kind, deadline(studio, claim.task_id, "deployment"))
    await hear(studio, kind, deadline(studio, "task_of_nobody"))
    assert await commanded(studio, claim) == "continue"
    await studio.end(claim)
    before = await studio.task(claim.task_id)
    await hear(studio, kind, deadline(studio, claim.task_id))
    assert await studio.task(claim.task_id) == before


async def test_a_used_up_budget_stops_and_holds_until_there_is_money_again(studio: Rig) -> None:
    claim = await running(studio)
    waiting = (await studio.upload(sha="b" * 64)).task

    await hear(studio, BudgetExhausted, budget(studio))
    assert await commanded(studio, claim) == "stop"
    await studio.end(claim, reason=EndReason.TERMINATED)

    held = await studio.task(claim.task_id)
    assert (held.phase, held.attempts[0].reason) == ("waiting", EndReason.BUDGET)
    assert await studio.claim() is None
    async with studio.http() as api:
        told = (await api.get(f"/api/v1/tasks/{waiting}")).json()
    assert "budget team of 5 USD is used up" in told["why_waiting"]

    await hear(studio, BudgetRestored, budget(studio), version=2)
    assert {done.task_id for done in await studio.work(TaskKind.INGEST)} == {claim.task_id, waiting}


async def test_a_budget_that_only_warns_stops_nothing(studio: Rig) -> None:
    claim = await running(studio)
    await hear(studio, BudgetExhausted, budget(studio, stop=False))
    assert await commanded(studio, claim) == "continue"
    assert (await studio.task(claim.task_id)).stop_reason is None
