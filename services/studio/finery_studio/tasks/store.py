"""Where tasks lie. The whole view is kept as JSON; what lists and queues ask for has columns of its own."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta

from sqlalchemy import Text, delete
from sqlmodel import Field, Session, col, or_, select

from finery_contracts.errors import NotFound
from finery_contracts.jobs import TaskKind
from finery_contracts.tasks import TaskView
from finery_kit.columns import UtcText
from finery_kit.db import Transaction
from finery_kit.delivery import emit
from finery_studio.store import StudioTable
from finery_studio.tasks.domain import claimable, has_live_attempt
from finery_studio.tasks.moves import Decision

CLAIMS_KEPT = timedelta(hours=1)


class TaskRow(StudioTable, table=True):
    """One task."""

    __tablename__ = "task"  # pyright: ignore[reportAssignmentType]
    id: str = Field(primary_key=True)
    project: str = Field(index=True)
    kind: str = Field(index=True)
    state: str = Field(index=True)
    name: str = Field(index=True)
    pool: str
    claimable: bool = Field(default=False, index=True)
    live: bool = Field(default=False, index=True)
    priority: int = 0
    attempt: int = 0
    report_seq: int = 0
    stop_reason: str | None = None
    created_by: str
    created_at: str = Field(index=True)
    traceparent: str | None = None
    ended_at: str | None = Field(default=None, index=True)
    keep_logs: str | None = None
    logs: str = Field(default="open", index=True)
    asked: str = Field(default="{}", sa_type=Text)
    spec: str | None = Field(default=None, sa_type=Text)
    view: str = Field(sa_type=Text)


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
    tx.session.delete(row)


def best_claimable(session: Session, kinds: Sequence[TaskKind], pool: str) -> TaskRow | None:
    """The task a free worker should take: priority first, then age."""
    query = (
        select(TaskRow)
        .where(col(TaskRow.claimable).is_(True), col(TaskRow.kind).in_([str(k) for k in kinds]), TaskRow.pool == pool)
        .order_by(col(TaskRow.priority).desc(), col(TaskRow.id))
        .limit(1)
        .with_for_update(skip_locked=True)
    )
    return session.exec(query).first()


def forget_claims(tx: Transaction) -> None:
    """Nobody asks for a claim again after minutes, and the spec in it is large."""
    old = (tx.now - CLAIMS_KEPT).isoformat()
    tx.session.execute(delete(ClaimRow).where(col(ClaimRow.created_at) < old))


def waiting_bells(session: Session) -> list[tuple[str, str]]:
    """(kind, pool) for which work waits."""
    query = select(TaskRow.kind, TaskRow.pool).where(col(TaskRow.claimable).is_(True)).distinct()
    return list(session.exec(query))


def dependents(session: Session, task_id: str) -> list[TaskRow]:
    """Tasks that wait for this one."""
    query = select(TaskRow.id).join(NeedRow, col(NeedRow.task) == col(TaskRow.id)).where(NeedRow.needs == task_id)
    # Held in one order: two needs that end at once must each see what the other has done.
    rows = [held(session, found) for found in sorted(session.exec(query))]
    return [row for row in rows if row is not None]


def unmet_needs(session: Session, task_id: str) -> int:
    """How many of the tasks it waits for have not succeeded."""
    query = (
        select(TaskRow.id)
        .join(NeedRow, col(NeedRow.needs) == col(TaskRow.id))
        .where(NeedRow.task == task_id, TaskRow.state != "succeeded")
    )
    return len(list(session.exec(query)))


def list_tasks(
    session: Session, project: str, *, kind: str | None = None, state: str | None = None, search: str | None = None,
    after: str | None = None, limit: int = 20, metadata: dict[str, str] | None = None,
) -> list[TaskRow]:  # fmt: skip
    """Newest first; ``after`` is the last id of the page before."""
    query = select(TaskRow).where(TaskRow.project == project)
    if kind:
        query = query.where(TaskRow.kind == kind)
    if state:
        query = query.where(TaskRow.state == state)
    if search:
        query = query.where(or_(col(TaskRow.name).contains(search, autoescape=True), col(TaskRow.id) == search))
    if after:
        query = query.where(col(TaskRow.id) < after)
    rows = session.exec(query.order_by(col(TaskRow.id).desc()).limit(limit if not metadata else None))
    if not metadata:
        return list(rows)
    wanted = metadata.items()
    return [row for row in rows if wanted <= view_of(row).metadata.items()][:limit]


def users_of(session: Session, project: str, noun_id: str) -> list[str]:
    """Unfinished tasks whose request names this dataset or model."""
    query = select(TaskRow).where(
        TaskRow.project == project,
        col(TaskRow.state).in_(["created", "queued", "preparing", "running"]),
        col(TaskRow.view).contains(noun_id),
    )
    return [row.id for row in session.exec(query)]
