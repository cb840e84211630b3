"""Claims, heartbeats and reports on a real database, without a bus: one attempt for one worker, nothing twice."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import pytest

from finery_contracts.access import Actor, Role
from finery_contracts.errors import Conflict, ErrorBody, TooLarge
from finery_contracts.jobs import CheckpointRef, EvaluateOutput, EvaluateSpec, IngestSpec, Phase, TaskKind
from finery_contracts.options import TaskOptions
from finery_contracts.tasks import EndReason, TaskState, TaskView
from finery_contracts.work import AttemptEnd, ClaimRequest, HeartbeatRequest, Report
from finery_kit.db import Database
from finery_kit.delivery import DELIVERY_METADATA, events_since
from finery_kit.testing import VirtualClock
from finery_studio.pools.flavours import load_flavours
from finery_studio.pools.handlers import PoolDesk
from finery_studio.pools.store import Policy
from finery_studio.store import STUDIO_METADATA
from finery_studio.tasks import store
from finery_studio.tasks.handlers import HangRule, TaskDesk
from finery_studio.tasks.submit import NewTask, submit

ANN = Actor(project="prj_1", project_name="p", user="ann", key="key_1", role=Role.FULL)
SPECS: Any = {
    TaskKind.EVALUATE: lambda tx, task: EvaluateSpec(model="store://m", dataset="store://d"),
    TaskKind.INGEST: lambda tx, task: IngestSpec(source="store://s", filename="f"),
}


@dataclass
class Rig:
    """A desk on a database."""

    database: Database
    desk: TaskDesk

    async def submit(self, kind: TaskKind = TaskKind.EVALUATE, **said: Any) -> TaskView:
        new = NewTask(kind=kind, name="t", request=said.pop("request", {}), **said)
        return await self.database.write(lambda tx: submit(tx, new, ANN, SPECS))

    async def claim(self, request_id: str, *kinds: TaskKind) -> Any:
        request = ClaimRequest(request_id=request_id, worker="w", kinds=list(kinds or (TaskKind.EVALUATE,)))
        return (await self.desk.on_claim(request)).claim

    async def task(self, task_id: str) -> TaskView:
        return await self.database.read(lambda s: store.view_of(store.load(s, "prj_1", task_id)))

    async def report(
        self, task_id: str, *, attempt: int = 1, seq: int = 1, end: AttemptEnd | None = None, **said: Any
    ) -> None:
        report = Report(
            task_id=task_id, attempt=attempt, project="prj_1", worker="w", seq=seq, phase=Phase.RUNNING, running_s=1,
            end=end, **said,
        )  # fmt: skip
        await self.database.write(lambda tx: self.desk.on_report(tx, report))


@pytest.fixture
def clock() -> VirtualClock:
    return VirtualClock()


@pytest.fixture
async def rig(database_url: str, clock: VirtualClock) -> AsyncIterator[Rig]:
    """A fresh database."""
    database = Database(database_url, STUDIO_METADATA, DELIVERY_METADATA, clock=clock)
    database.open()
    await database.write(PoolDesk(Policy(flavours=load_flavours()), lambda: None).begin)
    outcomes: Any = dict.fromkeys(TaskKind, lambda tx, task: {})
    yield Rig(database, TaskDesk(database, SPECS, outcomes, 3, HangRule(20, 60), lambda: None, lambda: None))
    database.close()


async def test_the_same_request_gets_the_same_claim_and_another_gets_none(rig: Rig) -> None:
    task = await rig.submit()
    first = await rig.claim("r1")
    assert (first.task_id, first.attempt) == (task.id, 1)
    assert await rig.claim("r1") == first
    assert await rig.claim("r2") is None


async def test_workers_that_claim_at_once_share_out_what_waits(rig: Rig) -> None:
    tasks = {(await rig.submit()).id for _ in range(5)}
    claims = await asyncio.gather(*(rig.claim(f"r{n}") for n in range(8)))
    assert sorted(c.task_id for c in claims if c) == sorted(tasks)


async def test_the_oldest_of_its_kinds_comes_first(rig: Rig) -> None:
    first = await rig.submit()
    await rig.submit(TaskKind.INGEST)
    await rig.submit()
    assert (await rig.claim("r1", TaskKind.EVALUATE, TaskKind.TUNE)).task_id == first.id


async def test_priority_comes_before_age(rig: Rig) -> None:
    await rig.submit()
    urgent = await rig.submit(options=TaskOptions(priority=51))

    assert (await rig.claim("r1")).task_id == urgent.id


async def test_a_claim_of_another_pool_or_of_no_kind_gets_nothing(rig: Rig) -> None:
    await rig.submit()
    for said in ({"pool": "mine", "kinds": [TaskKind.EVALUATE]}, {"kinds": []}):
        request = ClaimRequest.model_validate({"request_id": "r", "worker": "w", **said})
        assert (await rig.desk.on_claim(request)).claim is None


async def test_a_retry_resumes_from_the_newest_checkpoint_and_the_first_attempt_from_none(rig: Rig) -> None:
    task = await rig.submit()
    assert (await rig.claim("r1")).resume_from == []
    kept = [CheckpointRef(step=step, path=f"store://c{step}") for step in (2, 4)]
    await rig.report(task.id, checkpoints=kept)
    await rig.report(task.id, seq=2, end=AttemptEnd(reason=EndReason.CRASHED))

    again = await rig.claim("r2")

    assert (again.attempt, again.resume_from) == (2, ["store://c4", "store://c2"])


@pytest.mark.parametrize("reason", [EndReason.CRASHED, EndReason.LOST])
async def test_an_engine_that_does_not_stop_in_good_order_is_not_tried_again(rig: Rig, reason: EndReason) -> None:
    task = await rig.submit()
    await rig.claim("r1")
    await rig.database.write(lambda tx: rig.desk.terminate(tx, "prj_1", task.id))

    await rig.report(task.id, end=AttemptEnd(reason=reason))

    assert (await rig.task(task.id)).state is TaskState.TERMINATED
    assert await rig.claim("r2") is None


async def test_a_worker_lost_while_it_was_told_to_stop_ends_the_task(rig: Rig) -> None:
    task = await rig.submit()
    await rig.claim("r1")
    await rig.database.write(lambda tx: rig.desk.terminate(tx, "prj_1", task.id))
    for _ in range(2):
        await rig.database.write(lambda tx: rig.desk.lose(tx, task.id, 1))
    assert (await rig.task(task.id)).state is TaskState.TERMINATED
    log = await rig.database.read(lambda s: events_since(s, "prj_1", noun_id=task.id))
    assert [row.type.split(".")[3] for row in log][-2:] == ["attempt_ended", "terminated"]


async def test_what_waits_for_a_task_that_was_terminated_fails_and_what_waits_for_that_too(rig: Rig) -> None:
    first = await rig.submit(TaskKind.INGEST)
    second = await rig.submit(needs=(first.id,))
    third = await rig.submit(needs=(second.id,))

    await rig.database.write(lambda tx: rig.desk.terminate(tx, "prj_1", first.id))

    codes = [(await rig.task(task.id)).error for task in (second, third)]
    assert [error and error.code for error in codes] == ["invalid_training_file", "model_not_ready"]


async def test_a_report_with_a_lower_number_changes_nothing(rig: Rig) -> None:
    task = await rig.submit()
    await rig.claim("r1")
    await rig.report(task.id, seq=5, checkpoints=[CheckpointRef(step=4, path="c4")])
    after = await rig.task(task.id)
    await rig.report(task.id, seq=4, checkpoints=[CheckpointRef(step=9, path="c9")])
    await rig.report(task.id, seq=5, end=AttemptEnd(reason=EndReason.CRASHED))
    assert await rig.task(task.id) == after


async def test_a_task_too_large_for_the_bus_is_refused_and_leaves_nothing(rig: Rig) -> None:
    with pytest.raises(TooLarge):
        await rig.submit(request={"name": "n" * 2**18})
    assert await rig.database.read(lambda s: events_since(s, "prj_1")) == []


async def test_heartbeats_are_answered_continue_stop_or_abandon(rig: Rig) -> None:
    task = await rig.submit()
    await rig.claim("r1")
    beat = HeartbeatRequest(task_id=task.id, attempt=1, worker="w")
    assert (await rig.desk.on_heartbeat(beat)).command == "continue"
    await rig.database.write(lambda tx: rig.desk.terminate(tx, "prj_1", task.id))
    assert (await rig.desk.on_heartbeat(beat)).command == "stop"
    stale = beat.model_copy(update={"attempt": 2})
    assert (await rig.desk.on_heartbeat(stale)).command == "abandon"


async def test_a_waiting_task_is_terminated_at_once_and_only_once(rig: Rig) -> None:
    task = await rig.submit()
    await rig.database.write(lambda tx: rig.desk.terminate(tx, "prj_1", task.id))
    assert (await rig.task(task.id)).state is TaskState.TERMINATED
    assert await rig.claim("r1") is None
    with pytest.raises(Conflict):
        await rig.database.write(lambda tx: rig.desk.terminate(tx, "prj_1", task.id))


async def test_the_same_report_twice_changes_nothing_twice(rig: Rig) -> None:
    task = await rig.submit()
    await rig.claim("r1")
    end = AttemptEnd(reason=EndReason.SUCCEEDED, output=EvaluateOutput(metrics={}, samples=1))
    await rig.report(task.id, end=end)
    after, log = await rig.task(task.id), await rig.database.read(lambda s: events_since(s, "prj_1"))
    await rig.report(task.id, end=end)
    await rig.report(task.id, seq=2)
    assert await rig.task(task.id) == after
    assert len(await rig.database.read(lambda s: events_since(s, "prj_1"))) == len(log)


async def test_a_lost_worker_cannot_report_any_more(rig: Rig) -> None:
    task = await rig.submit()
    await rig.claim("r1")
    await rig.database.write(lambda tx: rig.desk.lose(tx, task.id, 1))
    again = await rig.claim("r2")
    assert again.attempt == 2
    await rig.report(task.id, attempt=1, seq=9, end=AttemptEnd(reason=EndReason.SUCCEEDED))
    assert (await rig.task(task.id)).state is TaskState.PREPARING


async def test_what_waits_for_a_task_moves_or_fails_with_it(rig: Rig) -> None:
    good, bad = await rig.submit(TaskKind.INGEST), await rig.submit(TaskKind.INGEST)
    happy = await rig.submit(needs=(good.id,))
    sad = await rig.submit(needs=(good.id, bad.id))
    assert happy.state is TaskState.CREATED
    claims = {(await rig.claim(f"r{n}", TaskKind.INGEST)).task_id for n in range(2)}
    assert claims == {good.id, bad.id}

    await rig.report(good.id, end=AttemptEnd(reason=EndReason.SUCCEEDED))
    fault = ErrorBody(code="invalid_training_file", message="line 17: broken", details=[{"line": 17}])
    await rig.report(bad.id, end=AttemptEnd(reason=EndReason.USER_MISTAKE, error=fault))

    assert (await rig.task(happy.id)).state is TaskState.QUEUED
    failed = await rig.task(sad.id)
    assert failed.error is not None
    assert (failed.state, failed.error.code) == (TaskState.FAILED, "invalid_training_file")
    assert failed.error.details == [{"line": 17}]


async def test_only_silence_that_was_watched_counts(rig: Rig, clock: VirtualClock) -> None:
    task = await rig.submit()
    await rig.claim("r1")

    async def pass_s(seconds: int, *, beats: bool = False, watched: bool = True) -> str | None:
        for _ in range(seconds):
            clock.advance(1)
            if beats:
                await rig.desk.on_heartbeat(HeartbeatRequest(task_id=task.id, attempt=1, worker="w"))
            if watched:
                await rig.database.write(lambda tx: rig.desk.lose_silent(tx, 10))
        return (await rig.task(task.id)).phase

    assert await pass_s(30, beats=True) is None
    assert await pass_s(3600, watched=False) is None  # every studio was down or cut off
    assert await pass_s(10) is None
    assert await pass_s(2) == "retrying"


async def test_a_beat_of_another_attempt_is_told_to_abandon_and_keeps_nothing_alive(
    rig: Rig, clock: VirtualClock
) -> None:
    task = await rig.submit()
    await rig.claim("r1")
    zombie = HeartbeatRequest(task_id=task.id, attempt=9, worker="w")
    for _ in range(13):
        clock.advance(1)
        assert (await rig.desk.on_heartbeat(zombie)).command == "abandon"
        await rig.database.write(lambda tx: rig.desk.lose_silent(tx, 10))
    assert (await rig.task(task.id)).phase == "retrying"


async def test_pause_is_answered_to_the_next_beat_and_resuming_goes_on_from_the_checkpoint(rig: Rig) -> None:
    task = await rig.submit()
    await rig.claim("r1")
    await rig.report(task.id, checkpoints=[CheckpointRef(step=2, path="store://c2")])
    await rig.database.write(lambda tx: rig.desk.pause(tx, "prj_1", task.id))
    beat = HeartbeatRequest(task_id=task.id, attempt=1, worker="w")
    assert (await rig.desk.on_heartbeat(beat)).command == "pause"
    await rig.report(task.id, seq=2, end=AttemptEnd(reason=EndReason.TERMINATED))
    assert await rig.claim("r2") is None

    await rig.database.write(lambda tx: rig.desk.resume(tx, "prj_1", task.id))

    again = await rig.claim("r3")
    assert (again.attempt, again.resume_from) == (2, ["store://c2"])
    assert [a.reason for a in (await rig.task(task.id)).attempts] == [EndReason.PAUSED, None]


async def test_what_waits_for_others_may_be_paused_and_is_queued_only_when_resumed(rig: Rig) -> None:
    first = await rig.submit(TaskKind.INGEST)
    second = await rig.submit(needs=(first.id,))
    await rig.database.write(lambda tx: rig.desk.pause(tx, "prj_1", second.id))
    await rig.claim("r1", TaskKind.INGEST)
    await rig.report(first.id, end=AttemptEnd(reason=EndReason.SUCCEEDED))
    assert (await rig.task(second.id)).state is TaskState.CREATED

    resumed = await rig.database.write(lambda tx: rig.desk.resume(tx, "prj_1", second.id))

    assert (resumed.state, (await rig.claim("r2")).task_id) == (TaskState.QUEUED, second.id)


async def test_a_hang_is_said_once_for_each_silence(rig: Rig) -> None:
    task = await rig.submit()
    await rig.claim("r1")
    for quiet_s in (90, 92, 94, 1, 90, 92):
        beat = HeartbeatRequest(task_id=task.id, attempt=1, worker="w", quiet_s=quiet_s, median_step_s=1)
        assert (await rig.desk.on_heartbeat(beat)).command == "continue"
    assert [note.code for note in (await rig.task(task.id)).notes] == ["suspected_hang"] * 2


async def test_by_its_policy_a_hanging_attempt_is_stopped_and_tried_again_for_free(rig: Rig) -> None:
    task = await rig.submit(options=TaskOptions(on_hang="retry"))
    await rig.claim("r1")
    beat = HeartbeatRequest(task_id=task.id, attempt=1, worker="w", quiet_s=90, median_step_s=1)
    assert (await rig.desk.on_heartbeat(beat)).command == "stop"
    await rig.report(task.id, end=AttemptEnd(reason=EndReason.CRASHED))
    assert (await rig.task(task.id)).attempts[0].reason is EndReason.HUNG
    assert (await rig.claim("r2")).attempt == 2
