"""How a task comes into being: validated by its kind, stored, queued at once or when what it waits for is there."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from finery_contracts.access import Actor
from finery_contracts.errors import ErrorBody, FineryError, TooLarge
from finery_contracts.ids import new_id
from finery_contracts.jobs import EngineSpec, TaskKind
from finery_contracts.options import TaskOptions
from finery_contracts.tasks import TaskCreated, TaskState, TaskView
from finery_kit.db import Transaction
from finery_kit.telemetry import current_traceparent
from finery_studio.pools.handlers import Wish, admit
from finery_studio.tasks import domain, store
from finery_studio.tasks.moves import awaited

MAX_NAME = 64
MAX_TASK_BYTES = 256 * 2**10
"""Of a new task: facts and reports of it must still fit on the bus when it has grown."""
SpecMaker = Callable[[Transaction, TaskView], EngineSpec]
"""Builds the engine's spec when everything a task waits for is there; raises FineryError when it cannot."""


@dataclass(frozen=True)
class NewTask:
    """What a kind's own module decided to make."""

    kind: TaskKind
    name: str
    """Used when the options name none."""
    request: dict[str, Any]
    options: TaskOptions = field(default_factory=TaskOptions)
    """What was asked for, as ``POST /api/v1/tasks`` takes it: a copy begins with it."""
    needs: tuple[str, ...] = ()
    result: Mapping[str, str] | None = None
    task_id: str | None = None
    method: str | None = None
    model_parameters: int | None = None
    """Of the model that has to fit the flavour."""
    follows: bool = False
    """True: it comes of another task, so it is not refused because too many wait."""


def submit(tx: Transaction, new: NewTask, actor: Actor, specs: Mapping[TaskKind, SpecMaker]) -> TaskView:
    """Store the task and, when it waits for nothing, queue it.

    Raises:
        NotFound, InvalidRequest: no such pool or flavour, or it cannot do that.
        RateLimited: too many of the project's tasks wait.
        TooLarge: what was asked for is larger than ``MAX_TASK_BYTES``.
    """
    chosen = new.options
    wish = Wish(new.kind, chosen.pool, chosen.flavour, new.method, new.model_parameters)
    pool, flavour = admit(tx, wish, actor.project, counted=not new.follows)
    placed = {"pool": pool, "flavour": flavour.name, "price": flavour.price}
    task = _view(new, actor, now=tx.now).model_copy(update=placed)
    size = len(task.model_dump_json())
    if size > MAX_TASK_BYTES:
        raise TooLarge(
            f"the task has {size:,} characters, {MAX_TASK_BYTES:,} are the limit; shorten name, options or metadata",
            code="task_too_large",
        )
    asked = {**chosen.model_dump(mode="json", exclude_unset=True, by_alias=True), "kind": new.kind}
    row = store.TaskRow(
        id=task.id, project=task.project, kind=str(task.kind), state=str(task.state), name=task.name, pool=task.pool,
        flavour=task.flavour, created_by=task.created_by, created_at=tx.now.isoformat(), view="",
        traceparent=current_traceparent(), asked=json.dumps(asked),
    )  # fmt: skip
    store.save(tx, row, (task, [domain.Fact(TaskCreated, 1, task)]))
    for key, value in task.metadata.items():
        tx.session.add(store.LabelRow(project=task.project, label=store.label_of(key, value), task=task.id))
    tx.session.flush()
    for needed in sorted(new.needs):
        store.held(tx.session, needed)  # so that it cannot end between our look at it and our commit
        tx.session.add(store.NeedRow(task=task.id, needs=needed))
    tx.session.flush()
    return advance(tx, row, specs)


def advance(tx: Transaction, row: store.TaskRow, specs: Mapping[TaskKind, SpecMaker]) -> TaskView:
    """Queue a created task when nothing is missing any more."""
    task = store.view_of(row)
    if task.state is not TaskState.CREATED or task.phase == "paused" or store.unmet_needs(tx.session, task.id):
        return task
    try:
        spec = specs[task.kind](tx, task)
    except FineryError as fault:
        return store.save(tx, row, domain.fail(task, fault.body, tx.now))
    row.spec = spec.model_dump_json()
    return store.save(tx, row, domain.queue(task, tx.now))


def give_up(tx: Transaction, row: store.TaskRow, ended: TaskView) -> TaskView:
    """What it waited for did not succeed."""
    task = store.view_of(row)
    if task.state is not TaskState.CREATED:
        return task
    return store.save(tx, row, domain.fail(task, _because_of(task, ended), tx.now))


def _view(new: NewTask, actor: Actor, *, now: datetime) -> TaskView:
    chosen = new.options
    return TaskView(
        id=new.task_id or new_id("task"),
        project=actor.project,
        kind=new.kind,
        name=chosen.name or new.name[:MAX_NAME],
        description=chosen.description,
        state=TaskState.CREATED,
        phase="waiting",
        why_waiting=awaited(new.needs),
        version=1,
        created_by=actor.user,
        priority=chosen.priority,
        auto_stop_s=chosen.auto_stop_s,
        on_hang=chosen.on_hang,
        keep_logs=chosen.keep_logs,
        created_at=now,
        waits_for=list(new.needs),
        request=new.request,
        notify=chosen.notify,
        metadata=chosen.metadata,
        result=dict(new.result or {}),
    )


def _because_of(task: TaskView, ended: TaskView) -> ErrorBody:
    """The error of a task whose input is not coming; OpenAI's names for its files."""
    reason = ended.error.message if ended.error else f"task {ended.id} was {ended.state}"
    details = ended.error.details if ended.error else []
    if ended.kind is TaskKind.INGEST and task.kind in (TaskKind.PREPARE, TaskKind.COUNT):
        return ErrorBody(code="invalid_dataset", message=reason, param="dataset", details=details)
    if ended.kind is TaskKind.INGEST:
        validation = task.request.get("validation")
        is_validation = validation is not None and ended.result.get("dataset") == validation
        which = "validation_file" if is_validation else "training_file"
        return ErrorBody(code=f"invalid_{which}", message=reason, param=which, details=details)
    return ErrorBody(code="model_not_ready", message=reason, param="model", details=details)
