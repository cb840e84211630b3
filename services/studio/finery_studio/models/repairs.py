"""Repairs of a model's files (SPEC MO6): shown as diffs, made on consent in a copy that is the name's next version.

The version they were proposed for keeps its bytes and its findings. It refuses what was not proposed, Python files that
nobody allows, and adapters, whose base is what would have to be repaired.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING

from sqlmodel import Session, col, select

from finery_contracts.access import Actor
from finery_contracts.errors import Conflict, Forbidden, InvalidRequest
from finery_contracts.ids import new_id
from finery_contracts.jobs import Finding, TaskKind
from finery_contracts.models import ModelCreated, ModelState, ModelView
from finery_contracts.options import TaskOptions
from finery_contracts.tasks import ENDED, TaskView
from finery_contracts.weights import ProposedRepair, Repair, Repairs
from finery_kit.db import Transaction
from finery_studio.models import store, versions
from finery_studio.models.findings import findings_of, may_run, repairs_in
from finery_studio.models.requests import ImportRequest, RepairTask
from finery_studio.models.sources import Given, given
from finery_studio.tasks.store import TaskRow, view_of
from finery_studio.tasks.submit import NewTask, submit

if TYPE_CHECKING:
    from finery_studio.models.handlers import ModelDesk


def shown(desk: ModelDesk, session: Session, project: str, ref: str) -> Repairs:
    """What is proposed for a model, and what its files have already, each with its diff.

    Raises:
        NotFound: this project has no such model.
    """
    view = store.load(session, project, ref)
    copies = _copies_of(session, view)
    made, proposed = _made(session, view), _proposed(session, view)
    told = [
        ProposedRepair(
            **repair.model_dump(), applied=repair in made, allowed=may_run(repair, desk.allowed_code),
            versions=[f"{copy.name}@{copy.number}" for copy in copies if repair.id in _agreed_for(copy)],
        )
        for repair in [*made, *proposed]
    ]  # fmt: skip
    return Repairs(model=view.id, state=view.state, data=told)


def repair(desk: ModelDesk, tx: Transaction, ref: str, agreed: Sequence[str], actor: Actor, options: TaskOptions) -> (
    tuple[ModelView, TaskView]
):  # fmt: skip
    """A repaired copy, made by an import and then validated; it takes the name when it is ready.

    Raises:
        InvalidRequest: ``adapter_not_repairable``; ``repair_not_proposed``, with those that are.
        Conflict: ``model_not_ready``: it is still being imported or validated; ``source_unknown``.
        Forbidden: ``code_not_allowed``: a Python file that may run neither as it is nor repaired; as ``given``.
    """
    source = store.mine(tx, actor.project, ref)
    _refuse_unfit(tx, source)
    chosen = _agreed(tx.session, source, agreed)
    _refuse_code(desk, chosen)
    ids = [found.id for found in chosen]
    if source.weights is not None:
        came = Given({"source": source.weights}, source.origin)
    else:  # the import was refused: what was agreed to then is agreed to still, since nothing of it was kept
        ids = list(dict.fromkeys([*(found.id for found in _made(tx.session, source)), *ids]))
        came = _first_source(desk, tx, source, actor)
    holder = versions.ask_for_place(tx, actor.project, source.name, new_version=True)
    view = _copy(tx, source.model_copy(update={"origin": came.place}), actor, ids, current=holder is None)
    if came.checked is not None:
        desk.origins.keep(tx, store.row_of(tx.session, view.id), came.checked)
    request = {
        "model": view.id, "validate": True, "promote": holder is not None, "repair_of": source.id,
        "apply_repairs": ids, **came.request,
    }  # fmt: skip
    asked = RepairTask(
        kind="import", repair_of=source.id, apply_repairs=ids,
        **options.model_dump(exclude_unset=True, include=set(TaskOptions.model_fields)),
    )  # fmt: skip
    new = NewTask(
        TaskKind.IMPORT, f"repair-{source.name}"[:64], request, asked, result={"model": view.id},
        task_id=view.tasks[0], model_parameters=desk.size_of(source),
    )  # fmt: skip
    return view, submit(tx, new, actor, desk.specs)


def repair_task(desk: ModelDesk, tx: Transaction, asked: RepairTask, actor: Actor) -> TaskView:
    """``POST /api/v1/tasks`` with kind import and ``repair_of``."""
    return repair(desk, tx, asked.repair_of, asked.apply_repairs, actor, asked)[1]


# --- what may be repaired -------------------------------------------------------------------------------------------


def _refuse_unfit(tx: Transaction, source: ModelView) -> None:
    if source.base is not None:
        base = store.find(tx.session, source.project, source.base)
        raise InvalidRequest(
            f"{source.name} is an adapter on {base.name if base else source.base}; repair that, and tune on the "
            "repaired version",
            code="adapter_not_repairable", param="model",
        )  # fmt: skip
    if source.state in (ModelState.IMPORTING, ModelState.VALIDATING):
        raise Conflict(
            f"model {source.name} is {source.state}; wait until it has been looked at", code="model_not_ready"
        )


def _agreed(session: Session, source: ModelView, agreed: Sequence[str]) -> list[Repair]:
    there = {found.id: found for found in _proposed(session, source)}
    if source.weights is None:  # nothing was made of what was agreed to before
        there = {found.id: found for found in _made(session, source)} | there
    unknown = [name for name in dict.fromkeys(agreed) if name not in there]
    if unknown:
        raise InvalidRequest(
            f"for {store.address_of(source)} nobody proposes {', '.join(unknown)}; proposed are: "
            f"{', '.join(there) or 'none'}",
            code="repair_not_proposed", param="apply", details=[{"proposed": name} for name in there],
        )  # fmt: skip
    return [there[name] for name in dict.fromkeys(agreed)]


def _refuse_code(desk: ModelDesk, chosen: Sequence[Repair]) -> None:
    refused = [found for found in chosen if may_run(found, desk.allowed_code) is False]
    if refused:
        raise Forbidden(
            f"{', '.join(found.file for found in refused)} may not run here, repaired or not: an operator allows the "
            "sha256 of either with FINERY_ALLOWED_CODE",
            code="code_not_allowed", param="apply",
            details=[
                {"repair": found.id, "file": found.file, "sha256_before": found.sha256_before,
                 "sha256_after": found.sha256_after}
                for found in refused
            ],
        )  # fmt: skip


def _proposed(session: Session, view: ModelView) -> list[Repair]:
    return repairs_in(_newest_findings(session, view), "repair_available")


def _made(session: Session, view: ModelView) -> list[Repair]:
    """In its files; of a refused import, those with which it was judged."""
    return view.repairs if view.weights else repairs_in(view.findings, "repair_applied")


def _newest_findings(session: Session, view: ModelView) -> list[Finding]:
    """Of the newest validation that says anything: one of a ready model that fails leaves the model as it is."""
    query = select(TaskRow).where(
        TaskRow.project == view.project, TaskRow.kind == TaskKind.VALIDATE, col(TaskRow.state).in_(ENDED),
        col(TaskRow.view).contains(view.id),
    )  # fmt: skip
    for row in session.exec(query.order_by(col(TaskRow.id).desc()).limit(10)):
        task = view_of(row)
        if task.request.get("model") == view.id and (found := findings_of(task)):
            return found
    return view.findings


# --- the copy ---------------------------------------------------------------------------------------------------------


def _copy(tx: Transaction, source: ModelView, actor: Actor, ids: Sequence[str], *, current: bool) -> ModelView:
    model_id = new_id("mdl")
    number = store.next_number(tx.session, actor.project, source.name)
    view = source.model_copy(
        update={
            **versions.born(actor, tx, model_id, source.name, number), "state": ModelState.IMPORTING,
            "current": current, "weights": None, "tasks": [new_id("task")],
            "repairs": source.repairs if source.weights else [],
            "lineage": {**source.lineage, "repaired_from": source.id, "repairs": " ".join(ids)},
            "openai_name": source.openai_name and f"{source.openai_name.rpartition(':')[0]}:{model_id[-8:]}",
        }
    )  # fmt: skip
    return store.save(tx, view, ModelCreated)


def _first_source(desk: ModelDesk, tx: Transaction, view: ModelView, actor: Actor) -> Given:
    """Where a refused import would have taken its weights; asked anew, since this asker may not be the one of then."""
    row = tx.session.get(TaskRow, view.tasks[0]) if view.tasks else None
    if row is None or row.kind != TaskKind.IMPORT:
        raise Conflict(
            f"{store.address_of(view)} has no weights, and nobody knows any longer where they were to come from; "
            "import it again and say apply_repairs",
            code="source_unknown",
        )  # fmt: skip
    said = json.loads(row.asked)
    if "repair_of" in said:
        before = store.row_of(tx.session, view.lineage["repaired_from"])  # a model that was deleted keeps its row
        return _first_source(desk, tx, ModelView.model_validate_json(before.view), actor)
    new = ImportRequest.model_validate(said).new_model()
    entry = desk.gallery.get(new.gallery or "")
    return given(tx, new, entry, actor=actor, roots=desk.allowed_roots, origins=desk.origins)


def _agreed_for(copy: ModelView) -> list[str]:
    return copy.lineage.get("repairs", "").split()


def _copies_of(session: Session, view: ModelView) -> list[ModelView]:
    found = store.versions(session, view.project, view.name)
    return [copy for copy in found if copy.lineage.get("repaired_from") == view.id]
