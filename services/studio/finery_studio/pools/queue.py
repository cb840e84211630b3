"""The queue itself: which task a worker gets, which doorbells to ring, what a waiting task is told."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sql
from sqlalchemy import and_, or_
from sqlmodel import Session, col, func, select

from finery_contracts.tasks import TaskState, TaskView
from finery_contracts.work import ClaimRequest
from finery_kit.db import Transaction
from finery_studio.pools import admission, store
from finery_studio.pools.admission import Offer, Queue, Rank, Situation
from finery_studio.tasks.moves import awaited
from finery_studio.tasks.store import TaskRow, unmet_needs

MAX_LOCKED = 50
"""So many heads may be in others' hands (being terminated, paused) before a claim gives up until the next bell."""
LISTED = 2000
"""Where projects are level, a list tells places in queues up to this length; a single read always tells."""


def next_task(tx: Transaction, request: ClaimRequest) -> TaskRow | None:
    """The task whose turn it is, kept for this transaction; None when nothing can be taken."""
    if not _any_waits(tx.session, request):
        return None
    store.one_at_a_time(tx.session, store.LOCK_ADMISSION)
    pool = tx.session.get(store.PoolRow, request.pool, populate_existing=True)
    if pool is None:
        return None
    situation = store.situation(tx.session, pool)
    offer = Offer(frozenset(map(str, request.kinds)), frozenset(request.flavours), request.free_slots, request.slots)
    passed_over = list[str]()
    while len(passed_over) < MAX_LOCKED:
        turn = admission.choose(situation, offer)
        if turn is None:
            return None
        heads = _heads(tx.session, turn.queues, passed_over)
        best = min(heads, key=lambda head: (-head.priority, head.id), default=None)
        if best is None:  # whatever is left of these queues is in others' hands
            situation = _without(situation, turn.queues)
            continue
        if not admission.fits(situation, best.flavour, offer):
            return None
        row = _taken(tx.session, best.id)
        if row is None:
            passed_over.append(best.id)
            continue
        _serve(tx, turn, situation=situation, row=row)
        return row
    return None


def waiting_bells(session: Session) -> list[tuple[str, str]]:
    """(kind, pool) for which work waits."""
    query = select(store.CountRow.kind, store.CountRow.pool).where(store.CountRow.waiting > 0).distinct()
    return list(session.exec(query))


# Built once: to build a statement takes longer than to run it.
_TASK: Any = vars(TaskRow)["__table__"].c
_COUNT: Any = vars(store.CountRow)["__table__"].c


def _many(name: str) -> Any:
    return sql.bindparam(name, expanding=True)


_LINED_UP = (
    _COUNT.pool == sql.bindparam("pool"), _COUNT.waiting > 0, _COUNT.kind.in_(_many("kinds")),
    _COUNT.flavour.in_(_many("flavours")),
)  # fmt: skip
_WAITING = sql.select(_COUNT.project).where(*_LINED_UP).limit(1)
_HEAD = (
    sql.select(_TASK.id)
    .where(
        _TASK.pool == _COUNT.pool, _TASK.project == _COUNT.project, _TASK.kind == _COUNT.kind,
        _TASK.flavour == _COUNT.flavour, _TASK.claimable.is_(True), _TASK.id.not_in(_many("passed_over")),
    )
    .order_by(_TASK.priority.desc(), _TASK.id)
    .limit(1)
    .correlate(vars(store.CountRow)["__table__"])
    .scalar_subquery()
)  # fmt: skip
_FOUND = sql.select(_HEAD.label("id")).where(*_LINED_UP, _COUNT.project.in_(_many("projects"))).subquery()
_HEADS = sql.select(_TASK.id, _TASK.priority, _TASK.flavour, _TASK.kind, _TASK.project).where(
    _TASK.id.in_(sql.select(_FOUND.c.id))
)


@dataclass(frozen=True)
class _Place:
    ahead: int
    rank: Rank


def told(session: Session, views: Sequence[TaskView], *, every_place: bool = False) -> list[TaskView]:
    """The tasks with why they wait and what place they have, as of now. ``every_place``: even if it takes longer."""
    by_pool = dict[str, list[TaskView]]()
    for view in views:
        if _stands_in_line(view):
            by_pool.setdefault(view.pool, []).append(view)
    answers = _not_queued(session, views)
    for pool_id, waiting in by_pool.items():
        pool = session.get(store.PoolRow, pool_id)
        if pool is None:
            continue
        situation = store.situation(session, pool)
        places = _places(session, situation, waiting, every_place=every_place)
        for view in waiting:
            place = places.get(view.id)
            reason = admission.why(situation, _queue_of(view), place)
            if view.phase == "retrying" and view.why_waiting:
                reason = f"{view.why_waiting.split(';')[0]}; {reason}"
            answers[view.id] = view.model_copy(update={"why_waiting": reason, "place": place})
    return [answers.get(view.id, view) for view in views]


def _not_queued(session: Session, views: Sequence[TaskView]) -> dict[str, TaskView]:
    """Those that wait for other tasks, with the ones that are still to come."""
    created = {view.id: view for view in views if view.state is TaskState.CREATED and view.phase == "waiting"}
    needed = unmet_needs(session, *created) if created else {}
    return {task: created[task].model_copy(update={"why_waiting": awaited(needs)}) for task, needs in needed.items()}


