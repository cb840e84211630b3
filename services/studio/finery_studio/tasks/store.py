"""Where tasks lie. The whole view is kept as JSON; what lists and queues ask for has columns of its own."""

from __future__ import annotations

import hashlib
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Index, Text, delete, text
from sqlmodel import Field, Session, col, select

from finery_contracts.errors import NotFound
from finery_contracts.tasks import TaskView
from finery_kit.columns import UtcText
from finery_kit.db import Transaction
from finery_kit.delivery import emit
from finery_studio.pools.counts import Spot, Standing, count
from finery_studio.store import StudioTable
from finery_studio.tasks.domain import claimable, has_live_attempt
from finery_studio.tasks.moves import Decision

CLAIMS_KEPT = timedelta(hours=1)


class TaskRow(StudioTable, table=True):
    """One task."""

    __tablename__ = "task"  # pyright: ignore[reportAssignmentType]
    id: str = Field(primary_key=True)
    project: str
    kind: str
    state: str = Field(index=True)
    name: str
    pool: str
    flavour: str = "cpu"
    claimable: bool = False
    live: bool = Field(default=False, index=True)
    priority: int = 0
    attempt: int = 0
    report_seq: int = 0
    stop_reason: str | None = None
    counted: str | None = None
    created_by: str
    created_at: str
    traceparent: str | None = None
    ended_at: str | None = Field(default=None, index=True)
    keep_logs: str | None = None
    logs: str = Field(default="open", index=True)
    asked: str = Field(default="{}", sa_type=Text)
    spec: str | None = Field(default=None, sa_type=Text)
    view: str = Field(sa_type=Text)


# SQLite takes an index of some rows only where the query says the very same words.
_WAITS: dict[str, Any] = {"sqlite_where": text("claimable IS 1"), "postgresql_where": text("claimable IS true")}
_COUNTS: dict[str, Any] = {"sqlite_where": text("counted is not null"), "postgresql_where": text("counted is not null")}
_ROW = TaskRow
# One index for each order of a list and each filter; ids sort by age. The name beside the id is for searching.
Index("ix_task_by_age", col(_ROW.project), col(_ROW.id), col(_ROW.name))
Index("ix_task_by_name", col(_ROW.project), col(_ROW.name), col(_ROW.id))
Index("ix_task_by_state", col(_ROW.project), col(_ROW.state), col(_ROW.id))
Index("ix_task_by_kind", col(_ROW.project), col(_ROW.kind), col(_ROW.id))
Index("ix_task_by_priority", col(_ROW.project), col(_ROW.priority), col(_ROW.id))
# The queue of each project, kind and flavour in a pool, in the order in which it is served.
Index(
    "ix_task_queue", col(_ROW.pool), col(_ROW.project), col(_ROW.kind), col(_ROW.flavour), col(_ROW.priority).desc(),
    col(_ROW.id), **_WAITS,
)  # fmt: skip
Index(
    "ix_task_counted",
    col(_ROW.pool),
    col(_ROW.flavour),
    col(_ROW.kind),
    col(_ROW.project),
    col(_ROW.counted),
    **_COUNTS,
)


class LabelRow(StudioTable, table=True):
    """One entry of a task's metadata, to be found by: as a digest, because people's values have any length."""

    __tablename__ = "task_label"  # pyright: ignore[reportAssignmentType]
    project: str = Field(primary_key=True)
    label: str = Field(primary_key=True)
    task: str = Field(primary_key=True, index=True)


class NeedRow(StudioTable, table=True):
    """A task waits for another."""

    __tablename__ = "task_need"  # pyright: ignore[reportAssignmentType]
    task: str = Field(primary_key=True)
    needs: str = Field(primary_key=True, index=True)


class ClaimRow(StudioTable, table=True):
    """What a claim was answered with, so that the same request id gets the same answer."""

    __tablename__ = "claim"  # pyright: ignore[reportAssignmentType]
    request_id: str = Field(primary_key=True)
    answer: str = Field(sa_type=Text)
    created_at: str = Field(index=True)


class PulseRow(StudioTable, table=True):
    """When a live attempt was last heard, by the clock of whichever studio heard it."""

    __tablename__ = "pulse"  # pyright: ignore[reportAssignmentType]
    task: str = Field(primary_key=True)
    attempt: int
    heard_at: datetime = Field(sa_type=UtcText)
    hang_said: bool = False


class WatchRow(StudioTable, table=True):
    """One row: until when some studio was awake and on the bus, and since when without a gap."""

    __tablename__ = "watch"  # pyright: ignore[reportAssignmentType]
    id: int = Field(primary_key=True)
    awake_at: datetime = Field(sa_type=UtcText)
    counts_from: datetime = Field(sa_type=UtcText)


