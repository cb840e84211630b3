"""How a dataset goes: at once when somebody said DELETE, else so that it can be brought back for a day.

It refuses while an unfinished task or an open labelling uses it. The bytes go later (``removal``), when nothing else
needs them.
"""

from __future__ import annotations

from datetime import timedelta

from finery_contracts.datasets import DatasetDeleted, DatasetRestored, DatasetState, DatasetView
from finery_contracts.errors import Conflict, NotFound
from finery_kit.db import Transaction
from finery_studio.datasets import store
from finery_studio.labelling import store as labelling_store
from finery_studio.removal.store import let_go, root_of
from finery_studio.tasks import store as task_store


def delete(tx: Transaction, project: str, ref: str, *, restorable_hours: int = 0) -> DatasetView:
    """It can no longer be named; refused while an unfinished task or an open labelling uses it."""
    view = store.mine(tx, project, ref)
    tasks = [task for task in task_store.users_of(tx.session, project, view.id) if task != view.task]
    labellings = labelling_store.open_on(tx.session, project, view.id)
    if tasks or labellings:
        raise Conflict(
            f"{view.name} is in use by {', '.join([*tasks, *labellings])}; wait for tasks or terminate them, close "
            "labellings",
            code="in_use", details=[*({"task": task} for task in tasks), *({"labelling": name} for name in labellings)],
        )  # fmt: skip
    until = tx.now + timedelta(hours=restorable_hours)
    kept = until if restorable_hours and not view.state.pending else None
    places = [store.blob_of(tx.session, view.id), root_of(view.content), root_of(view.report), root_of(view.statistics)]
    let_go(tx, project, places, at=kept)
    return store.save(tx, store.changed(view, state=DatasetState.DELETED, restorable_until=kept), DatasetDeleted)


def restore(tx: Transaction, project: str, ref: str) -> DatasetView:
    """Take a deletion back.

    Raises:
        NotFound: nothing of that name was deleted.
        Conflict: ``not_restorable``: its time is over, or it was deleted for good.
    """
    found = store.deleted(tx.session, project, ref)
    row = tx.session.get(store.DatasetRow, found.id, with_for_update=True, populate_existing=True) if found else None
    if row is None or row.state != DatasetState.DELETED:
        raise NotFound(f"there is no deleted dataset {ref} in this project", code="file_not_found")
    view = DatasetView.model_validate_json(row.view)
    if view.restorable_until is None or tx.now >= view.restorable_until or row.was is None:
        raise Conflict(f"{view.name} was deleted for good; upload it again", code="not_restorable")
    back = store.changed(view, state=DatasetState(row.was), restorable_until=None)
    return store.save(tx, back, DatasetRestored)
