"""What becomes of the logs of ended tasks: kept for ever in the project's archive if that was asked for, else removed.

How long they are kept otherwise is policy (``retention.yaml``). Lines of the LOGS stream age by the same policy.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlmodel import Session, col, select

from finery_contracts.tasks import TaskView
from finery_kit.db import Transaction
from finery_kit.storage import SCHEME, Storage
from finery_studio.tasks.store import TaskRow, view_of

OPEN, KEPT, GONE = "open", "kept", "gone"
AT_A_TIME = 100
LOG = "log.txt"


@dataclass(frozen=True)
class Chore:
    """A task whose logs are to be archived, or are too old."""

    task: TaskView
    becomes: str


def chores(session: Session, now: datetime, *, days: int) -> list[Chore]:
    """What is to be done next; an ended task is looked at once to be archived and once when its time is over."""
    old = (now - timedelta(days=days)).isoformat()
    ended = select(TaskRow).where(col(TaskRow.ended_at).is_not(None))
    wanted = ended.where(TaskRow.logs == OPEN, col(TaskRow.keep_logs).is_not(None)).limit(AT_A_TIME)
    over = ended.where(TaskRow.logs != GONE, col(TaskRow.ended_at) < old).limit(AT_A_TIME)
    archived = [Chore(view_of(row), KEPT) for row in session.exec(wanted)]
    return archived or [Chore(view_of(row), GONE) for row in session.exec(over)]


def carry_out(chore: Chore, storage: Storage) -> None:
    """Copy or remove the files; twice is as good as once."""
    for number in range(1, len(chore.task.attempts) + 1):
        log = storage.find(f"{SCHEME}{chore.task.project}/tasks/{chore.task.id}/{number}/left/{LOG}")
        if log is None:
            continue
        if chore.becomes == GONE:
            log.unlink()
            continue
        target = storage.place(f"{archive_of(chore.task)}/{number}.log")
        shutil.copyfile(log, target.with_suffix(".part"))
        target.with_suffix(".part").replace(target)


def clear(task: TaskView, storage: Storage) -> None:
    """A deleted task leaves no log and no checkpoint; what became a dataset or a model of its own stays."""
    carry_out(Chore(task, GONE), storage)
    for number in range(1, len(task.attempts) + 1):
        storage.delete(f"{SCHEME}{task.project}/tasks/{task.id}/{number}/checkpoints")


def settle(tx: Transaction, chore: Chore) -> None:
    """Remember that it was done."""
    row = tx.session.get(TaskRow, chore.task.id, with_for_update=True)
    if row is not None:
        row.logs = chore.becomes
        tx.session.add(row)


def archived_lines(task: TaskView, storage: Storage) -> Iterator[tuple[int, str]]:
    """(attempt, line) of a task whose logs were kept; what was on the LOGS stream is long gone."""
    for number in range(1, len(task.attempts) + 1):
        log = storage.find(f"{archive_of(task)}/{number}.log") if task.keep_logs else None
        if log is not None:
            with log.open(encoding="utf-8", errors="replace") as lines:
                yield from ((number, line.rstrip("\n")) for line in lines)


def archive_of(task: TaskView) -> str:
    """Where the logs of a task are kept for ever."""
    return f"{SCHEME}{task.project}/archive/{task.keep_logs}/{task.id}"
