"""What may happen to a task, and what is said of it. Pure: state and news in, state and facts out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from finery_contracts.envelope import Event
from finery_contracts.errors import Conflict, EngineFailed, ErrorBody
from finery_contracts.jobs import Phase
from finery_contracts.model import Record
from finery_contracts.tasks import (
    AttemptEndedData,
    AttemptView,
    EndReason,
    RunInterval,
    TaskAttemptEnded,
    TaskFailed,
    TaskPreparing,
    TaskQueued,
    TaskRetrying,
    TaskRunning,
    TaskState,
    TaskSucceeded,
    TaskTerminated,
    TaskView,
)
from finery_contracts.work import AttemptEnd, Report

MOVES: dict[TaskState, frozenset[TaskState]] = {
    TaskState.CREATED: frozenset({TaskState.QUEUED, TaskState.FAILED, TaskState.TERMINATED}),
    TaskState.QUEUED: frozenset({TaskState.PREPARING, TaskState.FAILED, TaskState.TERMINATED}),
    TaskState.PREPARING: frozenset({TaskState.RUNNING, TaskState.SUCCEEDED, TaskState.FAILED, TaskState.TERMINATED}),
    TaskState.RUNNING: frozenset({TaskState.SUCCEEDED, TaskState.FAILED, TaskState.TERMINATED}),
    TaskState.SUCCEEDED: frozenset(),
    TaskState.FAILED: frozenset(),
    TaskState.TERMINATED: frozenset(),
}


class IllegalMove(Conflict):
    """A task does not move that way."""

    code = "illegal_move"


@dataclass(frozen=True)
class Fact:
    """What is to be said, once the state is stored."""

    kind: type[Event]
    version: int
    data: Record


Decision = tuple[TaskView, list[Fact]]


def claimable(task: TaskView) -> bool:
    """True when a worker may take it."""
    return task.state is TaskState.QUEUED or (not task.state.ended and task.phase == "retrying")


def queue(task: TaskView, now: datetime) -> Decision:
    """Everything it needs is there."""
    queued = _moved(task, TaskState.QUEUED, queued_at=now, phase="waiting", why_waiting="waiting for a free worker")
    return queued, [_said(TaskQueued, queued)]


def claim(task: TaskView, worker: str, now: datetime) -> Decision:
    """A worker takes it: the next attempt begins. Its number is the fence."""
    if not claimable(task):
        raise IllegalMove(f"task {task.id} is {task.state} and cannot be claimed")
    attempt = AttemptView(number=len(task.attempts) + 1, worker=worker, state="claimed", claimed_at=now)
    changes = {"attempts": [*task.attempts, attempt], "phase": None, "why_waiting": None}
    if task.state is TaskState.QUEUED:
        taken = _moved(task, TaskState.PREPARING, **changes)
        return taken, [_said(TaskPreparing, taken)]
    taken = _touched(task, **changes)
    return taken, [_said(TaskPreparing, taken)]


def report(task: TaskView, news: Report, now: datetime, *, max_attempts: int) -> Decision:
    """A snapshot of the current attempt. What is stale changes nothing."""
    attempt = current_attempt(task)
    if task.state.ended or attempt is None or attempt.number != news.attempt or attempt.state == "ended":
        return task, []
    facts: list[Fact] = []
    task = _with_attempt(
        task,
        attempt.model_copy(
            update={"state": str(news.phase), "preparing_s": news.preparing_s, "running_s": news.running_s}
        ),
        progress=news.progress,
        checkpoints=_merged_checkpoints(task, news),
    )
    if news.phase is Phase.RUNNING and task.state is TaskState.PREPARING:
        task = _moved(task, TaskState.RUNNING, started_at=_place(attempt, news.preparing_s))
        facts.append(_said(TaskRunning, task))
    if news.end is not None:
        task, more = end_attempt(task, news.end, now, max_attempts=max_attempts)
        facts += more
    return task, facts


def end_attempt(task: TaskView, end: AttemptEnd, now: datetime, *, max_attempts: int) -> Decision:
    """The attempt ended: say so for billing, then end the task or let it be tried again."""
    attempt = current_attempt(task)
    if attempt is None or attempt.state == "ended":
        return task, []
    ended = attempt.model_copy(update={"state": "ended", "reason": end.reason, "error": end.error, "ended_at": now})
    task = _with_attempt(task, ended, version=task.version + 1)
    interval = RunInterval(
        attempt=ended.number,
        started_at=_place(ended, ended.preparing_s),
        running_s=ended.running_s,
        reason=end.reason,
        billed=end.reason.billed,
    )
    said = Fact(TaskAttemptEnded, task.version, AttemptEndedData(task=task, attempt=ended, interval=interval))
    task, facts = _after_attempt(task, end, now, max_attempts=max_attempts)
    return task, [said, *facts]


def fail(task: TaskView, error: ErrorBody, now: datetime) -> Decision:
    """It cannot succeed any more."""
    failed = _moved(task, TaskState.FAILED, error=error, ended_at=now, phase=None, why_waiting=None)
    return failed, [_said(TaskFailed, failed)]


def terminate_idle(task: TaskView, now: datetime) -> Decision:
    """Someone stops it while no worker has it."""
    stopped = _moved(task, TaskState.TERMINATED, ended_at=now, phase=None, why_waiting=None)
    return stopped, [_said(TaskTerminated, stopped)]


def has_live_attempt(task: TaskView) -> bool:
    """True while a worker is believed to hold it."""
    attempt = current_attempt(task)
    return not task.state.ended and attempt is not None and attempt.state != "ended"


def current_attempt(task: TaskView) -> AttemptView | None:
    """The newest attempt."""
    return task.attempts[-1] if task.attempts else None


def _after_attempt(task: TaskView, end: AttemptEnd, now: datetime, *, max_attempts: int) -> Decision:
    closing = {"ended_at": now, "phase": None, "output": end.output, "artefact": end.artefact}
    if end.reason is EndReason.SUCCEEDED:
        done = _moved(task, TaskState.SUCCEEDED, **closing)
        return done, [_said(TaskSucceeded, done)]
    if end.reason is EndReason.TERMINATED:
        stopped = _moved(task, TaskState.TERMINATED, **closing)
        return stopped, [_said(TaskTerminated, stopped)]
    if end.reason is EndReason.USER_MISTAKE or _blamed(task.attempts) >= max_attempts:
        error = end.error or EngineFailed().body
        failed = _moved(task, TaskState.FAILED, error=error, **closing)
        return failed, [_said(TaskFailed, failed)]
    why = f"attempt {len(task.attempts)} ended ({end.reason}); waiting for a free worker to try again"
    again = _touched(task, phase="retrying", why_waiting=why)
    return again, [_said(TaskRetrying, again)]


def _blamed(attempts: Sequence[AttemptView]) -> int:
    """Attempts that count against the limit: a worker that left in good order is nobody's fault."""
    return sum(1 for a in attempts if a.state == "ended" and not (a.error and a.error.code == "worker_left"))


def _merged_checkpoints(task: TaskView, news: Report) -> list[object]:
    known = {checkpoint.step: checkpoint for checkpoint in task.checkpoints}
    known |= {checkpoint.step: checkpoint for checkpoint in news.checkpoints}
    return [known[step] for step in sorted(known)]


def _place(attempt: AttemptView, preparing_s: float) -> datetime:
    """Where a run interval begins (SPEC BI1): studio's claim time plus the worker's preparing time."""
    return attempt.claimed_at + timedelta(seconds=preparing_s)


def _moved(task: TaskView, to: TaskState, **changes: object) -> TaskView:
    if to not in MOVES[task.state]:
        raise IllegalMove(f"task {task.id} is {task.state} and cannot become {to}")
    return _touched(task, state=to, **changes)


def _touched(task: TaskView, **changes: object) -> TaskView:
    return task.model_copy(update={"version": task.version + 1, **changes})


def _with_attempt(task: TaskView, attempt: AttemptView, **changes: object) -> TaskView:
    return task.model_copy(update={"attempts": [*task.attempts[:-1], attempt], **changes})


def _said(kind: type[Event], task: TaskView) -> Fact:
    return Fact(kind, task.version, task)
