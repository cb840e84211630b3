"""How a model goes: refused while something needs it, restorable for a day when OpenAI's surface deleted it.

The task that made it and its trial do not count as needing it. Its bytes go later (``removal``), and only those that
no other model, dataset or task needs: the base under an adapter stays.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta

from finery_contracts.errors import Conflict, NotFound
from finery_contracts.models import ModelDeleted, ModelRestored, ModelState, ModelView
from finery_contracts.tasks import TaskView
from finery_kit.db import Transaction
from finery_kit.storage import SCHEME
from finery_studio.models import store, versions
from finery_studio.removal.store import let_go, root_of, taken_back
from finery_studio.tasks import store as task_store


def delete(
    tx: Transaction, project: str, ref: str, served_by: Sequence[str], *, restorable_hours: int = 0
) -> ModelView:
    """It can no longer be named (SPEC MO7); refused while something refers to it, with the names."""
    view = store.mine(tx, project, ref)
    users = [task for task in task_store.users_of(tx.session, project, view.id) if task not in view.tasks]
    refs = [*users, *store.built_on(tx.session, project, view.id), *served_by]
    if refs:
        raise Conflict(
            f"model {view.name} is in use by {', '.join(refs)}; end or delete them first",
            code="in_use", details=[{"used_by": name} for name in refs],
        )  # fmt: skip
    return let_model_go(tx, view, restorable_hours=restorable_hours)


def let_model_go(tx: Transaction, view: ModelView, *, restorable_hours: int = 0) -> ModelView:
    """Nothing refers to it: deleted now, its bytes at once or when nobody can bring it back any longer."""
    settled = view.state in (ModelState.READY, ModelState.INVALID)
    until = tx.now + timedelta(hours=restorable_hours) if restorable_hours and settled else None
    gone = store.save(tx, store.changed(view, state=ModelState.DELETED, restorable_until=until), ModelDeleted)
    let_go(tx, view.project, places_of(tx, view), at=until)
    versions.hand_on(tx, gone)
    return gone


def restore(tx: Transaction, project: str, ref: str) -> ModelView:
    """Take a deletion back; when its name was given away meanwhile, it comes back as a version that is not current.

    Raises:
        NotFound: nothing of that name was deleted.
        Conflict: ``not_restorable``: its time is over, or it was deleted for good; ``base_deleted``.
    """
    found = store.deleted(tx.session, project, ref)
    row = tx.session.get(store.ModelRow, found.id, with_for_update=True, populate_existing=True) if found else None
    if row is None or row.state != ModelState.DELETED:
        raise NotFound(f"there is no deleted model {ref} in this project", code="model_not_found", param="model")
    view = ModelView.model_validate_json(row.view)
    if view.restorable_until is None or tx.now >= view.restorable_until or row.was is None:
        raise Conflict(f"model {view.name} was deleted for good; make it again", code="not_restorable")
    _refuse_without_base(tx, view)
    current = store.find(tx.session, project, view.name) is None
    back = store.changed(view, state=ModelState(row.was), restorable_until=None, current=current)
    saved = store.save(tx, back, ModelRestored)
    taken_back(tx, project, places_of(tx, saved))
    return saved


def _refuse_without_base(tx: Transaction, view: ModelView) -> None:
    """An adapter whose base went meanwhile could be neither checked nor merged nor exported."""
    row = tx.session.get(store.ModelRow, view.base) if view.base else None
    if row is not None and row.state == ModelState.DELETED:
        base = ModelView.model_validate_json(row.view)
        restorable = base.restorable_until is not None and tx.now < base.restorable_until
        remedy = f"restore {base.id} first" if restorable else "that went for good: tune again"
        raise Conflict(
            f"model {view.name} is an adapter on {base.name}, which was deleted, too; {remedy}",
            code="base_deleted", details=[{"base": base.id, "name": base.name}],
        )  # fmt: skip


def places_of(tx: Transaction, view: ModelView) -> list[str | None]:
    """Where its bytes lie, and the checkpoints of its task, which are needed while another model of that task lives."""
    places = [root_of(view.weights), root_of(view.adapter), f"{SCHEME}{view.project}/models/{view.id}"]
    task_id = view.lineage.get("task")
    row = tx.session.get(task_store.TaskRow, task_id) if task_id else None
    return places + (checkpoint_places(task_store.view_of(row)) if row is not None else [])


def checkpoint_places(task: TaskView) -> list[str]:
    """The folders in which a task's attempts kept their checkpoints."""
    return [
        f"{SCHEME}{task.project}/tasks/{task.id}/{number}/checkpoints" for number in range(1, len(task.attempts) + 1)
    ]
