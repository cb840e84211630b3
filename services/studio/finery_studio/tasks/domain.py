"""What may happen to a task and to its attempts. Pure: state and news in, state and facts out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta

from finery_contracts.errors import EngineFailed, ErrorBody
from finery_contracts.jobs import Phase
from finery_contracts.tasks import (
    AttemptEndedData,
    AttemptView,
    EndReason,
    MoveRefusedData,
    RunInterval,
    StopReason,
    TaskAttemptEnded,
    TaskAutoStopSoon,
    TaskDeleted,
    TaskFailed,
    TaskMoveRefused,
    TaskPaused,
    TaskPreparing,
    TaskQueued,
    TaskResumed,
    TaskRetrying,
    TaskRunning,
    TaskState,
    TaskSucceeded,
    TaskSuspectedHang,
    TaskTerminated,
    TaskView,
)
from finery_contracts.work import AttemptEnd, HeartbeatRequest, Report
from finery_studio.tasks.moves import Decision, Fact, IllegalMove, awaited, moved, noted, ran_s, said, standing, touched

STRENGTH = (StopReason.HUNG, StopReason.PAUSE, StopReason.BUDGET, StopReason.AUTO_STOP, StopReason.TERMINATE)
"""Weakest first: a stronger reason to stop takes the place of a weaker one."""
_ENDS_AS = {
    StopReason.HUNG: EndReason.HUNG,
    StopReason.PAUSE: EndReason.PAUSED,
    StopReason.BUDGET: EndReason.BUDGET,
    StopReason.AUTO_STOP: EndReason.AUTO_STOP,
    StopReason.TERMINATE: EndReason.TERMINATED,
}
_BLAMED = frozenset({EndReason.CRASHED, EndReason.LOST, EndReason.HUNG})
TICK_S = 0.001
FREE_WORKER = "waiting for a free worker"


# --- waiting and being claimed ----------------------------------------------------------------------------------------


def claimable(task: TaskView) -> bool:
    """True when a worker may take it."""
    if task.state is TaskState.QUEUED:
        return task.phase != "paused"
    begun = task.state in (TaskState.PREPARING, TaskState.RUNNING)
    return begun and task.phase in ("waiting", "retrying") and not has_live_attempt(task)


def queue(task: TaskView, now: datetime) -> Decision:
    """Everything it needs is there."""
    queued = moved(task, TaskState.QUEUED, queued_at=now, phase="waiting", why_waiting=FREE_WORKER)
    return queued, [said(TaskQueued, queued)]


def claim(task: TaskView, worker: str, now: datetime) -> Decision:
    """A worker takes it: the next attempt begins. Its number is the fence."""
    if not claimable(task):
        raise IllegalMove(f"task {task.id} is {standing(task)} and cannot be claimed")
    attempt = AttemptView(number=len(task.attempts) + 1, worker=worker, state="claimed", claimed_at=now)
    changes = {"attempts": [*task.attempts, attempt], "phase": None, "why_waiting": None, "stop_reason": None}
    waited = task.state is TaskState.QUEUED
    taken = moved(task, TaskState.PREPARING, **changes) if waited else touched(task, **changes)
    return taken, [said(TaskPreparing, taken)]


# --- what a worker reports --------------------------------------------------------------------------------------------


def report(task: TaskView, news: Report, now: datetime, *, max_attempts: int) -> Decision:
    """A snapshot of the current attempt. What is stale changes nothing."""
    attempt = current_attempt(task)
    if task.state.ended or attempt is None or attempt.number != news.attempt or attempt.state == "ended":
        return task, []
    facts: list[Fact] = []
    seen = {"state": str(news.phase), "preparing_s": news.preparing_s, "running_s": news.running_s}
    task = _with_attempt(
        task, attempt.model_copy(update=seen), progress=news.progress, checkpoints=_merged_checkpoints(task, news)
    )
    if news.phase is Phase.RUNNING and attempt.state != "running":  # of each attempt: deadlines count its seconds
        first = task.state is TaskState.PREPARING
        begun = {"started_at": _place(attempt, news.preparing_s)}
        task = moved(task, TaskState.RUNNING, **begun) if first else touched(task)
        facts.append(said(TaskRunning, task))
    if news.end is not None:
        task, more = end_attempt(task, news.end, now, max_attempts=max_attempts)
        facts += more
    return task, facts


def end_attempt(task: TaskView, end: AttemptEnd, now: datetime, *, max_attempts: int) -> Decision:
    """The attempt ended: say so for billing, then end the task, let it rest or let it be tried again."""
    attempt = current_attempt(task)
    if attempt is None or attempt.state == "ended":
        return task, []
    told = task.stop_reason
    reason = _reason(end.reason, told)
    error = end.error.brief() if end.error else None  # the task's own error has all that a message holds
    ended = attempt.model_copy(update={"state": "ended", "reason": reason, "error": error, "ended_at": now})
    task = _with_attempt(task, ended, version=task.version + 1, stop_reason=None)
    interval = RunInterval(
        attempt=ended.number,
        started_at=_place(ended, ended.preparing_s),
        running_s=ended.running_s,
        reason=reason,
        billed=reason.billed,
    )
    told_of = Fact(TaskAttemptEnded, task.version, AttemptEndedData(task=task, attempt=ended, interval=interval))
    end = end.model_copy(update={"reason": reason})
    task, facts = _after_attempt(task, end, told, now, max_attempts=max_attempts)
    return task, [told_of, *facts]


def seems_to_hang(beat: HeartbeatRequest, *, factor: float, floor_s: float) -> bool:
    """No step for longer than ``factor`` times the median step; never sooner than ``floor_s`` seconds."""
    return beat.median_step_s is not None and beat.quiet_s > max(floor_s, factor * beat.median_step_s)


def suspect_hang(task: TaskView, beat: HeartbeatRequest, now: datetime) -> Decision:
    """Say so; by its policy also stop the attempt, so that the next one goes on from the last checkpoint."""
    text = f"no step for {beat.quiet_s:.0f} s; a step takes {beat.median_step_s:.2f} s (median)"
    stop_reason = task.stop_reason or (StopReason.HUNG if task.on_hang == "retry" else None)
    suspected = touched(task, notes=noted(task, "suspected_hang", text, now), stop_reason=stop_reason)
    return suspected, [said(TaskSuspectedHang, suspected)]


# --- what people and deadlines want -----------------------------------------------------------------------------------


def stop(task: TaskView, why: StopReason, now: datetime) -> Decision:
    """Stop it: a live attempt is told with its next heartbeat, otherwise it is done at once.

    Raises:
        IllegalMove: it has ended, it is paused already, or it is to be paused and stops for a stronger reason.
    """
    if task.state.ended:
        to = "paused" if why is StopReason.PAUSE else TaskState.TERMINATED
        raise IllegalMove(f"task {task.id} is {task.state} and cannot become {to}: it has ended", code="task_ended")
    if has_live_attempt(task):
        return _told(task, why), []
    if why is StopReason.PAUSE:
        if task.phase == "paused":
            raise IllegalMove(f"task {task.id} is paused already", code="task_paused")
        return _paused(task)
    if why in (StopReason.TERMINATE, StopReason.AUTO_STOP):
        return _terminated(task, now)
    return task, []


def resume(task: TaskView) -> Decision:
    """It goes on from its last checkpoint, as soon as a worker is free."""
    if task.state.ended or task.phase != "paused":
        wait = "; it is about to pause, wait a moment" if task.stop_reason is StopReason.PAUSE else ""
        raise IllegalMove(f"task {task.id} is {standing(task)} and not paused{wait}", code="task_not_paused")
    why = FREE_WORKER if task.queued_at is not None else awaited(task.waits_for)
    resumed = touched(task, phase="waiting", why_waiting=why)
    return resumed, [said(TaskResumed, resumed)]


def warn_of_auto_stop(task: TaskView, due_at: datetime, now: datetime) -> Decision:
    """Its auto-stop is near; nothing to say of one that has ended."""
    if task.state.ended:
        return task, []
    text = f"its auto-stop is near: it stops by itself at {due_at.isoformat(timespec='seconds')}"
    warned = touched(task, notes=noted(task, "auto_stop_soon", text, now))
    return warned, [said(TaskAutoStopSoon, warned)]


def auto_stop(task: TaskView, due_at: datetime, now: datetime) -> Decision:
    """Stop it when its running time is used up; the meter may have reckoned ``due_at`` before it heard the newest."""
    left_s = (task.auto_stop_s or 0) - ran_s(task, max(due_at, now))
    return (task, []) if task.state.ended or left_s > TICK_S else stop(task, StopReason.AUTO_STOP, now)


def delete(task: TaskView) -> Decision:
    """Only what has ended can be deleted (SPEC TU6)."""
    if not task.state.ended:
        raise IllegalMove(f"task {task.id} is {standing(task)}; terminate it first", code="task_not_ended")
    gone = touched(task)
    return gone, [said(TaskDeleted, gone)]


def refuse(task: TaskView, *, asked: str, by: str, error: ErrorBody) -> Decision:
    """Record that a move was asked for and not made: the state stays as it is."""
    same = touched(task)
    return same, [Fact(TaskMoveRefused, same.version, MoveRefusedData(task=same, asked=asked, by=by, error=error))]


def fail(task: TaskView, error: ErrorBody, now: datetime) -> Decision:
    """It cannot succeed any more."""
    failed = moved(task, TaskState.FAILED, error=error, ended_at=now, phase=None, why_waiting=None)
    return failed, [said(TaskFailed, failed)]


def has_live_attempt(task: TaskView) -> bool:
    """True while a worker is believed to hold it."""
    attempt = current_attempt(task)
    return not task.state.ended and attempt is not None and attempt.state != "ended"


def current_attempt(task: TaskView) -> AttemptView | None:
    """The newest attempt."""
    return task.attempts[-1] if task.attempts else None


# --- below ------------------------------------------------------------------------------------------------------------


def _after_attempt(
    task: TaskView, end: AttemptEnd, told: StopReason | None, now: datetime, *, max_attempts: int
) -> Decision:
    closing = {"ended_at": now, "phase": None, "output": end.output, "artefact": end.artefact}
    if end.reason is EndReason.SUCCEEDED:
        done = moved(task, TaskState.SUCCEEDED, **closing)
        return done, [said(TaskSucceeded, done)]
    if end.reason is EndReason.USER_MISTAKE:
        return _failed(task, end, closing)
    if end.reason is EndReason.TERMINATED or told in (StopReason.TERMINATE, StopReason.AUTO_STOP):
        stopped = moved(task, TaskState.TERMINATED, **closing)
        return stopped, [said(TaskTerminated, stopped)]
    if told is StopReason.PAUSE:
        return _paused(task)
    if told is StopReason.BUDGET:
        waiting = touched(task, phase="waiting", why_waiting="the project's budget is used up")
        return waiting, [said(TaskRetrying, waiting)]
    if _blamed(task.attempts) >= max_attempts:
        return _failed(task, end, closing)
    why = f"attempt {len(task.attempts)} ended ({end.reason}); {FREE_WORKER} to try again"
    again = touched(task, phase="retrying", why_waiting=why)
    return again, [said(TaskRetrying, again)]


def _failed(task: TaskView, end: AttemptEnd, closing: Mapping[str, object]) -> Decision:
    failed = moved(task, TaskState.FAILED, error=end.error or EngineFailed().body, **closing)
    return failed, [said(TaskFailed, failed)]


def _paused(task: TaskView) -> Decision:
    paused = touched(task, phase="paused", why_waiting="paused; resume it to go on")
    return paused, [said(TaskPaused, paused)]


def _terminated(task: TaskView, now: datetime) -> Decision:
    stopped = moved(task, TaskState.TERMINATED, ended_at=now, phase=None, why_waiting=None)
    return stopped, [said(TaskTerminated, stopped)]


def _told(task: TaskView, why: StopReason) -> TaskView:
    before = task.stop_reason
    if before is None or STRENGTH.index(why) > STRENGTH.index(before):
        return task.model_copy(update={"stop_reason": why})
    if why is StopReason.PAUSE and before is not StopReason.PAUSE:
        raise IllegalMove(f"task {task.id} is being stopped ({before}) and cannot be paused", code="task_stopping")
    return task


def _reason(reported: EndReason, told: StopReason | None) -> EndReason:
    """What was told to stop ended for that reason, in good order or not; what was lost was lost, and is free."""
    if told is not None and reported in (EndReason.TERMINATED, EndReason.CRASHED):
        return _ENDS_AS[told]
    return reported


def _blamed(attempts: Sequence[AttemptView]) -> int:
    """Attempts that count against the limit: a worker that left in good order is nobody's fault."""
    return sum(1 for a in attempts if a.reason in _BLAMED and not (a.error and a.error.code == "worker_left"))


def _merged_checkpoints(task: TaskView, news: Report) -> list[object]:
    known = {checkpoint.step: checkpoint for checkpoint in task.checkpoints}
    known |= {checkpoint.step: checkpoint for checkpoint in news.checkpoints}
    return [known[step] for step in sorted(known)]


def _place(attempt: AttemptView, preparing_s: float) -> datetime:
    """Where a run interval begins (SPEC BI1): studio's claim time plus the worker's preparing time."""
    return attempt.claimed_at + timedelta(seconds=preparing_s)


def _with_attempt(task: TaskView, attempt: AttemptView, **changes: object) -> TaskView:
    attempts = [*task.attempts[:-1], attempt]
    ran_s = sum(a.running_s for a in attempts)
    return task.model_copy(update={"attempts": attempts, "running_s": ran_s, **changes})


__all__ = ["Decision", "Fact", "IllegalMove"]
