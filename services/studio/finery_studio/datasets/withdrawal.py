"""A dataset is withdrawn: nobody may use it any longer, and everything that descends from it says so.

Nothing is deleted by it and nothing that runs is stopped; what a running task makes of it is born with the flag.
"""

from __future__ import annotations

from typing import TypeVar

from pydantic import Field

from finery_contracts.datasets import DatasetFlagged, DatasetState, DatasetView, DatasetWithdrawn, Withdrawal
from finery_contracts.errors import Conflict, InvalidRequest
from finery_contracts.model import Request
from finery_contracts.models import ModelFlagged, ModelState, ModelView
from finery_kit.db import Transaction
from finery_studio.datasets import store
from finery_studio.lineage import ancestors_of, family_of
from finery_studio.models import store as model_store

Born = TypeVar("Born", ModelView, DatasetView)


class WithdrawRequest(Request):
    """``POST /api/v1/datasets/{ref}/withdraw``."""

    reason: str = Field(min_length=1, max_length=1000, description="is shown wherever something descends from it")


def withdraw(tx: Transaction, project: str, ref: str, *, by: str, reason: str) -> DatasetView:
    """From now on it cannot be used; every descendant is flagged, with a fact of its own.

    Raises:
        Conflict: ``already_withdrawn``; ``not_ready``: ingest has not looked at it yet.
    """
    view = store.mine(tx, project, ref)
    if view.state is DatasetState.WITHDRAWN:
        raise Conflict(f"dataset {view.name} was withdrawn already", code="already_withdrawn")
    if view.state.pending:
        raise Conflict(f"dataset {view.name} is {view.state}; wait until ingest has ended", code="not_ready")
    told = Withdrawal(dataset=view.id, name=view.name, reason=reason, by=by, at=tx.now)
    gone = store.save(tx, store.changed(view, state=DatasetState.WITHDRAWN, withdrawn=told), DatasetWithdrawn)
    family = family_of(tx.session, project)
    for node in family.descendants(view.id):
        _flag(tx, node, told)
    return gone


def flagged_at_birth(tx: Transaction, view: Born) -> Born:
    """What was made of others says at once what of them was withdrawn, beside what came with it from elsewhere."""
    known = {told.dataset for told in view.withdrawn_inputs}
    told = [found for found in _inherited(tx, view) if found.dataset not in known]
    if not told:
        return view
    inputs = [*view.withdrawn_inputs, *told]
    if isinstance(view, ModelView):
        return model_store.save(tx, model_store.changed(view, withdrawn_inputs=inputs), ModelFlagged)
    return store.save(tx, store.changed(view, withdrawn_inputs=inputs), DatasetFlagged)


def refuse_withdrawn(view: DatasetView) -> None:
    """Raises InvalidRequest ``dataset_withdrawn``."""
    if view.state is DatasetState.WITHDRAWN:
        reason = view.withdrawn.reason if view.withdrawn else "no reason was given"
        raise InvalidRequest(
            f"dataset {view.name} was withdrawn and can no longer be used: {reason}", code="dataset_withdrawn",
            param="dataset",
        )  # fmt: skip


def _inherited(tx: Transaction, born: ModelView | DatasetView) -> list[Withdrawal]:
    """What was withdrawn of all that a model or dataset descends from, here or where a bundle came from."""
    told = dict[str, Withdrawal]()
    for view in ancestors_of(tx.session, born):
        own = [view.withdrawn] if isinstance(view, DatasetView) and view.withdrawn is not None else []
        for withdrawal in (*own, *view.withdrawn_inputs):
            told.setdefault(withdrawal.dataset, withdrawal)
    return list(told.values())


def _flag(tx: Transaction, node: str, told: Withdrawal) -> None:
    row = tx.session.get(model_store.ModelRow, node, with_for_update=True, populate_existing=True)
    if row is not None:
        model = model_store.ModelView.model_validate_json(row.view)
        if model.state is not ModelState.DELETED or model.restorable_until is not None:
            inputs = [*model.withdrawn_inputs, told]
            model_store.save(tx, model_store.changed(model, withdrawn_inputs=inputs), ModelFlagged)
        return
    found = tx.session.get(store.DatasetRow, node, with_for_update=True, populate_existing=True)
    if found is not None:
        view = DatasetView.model_validate_json(found.view)
        inputs = [*view.withdrawn_inputs, told]
        store.save(tx, store.changed(view, withdrawn_inputs=inputs), DatasetFlagged)