def _stands_in_line(view: TaskView) -> bool:
    last = view.attempts[-1] if view.attempts else None
    idle = last is None or last.state == "ended"
    return not view.state.ended and view.queued_at is not None and view.phase != "paused" and idle


def _queue_of(view: TaskView) -> Queue:
    return Queue(view.pool, view.flavour, str(view.kind), view.project)


def _places(session: Session, situation: Situation, views: Sequence[TaskView], *, every_place: bool) -> dict[str, int]:
    """Place of each. Of the tasks that are level with one, the ranks are looked up."""
    mine = _ahead(session, views)
    places = dict[str, int]()
    for view in views:
        queue, spot = _queue_of(view), mine.get(view.id)
        level = admission.overtakers(situation, queue, spot.ahead) if spot else None
        if spot is None or level is None:
            continue
        if level.ties and not every_place and _length(situation, queue) > LISTED:
            continue
        places[view.id] = admission.place(level, spot.rank, _ranks(session, queue, level.ties))
    return places


def _ahead(session: Session, views: Sequence[TaskView]) -> dict[str, _Place]:
    """How many tasks of the same project and queue go before each, by one look at the index for each."""
    found = dict[str, _Place]()
    query = select(TaskRow.id, TaskRow.priority).where(
        col(TaskRow.id).in_([view.id for view in views]), col(TaskRow.claimable).is_(True)
    )
    priorities = dict(session.exec(query).all())
    for view in views:
        priority = priorities.get(view.id)
        if priority is None:
            continue
        sooner = or_(
            col(TaskRow.priority) > priority, and_(col(TaskRow.priority) == priority, col(TaskRow.id) < view.id)
        )
        ahead = session.exec(select(func.count()).where(*_in_line(_queue_of(view), view.project), sooner)).one()
        found[view.id] = _Place(ahead, (-priority, view.id))
    return found


def _ranks(session: Session, queue: Queue, ties: Sequence[tuple[str, int]]) -> list[Rank]:
    """The ranks of the n-th tasks of other projects."""
    if not ties:
        return []
    projects = [project for project, _ in ties]
    nth = func.row_number().over(
        partition_by=col(TaskRow.project), order_by=(col(TaskRow.priority).desc(), col(TaskRow.id))
    )
    lined_up = (
        select(TaskRow.project, TaskRow.priority, TaskRow.id, (nth - 1).label("nth"))
        .where(*_in_line(queue), col(TaskRow.project).in_(projects))
        .subquery()
    )
    wanted = set(ties)
    query = sql.select(lined_up).where(lined_up.c.nth.in_({number for _, number in ties}))
    return [(-row.priority, row.id) for row in session.execute(query) if (row.project, row.nth) in wanted]


def _in_line(queue: Queue, project: str | None = None) -> list[Any]:
    """Conditions of the rows that stand in the same queue."""
    rows: list[Any] = [
        TaskRow.pool == queue.pool, TaskRow.flavour == queue.flavour, col(TaskRow.claimable).is_(True),
        col(TaskRow.kind).in_(sorted(admission.rivals(queue.kind))),
    ]  # fmt: skip
    return rows if project is None else [*rows, TaskRow.project == project]


def _length(situation: Situation, queue: Queue) -> int:
    kinds = admission.rivals(queue.kind)
    return sum(q.waiting for q in situation.queues if q.flavour == queue.flavour and q.kind in kinds)


def _any_waits(session: Session, request: ClaimRequest) -> bool:
    """A look without the lock: idle workers that ask again and again keep nobody waiting."""
    said = {"pool": request.pool, "kinds": [str(kind) for kind in request.kinds], "flavours": list(request.flavours)}
    return session.connection().execute(_WAITING, said).first() is not None


def _heads(session: Session, queues: Sequence[Queue], passed_over: Sequence[str]) -> list[Any]:
    """The best waiting task of each of these queues: one look at the index for each."""
    said = {
        "pool": queues[0].pool, "projects": list({queue.project for queue in queues}),
        "kinds": list({queue.kind for queue in queues}), "flavours": list({queue.flavour for queue in queues}),
        "passed_over": list(passed_over),
    }  # fmt: skip
    wanted = {(queue.project, queue.kind, queue.flavour) for queue in queues}
    rows = session.connection().execute(_HEADS, said)
    return [row for row in rows if (row.project, row.kind, row.flavour) in wanted]


def _taken(session: Session, task_id: str) -> TaskRow | None:
    """The row, if nobody else has it in hand and it still waits."""
    query = select(TaskRow).where(TaskRow.id == task_id, col(TaskRow.claimable).is_(True))
    locked = query.with_for_update(skip_locked=True)
    return session.exec(locked, execution_options={"populate_existing": True}).first()


def _without(situation: Situation, gone: Sequence[Queue]) -> Situation:
    kept = [q if q not in gone else Queue(q.pool, q.flavour, q.kind, q.project, 0, q.running) for q in situation.queues]
    return Situation(**{**vars(situation), "queues": kept})


def _serve(tx: Transaction, turn: admission.Turn, *, situation: Situation, row: TaskRow) -> None:
    """Remember that the project was served."""
    served = turn.served(situation, Queue(row.pool, row.flavour, row.kind, row.project))
    store.serve(tx.session, row.pool, {row.project: served, store.CLOCK: turn.clock})
