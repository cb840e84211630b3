"""What people and deadlines want of a task: stop, pause, resume, delete; hangs and warnings. The pure rules."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from itertools import product

import pytest

from finery_contracts.errors import ErrorBody
from finery_contracts.jobs import Phase, TaskKind
from finery_contracts.tasks import EndReason, StopReason, TaskAttemptEnded, TaskState, TaskView
from finery_contracts.work import AttemptEnd, HeartbeatRequest, Report
from finery_studio.tasks import domain
from finery_studio.tasks.moves import IllegalMove

NOW = datetime(2026, 11, 21, 8, tzinfo=UTC)
ENDS = {
    StopReason.TERMINATE: (EndReason.TERMINATED, TaskState.TERMINATED, None, True),
    StopReason.AUTO_STOP: (EndReason.AUTO_STOP, TaskState.TERMINATED, None, True),
    StopReason.BUDGET: (EndReason.BUDGET, TaskState.RUNNING, "waiting", True),
    StopReason.PAUSE: (EndReason.PAUSED, TaskState.RUNNING, "paused", True),
    StopReason.HUNG: (EndReason.HUNG, TaskState.RUNNING, "retrying", False),
}


def a_task(**said: object) -> TaskView:
    base = {
        "id": "task_1", "project": "prj_1", "kind": TaskKind.TUNE, "name": "t", "state": TaskState.CREATED,
        "version": 1, "created_by": "ann", "created_at": NOW,
    }  # fmt: skip
    return TaskView.model_validate({**base, **said})


def queued(**said: object) -> TaskView:
    return domain.queue(a_task(**said), NOW)[0]


def running(task: TaskView | None = None, *, seconds: float = 10.0) -> TaskView:
    task, _ = domain.claim(task or queued(), "worker", NOW)
    return after_report(task, seconds=seconds)


def after_report(task: TaskView, *, seconds: float, end: EndReason | None = None) -> TaskView:
    report = Report(
        task_id=task.id, attempt=len(task.attempts), project=task.project, worker="worker", seq=1,
        phase=Phase.RUNNING, preparing_s=5, running_s=seconds, end=AttemptEnd(reason=end) if end else None,
    )  # fmt: skip
    return domain.report(task, report, NOW, max_attempts=3)[0]


@pytest.mark.parametrize("why", StopReason)
def test_an_attempt_that_was_told_to_stop_ends_for_that_reason(why: StopReason) -> None:
    told, said = domain.stop(running(), why, NOW)
    assert (told.stop_reason, said) == (why, [])

    after, facts = domain.end_attempt(told, AttemptEnd(reason=EndReason.TERMINATED), NOW, max_attempts=3)

    reason, state, phase, billed = ENDS[why]
    interval = next(fact.data.interval for fact in facts if fact.kind is TaskAttemptEnded)  # type: ignore[attr-defined]
    assert (interval.reason, interval.billed, interval.running_s) == (reason, billed, 10.0)
    assert (after.state, after.phase, after.stop_reason) == (state, phase, None)


@pytest.mark.parametrize("why", StopReason)
def test_one_that_succeeds_before_it_hears_has_succeeded(why: StopReason) -> None:
    told, _ = domain.stop(running(), why, NOW)
    assert after_report(told, seconds=11, end=EndReason.SUCCEEDED).state is TaskState.SUCCEEDED


@pytest.mark.parametrize("why", StopReason)
def test_one_that_is_lost_while_told_costs_nothing_and_still_obeys(why: StopReason) -> None:
    told, _ = domain.stop(running(), why, NOW)

    after, facts = domain.end_attempt(told, AttemptEnd(reason=EndReason.LOST), NOW, max_attempts=3)

    assert not facts[0].data.interval.billed  # type: ignore[attr-defined]
    assert (after.state, after.phase) == ENDS[why][1:3]


@pytest.mark.parametrize(("first", "second"), list(product(StopReason, StopReason)))
def test_the_stronger_reason_to_stop_stays(first: StopReason, second: StopReason) -> None:
    told, _ = domain.stop(running(), first, NOW)
    weaker = domain.STRENGTH.index(second) < domain.STRENGTH.index(first)
    if second is StopReason.PAUSE and weaker:
        with pytest.raises(IllegalMove, match="being stopped"):
            domain.stop(told, second, NOW)
        return
    assert domain.stop(told, second, NOW)[0].stop_reason is (first if weaker else second)


@pytest.mark.parametrize("task", [a_task(phase="waiting"), queued()])
def test_what_nobody_works_on_rests_at_once_and_is_not_claimed(task: TaskView) -> None:
    paused, facts = domain.stop(task, StopReason.PAUSE, NOW)
    assert [fact.kind.FACT for fact in facts] == ["paused"]
    assert (paused.state, paused.phase, domain.claimable(paused)) == (task.state, "paused", False)

    resumed, facts = domain.resume(paused)
    assert [fact.kind.FACT for fact in facts] == ["resumed"]
    assert domain.claimable(resumed) is (task.state is TaskState.QUEUED)
    assert resumed.version == task.version + 2


def test_a_task_may_pause_any_number_of_times_without_blame_and_counts_all_its_running() -> None:
    task = queued()
    for round_ in range(1, 6):
        task, _ = domain.stop(running(task), StopReason.PAUSE, NOW)
        task, _ = domain.end_attempt(task, AttemptEnd(reason=EndReason.TERMINATED), NOW, max_attempts=1)
        assert (task.phase, task.running_s, len(task.attempts)) == ("paused", 10.0 * round_, round_)
        assert not domain.claimable(task)
        task, _ = domain.resume(task)
        assert domain.claimable(task)


@pytest.mark.parametrize("state", [state for state in TaskState if state.ended])
@pytest.mark.parametrize("why", StopReason)
def test_what_has_ended_is_not_stopped_again(state: TaskState, why: StopReason) -> None:
    with pytest.raises(IllegalMove, match=f"{state}.*cannot become"):
        domain.stop(a_task(state=state), why, NOW)


@pytest.mark.parametrize("task", [a_task(), queued(), running(), a_task(state=TaskState.FAILED)])
def test_only_what_is_paused_is_resumed(task: TaskView) -> None:
    with pytest.raises(IllegalMove, match="not paused"):
        domain.resume(task)


def test_what_is_paused_cannot_be_paused_again_but_can_be_terminated() -> None:
    paused, _ = domain.stop(queued(), StopReason.PAUSE, NOW)
    with pytest.raises(IllegalMove, match="paused already"):
        domain.stop(paused, StopReason.PAUSE, NOW)
    gone, _ = domain.stop(paused, StopReason.TERMINATE, NOW)
    assert (gone.state, gone.phase) == (TaskState.TERMINATED, None)


@pytest.mark.parametrize("state", TaskState)
def test_only_what_has_ended_is_deleted(state: TaskState) -> None:
    task = a_task(state=state)
    if state.ended:
        gone, facts = domain.delete(task)
        assert [(fact.kind.FACT, fact.version) for fact in facts] == [("deleted", gone.version)]
        return
    with pytest.raises(IllegalMove, match=f"{state}.*terminate it first"):
        domain.delete(task)


def test_a_refused_move_is_said_and_changes_no_state() -> None:
    task = running()
    same, facts = domain.refuse(task, asked="resume", by="ann", error=ErrorBody(code="c", message="m"))
    assert same == task.model_copy(update={"version": task.version + 1})
    assert [(fact.kind.FACT, fact.version) for fact in facts] == [("move_refused", same.version)]


@pytest.mark.parametrize(
    ("quiet_s", "median_s", "hangs"),
    [(59, 1.0, False), (61, 1.0, True), (61, 3.1, False), (63, 3.1, True), (10_000, None, False), (61, 0.0, True)],
)
def test_a_hang_is_suspected_after_many_steps_time_but_not_at_once(
    quiet_s: float, median_s: float | None, hangs: bool
) -> None:
    beat = HeartbeatRequest(task_id="t", attempt=1, worker="w", quiet_s=quiet_s, median_step_s=median_s)
    assert domain.seems_to_hang(beat, factor=20, floor_s=60) is hangs


@pytest.mark.parametrize(("policy", "stop"), [("tell", None), ("retry", StopReason.HUNG)])
def test_a_suspected_hang_is_noted_and_by_policy_tried_again(policy: str, stop: StopReason | None) -> None:
    task = running(queued(on_hang=policy))
    beat = HeartbeatRequest(task_id="t", attempt=1, worker="w", quiet_s=90, median_step_s=1.5)
    suspected, facts = domain.suspect_hang(task, beat, NOW)
    assert [fact.kind.FACT for fact in facts] == ["suspected_hang"]
    assert suspected.notes[-1].text == "no step for 90 s; a step takes 1.50 s (median)"
    assert suspected.stop_reason is stop


def test_a_warning_of_auto_stop_says_when_and_nothing_of_what_has_ended() -> None:
    task = running(queued(auto_stop_s=3600))
    warned, facts = domain.warn_of_auto_stop(task, NOW + timedelta(minutes=15), NOW)
    assert [fact.kind.FACT for fact in facts] == ["auto_stop_soon"]
    assert "2026-11-21T08:15:00+00:00" in warned.notes[-1].text
    done = a_task(state=TaskState.SUCCEEDED)
    assert domain.warn_of_auto_stop(done, NOW, NOW) == (done, [])


def test_only_the_newest_notes_are_kept() -> None:
    task = running(queued(auto_stop_s=3600))
    for minute in range(30):
        task, _ = domain.warn_of_auto_stop(task, NOW + timedelta(minutes=minute), NOW)
    assert len(task.notes) == 20


def test_that_it_runs_is_said_once_of_each_attempt_so_that_its_seconds_can_be_counted() -> None:
    first = running()
    lost, _ = domain.end_attempt(first, AttemptEnd(reason=EndReason.LOST), NOW, max_attempts=3)
    again, _ = domain.claim(lost, "another", NOW)
    report = Report(
        task_id=again.id, attempt=2, project=again.project, worker="another", seq=1, phase=Phase.RUNNING, running_s=1.0
    )

    runs, facts = domain.report(again, report, NOW, max_attempts=3)
    _, later = domain.report(runs, report.model_copy(update={"seq": 2}), NOW, max_attempts=3)

    assert [(fact.kind.FACT, fact.version) for fact in facts] == [("running", again.version + 1)]
    assert later == []


def test_auto_stop_waits_for_the_last_second_whatever_the_meter_knew() -> None:
    task = running(queued(auto_stop_s=60), seconds=0)  # its place is five seconds after its claim
    due_at = NOW + timedelta(seconds=65)

    told, _ = domain.auto_stop(task, due_at, NOW + timedelta(seconds=64))  # a clock may be behind the meter's
    assert told.stop_reason is StopReason.AUTO_STOP

    rests = after_report(task, seconds=20, end=EndReason.LOST)  # it ended early, and the meter had not heard
    assert domain.auto_stop(rests, due_at, due_at) == (rests, [])
    again = running(rests, seconds=0)
    assert domain.auto_stop(again, NOW, NOW + timedelta(seconds=44)) == (again, [])
    told, _ = domain.auto_stop(again, NOW + timedelta(seconds=45), NOW + timedelta(seconds=45))
    assert told.stop_reason is StopReason.AUTO_STOP

    spent = after_report(task, seconds=60, end=EndReason.LOST)
    stopped, _ = domain.auto_stop(spent, due_at, due_at)
    assert stopped.state is TaskState.TERMINATED
