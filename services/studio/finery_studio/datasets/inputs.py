"""Datasets that a task names as its input: which one is meant, what to wait for, and whether it can be used."""

from __future__ import annotations

from finery_contracts.access import Actor
from finery_contracts.datasets import DataKind, DatasetState, DatasetView
from finery_contracts.errors import InvalidRequest
from finery_contracts.preparing import SourceUsed
from finery_contracts.tasks import TaskView
from finery_kit.db import Transaction
from finery_studio.datasets import store
from finery_studio.datasets.withdrawal import refuse_withdrawn


def for_use(
    tx: Transaction, ref: str, actor: Actor, *, param: str, tolerant: bool = False
) -> tuple[DatasetView, tuple[str, ...]]:
    """The dataset, and the tasks to wait for. ``tolerant``: a rejected one fails the task later, not the call.

    Raises:
        NotFound, InvalidRequest: there is none, or it cannot be used.
    """
    view = store.load(tx.session, actor.project, ref, param=param)
    refuse_withdrawn(view)
    if view.task is None:
        raise InvalidRequest(
            f"{view.filename} was uploaded with purpose {view.purpose}; upload it with purpose fine-tune",
            code="invalid_purpose", param=param,
        )  # fmt: skip
    if view.state is DatasetState.REJECTED and not tolerant:
        reason = view.error.message if view.error else "see its report"
        raise InvalidRequest(
            f"dataset {view.name} was rejected: {reason}", code="dataset_rejected", param=param,
            details=view.error.details if view.error else None,
        )  # fmt: skip
    return view, (view.task,) if view.state.pending else ()


def ready(tx: Transaction, task: TaskView, dataset_id: str, param: str) -> DatasetView:
    """The dataset, now that everything was waited for.

    Raises:
        InvalidRequest: it is not ready after all; the task fails with it.
    """
    view = store.load(tx.session, task.project, dataset_id)
    if view.state is not DatasetState.READY:
        reason = view.error.message if view.error else f"it is {view.state}"
        raise InvalidRequest(
            reason, code=f"invalid_{param}", param=param, details=view.error.details if view.error else None
        )
    return view


def used(view: DatasetView) -> SourceUsed:
    """What stands of it in the lineage of what is made of it now."""
    return SourceUsed(
        dataset=view.id, name=view.name, version=view.version, content_sha256=view.content_sha256 or "",
        records=view.records,
    )  # fmt: skip


def conversations(view: DatasetView, param: str) -> DatasetView:
    """The same dataset: supervised tuning and evaluation read conversations; before it is ready, nobody knows its kind.

    Raises:
        InvalidRequest: ``dataset_kind_unfit``.
    """
    if view.kind not in (None, DataKind.MESSAGES):
        raise InvalidRequest(
            f"dataset {view.name} holds records of the kind {view.kind}; this needs messages (conversations)",
            code="dataset_kind_unfit", param=param,
        )  # fmt: skip
    return view