def label_of(key: str, value: str) -> str:
    """What an entry of metadata is found by."""
    return hashlib.sha256(f"{key}\0{value}".encode()).hexdigest()[:32]


def view_of(row: TaskRow) -> TaskView:
    """The task as it is told."""
    return TaskView.model_validate_json(row.view)


def load(session: Session, project: str, task_id: str) -> TaskRow:
    """A task of this project.

    Raises:
        NotFound: this project has none of that id.
    """
    row = session.get(TaskRow, task_id)
    if row is None or row.project != project:
        raise NotFound(f"there is no task {task_id} in this project", code="task_not_found")
    return row


def held(session: Session, task_id: str) -> TaskRow | None:
    """A task, kept from other writers until the transaction ends."""
    return session.get(TaskRow, task_id, with_for_update=True, populate_existing=True)


def mine(session: Session, project: str, task_id: str) -> TaskRow:
    """A task of this project, kept from other writers until the transaction ends.

    Raises:
        NotFound: this project has none of that id.
    """
    load(session, project, task_id)
    row = held(session, task_id)
    if row is None:
        raise NotFound(f"there is no task {task_id} in this project", code="task_not_found")
    return row


def save(tx: Transaction, row: TaskRow, decision: Decision) -> TaskView:
    """Store what was decided and, in the same transaction, what is said of it."""
    task, facts = decision
    row.state, row.claimable, row.attempt = str(task.state), claimable(task), len(task.attempts)
    row.live, row.priority, row.stop_reason = has_live_attempt(task), task.priority, task.stop_reason
    row.ended_at, row.keep_logs = task.ended_at.isoformat() if task.ended_at else None, task.keep_logs
    row.counted = count(tx, _spot(row), was=row.counted, now=standing(task))
    row.view = task.model_dump_json()
    tx.session.add(row)
    for fact in facts:
        emit(
            tx, fact.kind, task.id, project=task.project, version=fact.version, data=fact.data,
            traceparent=row.traceparent,
        )  # fmt: skip
    return task


def remove(tx: Transaction, row: TaskRow) -> None:
    """The row with what hangs on it; what was said of the task stays in the event log."""
    for pulse in filter(None, [tx.session.get(PulseRow, row.id)]):
        tx.session.delete(pulse)
    tx.session.execute(delete(NeedRow).where(col(NeedRow.task) == row.id))
    tx.session.execute(delete(LabelRow).where(col(LabelRow.task) == row.id))
    row.counted = count(tx, _spot(row), was=row.counted, now=None)
    tx.session.delete(row)


def standing(task: TaskView) -> Standing | None:
    """How it counts among what its project has; None when it has ended."""
    if task.state.ended:
        return None
    if has_live_attempt(task):
        return Standing.RUNNING
    return Standing.WAITING if claimable(task) else Standing.HELD


def _spot(row: TaskRow) -> Spot:
    return row.pool, row.flavour, row.kind, row.project


def forget_claims(tx: Transaction) -> None:
    """Nobody asks for a claim again after minutes, and the spec in it is large."""
    old = (tx.now - CLAIMS_KEPT).isoformat()
    tx.session.execute(delete(ClaimRow).where(col(ClaimRow.created_at) < old))


def dependents(session: Session, task_id: str) -> list[TaskRow]:
    """Tasks that wait for this one."""
    query = select(TaskRow.id).join(NeedRow, col(NeedRow.task) == col(TaskRow.id)).where(NeedRow.needs == task_id)
    # Held in one order: two needs that end at once must each see what the other has done.
    rows = [held(session, found) for found in sorted(session.exec(query))]
    return [row for row in rows if row is not None]


def unmet_needs(session: Session, *task_ids: str) -> dict[str, list[str]]:
    """Of each of these that waits for other tasks: those that have not succeeded."""
    query = (
        select(NeedRow.task, NeedRow.needs)
        .join(TaskRow, col(NeedRow.needs) == col(TaskRow.id))
        .where(col(NeedRow.task).in_(task_ids), TaskRow.state != "succeeded")
        .order_by(col(NeedRow.task), col(NeedRow.needs))
    )
    found: dict[str, list[str]] = {}
    for task, needed in session.exec(query):
        found.setdefault(task, []).append(needed)
    return found


def users_of(session: Session, project: str, noun_id: str) -> list[str]:
    """Unfinished tasks whose request names this dataset or model."""
    query = select(TaskRow).where(
        TaskRow.project == project,
        col(TaskRow.state).in_(["created", "queued", "preparing", "running"]),
        col(TaskRow.view).contains(noun_id),
    )
    return [row.id for row in session.exec(query)]


def live_ids(session: Session, project: str) -> list[str]:
    """The project's tasks that a worker is believed to hold."""
    query = select(TaskRow.id).where(TaskRow.project == project, col(TaskRow.live).is_(True))
    return sorted(session.exec(query))
