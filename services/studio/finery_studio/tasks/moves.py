"""The moves of a task and how one is made: a new state, one version more, a fact that says so. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from finery_contracts.envelope import Event
from finery_contracts.errors import Conflict
from finery_contracts.model import Record
from finery_contracts.tasks import Note, TaskState, TaskView

MOVES: dict[TaskState, frozenset[TaskState]] = {
    TaskState.CREATED: frozenset({TaskState.QUEUED, TaskState.FAILED, TaskState.TERMINATED}),
    TaskState.QUEUED: frozenset({TaskState.PREPARING, TaskState.FAILED, TaskState.TERMINATED}),
    TaskState.PREPARING: frozenset({TaskState.RUNNING, TaskState.SUCCEEDED, TaskState.FAILED, TaskState.TERMINATED}),
    TaskState.RUNNING: frozenset({TaskState.SUCCEEDED, TaskState.FAILED, TaskState.TERMINATED}),
    TaskState.SUCCEEDED: frozenset(),
    TaskState.FAILED: frozenset(),
    TaskState.TERMINATED: frozenset(),
}
MAX_NOTES = 20


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


def moved(task: TaskView, to: TaskState, **changes: object) -> TaskView:
    """The task in its next state.

    Raises:
        IllegalMove: the table does not allow it.
    """
    if to not in MOVES[task.state]:
        raise IllegalMove(f"task {task.id} is {task.state} and cannot become {to}")
    return touched(task, state=to, **changes)


def touched(task: TaskView, **changes: object) -> TaskView:
    """The task with something changed and one version more."""
    return task.model_copy(update={"version": task.version + 1, **changes})


def said(kind: type[Event], task: TaskView) -> Fact:
    """The fact that tells of the task as it is now."""
    return Fact(kind, task.version, task)


def noted(task: TaskView, code: str, text: str, now: datetime) -> list[Note]:
    """Its notes with one more; the newest are kept."""
    return [*task.notes, Note(at=now, code=code, text=text)][-MAX_NOTES:]


def ran_s(task: TaskView, until: datetime) -> float:
    """Running seconds of all attempts; of one that still runs, those from its place on (SPEC TA4)."""
    total_s = 0.0
    for attempt in task.attempts:
        if attempt.state == "ended":
            total_s += attempt.running_s
        elif attempt.state == "running":
            place = attempt.claimed_at + timedelta(seconds=attempt.preparing_s)
            total_s += max(0.0, (until - place).total_seconds())
    return total_s


def awaited(needs: Sequence[str]) -> str | None:
    """Why a task is not queued yet."""
    return f"waiting for {', '.join(needs)}" if needs else None


def standing(task: TaskView) -> str:
    """State and phase in words."""
    return f"{task.state} ({task.phase})" if task.phase else str(task.state)
