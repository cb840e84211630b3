"""The task's state machine: every move that is allowed, none that is not, and what is stale changes nothing."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from itertools import product

import pytest

from finery_contracts.errors import ErrorBody
from finery_contracts.jobs import CheckpointRef, Phase, TaskKind
from finery_contracts.tasks import EndReason, StopReason, TaskAttemptEnded, TaskState, TaskView
from finery_contracts.work import AttemptEnd, Report
from finery_studio.tasks import domain
from finery_studio.tasks.moves import MOVES, IllegalMove

NOW = datetime(2026, 11, 21, 8, tzinfo=UTC)
LATER = NOW + timedelta(seconds=60)


def a_task(state: TaskState = TaskState.CREATED) -> TaskView:
    return TaskView(
        id="task_1", project="prj_1", kind=TaskKind.TUNE, name="t", state=state, version=1, created_by="ann",
        created_at=NOW,
    )  # fmt: skip


def claimed(*, attempts: int = 1) -> TaskView:
    task, _ = domain.queue(a_task(), NOW)
    for number in range(attempts):
        task, _ = domain.claim(task, "worker", NOW)
        if number < attempts - 1:
            task, _ = domain.end_attempt(task, AttemptEnd(reason=EndReason.LOST), NOW, max_attempts=99)
    return task


def a_report(task: TaskView, **said: object) -> Report:
    base = {
        "task_id": task.id, "attempt": len(task.attempts), "project": task.project, "worker": "worker", "seq": 1,
        "phase": Phase.RUNNING, "preparing_s": 5.0, "running_s": 10.0,
    }  # fmt: skip
    return Report.model_validate({**base, **said})


@pytest.mark.parametrize(("before", "after"), list(product(TaskState, TaskState)))
def test_only_the_moves_of_the_table_are_made(before: TaskState, after: TaskState) -> None:
    moves = {
        TaskState.QUEUED: lambda task: domain.queue(task, NOW),
        TaskState.FAILED: lambda task: domain.fail(task, ErrorBody(code="c", message="m"), NOW),
        TaskState.TERMINATED: lambda task: domain.stop(task, StopReason.TERMINATE, NOW),
    }
    if after not in moves:
        return
    if after in MOVES[before]:
        assert moves[after](a_task(before))[0].state is after
    else:
        with pytest.raises(IllegalMove, match=f"{before}.*{after}"):
            moves[after](a_task(before))


@pytest.mark.parametrize("state", TaskState)
def test_only_what_is_queued_or_to_be_tried_again_is_claimed(state: TaskState) -> None:
    if state is TaskState.QUEUED:
        assert domain.claim(a_task(state), "worker", NOW)[0].state is TaskState.PREPARING
        return
    with pytest.raises(IllegalMove, match=str(state)):
        domain.claim(a_task(state), "worker", NOW)
    again = a_task(state).model_copy(update={"phase": "retrying"})
    assert domain.claimable(again) is (state in (TaskState.PREPARING, TaskState.RUNNING))


def test_what_waits_to_be_tried_again_is_terminated_at_once() -> None:
    task, _ = domain.end_attempt(claimed(), AttemptEnd(reason=EndReason.LOST), NOW, max_attempts=3)
    assert not domain.has_live_attempt(task)
    stopped, _ = domain.stop(task, StopReason.TERMINATE, LATER)
    assert (stopped.state, stopped.phase, stopped.why_waiting) == (TaskState.TERMINATED, None, None)


def test_an_attempt_that_never_ran_has_an_interval_of_no_length() -> None:
    task, _ = domain.report(claimed(), a_report(claimed(), phase=Phase.PREPARING, running_s=0.0), NOW, max_attempts=3)
    _, facts = domain.end_attempt(task, AttemptEnd(reason=EndReason.TERMINATED), LATER, max_attempts=3)
    assert facts[0].data.interval.running_s == 0.0  # type: ignore[attr-defined]


def test_ended_states_are_left_by_nothing() -> None:
    assert all(not MOVES[state] for state in TaskState if state.ended)


def test_every_decision_counts_the_version_up_and_says_it() -> None:
    task, said = domain.queue(a_task(), NOW)
    task, more = domain.claim(task, "worker", NOW)
    task, end = domain.report(task, a_report(task, end=AttemptEnd(reason=EndReason.SUCCEEDED)), LATER, max_attempts=3)
    versions = [fact.version for fact in [*said, *more, *end]]
    assert versions == sorted(set(versions))
    assert task.version == versions[-1]
    assert task.state is TaskState.SUCCEEDED


@pytest.mark.parametrize("stale", [{"attempt": 1}, {"attempt": 3}])
def test_a_report_of_another_attempt_changes_nothing(stale: dict[str, int]) -> None:
    task = claimed(attempts=2)
    assert domain.report(task, a_report(task, **stale), LATER, max_attempts=3) == (task, [])


def test_a_report_after_the_end_changes_nothing() -> None:
    task = claimed()
    report = a_report(task, end=AttemptEnd(reason=EndReason.SUCCEEDED))
    done, _ = domain.report(task, report, LATER, max_attempts=3)
    assert domain.report(done, report, LATER, max_attempts=3) == (done, [])


@pytest.mark.parametrize(
    ("reason", "state", "billed"),
    [
        (EndReason.SUCCEEDED, TaskState.SUCCEEDED, True),
        (EndReason.USER_MISTAKE, TaskState.FAILED, True),
        (EndReason.TERMINATED, TaskState.TERMINATED, True),
        (EndReason.CRASHED, TaskState.RUNNING, False),
        (EndReason.LOST, TaskState.RUNNING, False),
    ],
)
def test_how_an_attempt_ends_decides_state_and_bill(reason: EndReason, state: TaskState, billed: bool) -> None:
    task = claimed()

    after, facts = domain.report(task, a_report(task, end=AttemptEnd(reason=reason)), LATER, max_attempts=3)

    assert after.state is state
    ended = next(fact.data for fact in facts if fact.kind is TaskAttemptEnded)
    assert ended.interval.billed is billed  # type: ignore[attr-defined]
    assert ended.interval.running_s == 10.0  # type: ignore[attr-defined]
    assert ended.interval.started_at == NOW + timedelta(seconds=5)  # type: ignore[attr-defined]


def test_a_lost_attempt_keeps_the_state_and_waits_for_the_next_one() -> None:
    task, _ = domain.report(claimed(), a_report(claimed()), NOW, max_attempts=3)
    task, facts = domain.end_attempt(task, AttemptEnd(reason=EndReason.LOST), LATER, max_attempts=3)
    assert (task.state, task.phase) == (TaskState.RUNNING, "retrying")
    assert domain.claimable(task)
    again, _ = domain.claim(task, "other", LATER)
    assert (again.state, again.phase, len(again.attempts)) == (TaskState.RUNNING, None, 2)
    assert [fact.kind.FACT for fact in facts] == ["attempt_ended", "retrying"]


def test_attempts_are_limited_but_a_worker_that_left_in_order_is_not_blamed() -> None:
    left = ErrorBody(code="worker_left", message="gone")
    task = claimed()
    for _ in range(5):
        task, _ = domain.end_attempt(task, AttemptEnd(reason=EndReason.LOST, error=left), NOW, max_attempts=2)
        task, _ = domain.claim(task, "worker", NOW)
    task, _ = domain.end_attempt(task, AttemptEnd(reason=EndReason.CRASHED), NOW, max_attempts=2)
    assert task.phase == "retrying"
    task, _ = domain.claim(task, "worker", NOW)
    task, _ = domain.end_attempt(task, AttemptEnd(reason=EndReason.CRASHED), NOW, max_attempts=2)
    assert task.state is TaskState.FAILED
    assert task.error is not None


def test_checkpoints_of_all_attempts_are_kept_once_each_in_order() -> None:
    task = claimed()
    first = [CheckpointRef(step=step, path=f"a{step}") for step in (2, 4)]
    task, _ = domain.report(task, a_report(task, checkpoints=first), NOW, max_attempts=3)
    task, _ = domain.report(
        task, a_report(task, checkpoints=[CheckpointRef(step=4, path="b4"), CheckpointRef(step=6, path="b6")]), NOW,
        max_attempts=3,
    )  # fmt: skip
    assert [(c.step, c.path) for c in task.checkpoints] == [(2, "a2"), (4, "b4"), (6, "b6")]
