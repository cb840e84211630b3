"""How models come and go: import, validation, what tuning leaves, publication, deletion."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

from finery_contracts.access import Actor, Role
from finery_contracts.deployments import ServableModel
from finery_contracts.errors import Conflict, InvalidRequest
from finery_contracts.gallery import GalleryEntry
from finery_contracts.ids import new_id
from finery_contracts.jobs import (
    ImportOutput,
    ImportSpec,
    MergeOutput,
    TaskKind,
    TuneOutput,
    ValidateOutput,
    ValidateSpec,
)
from finery_contracts.models import (
    ModelCreated,
    ModelExpiresSoon,
    ModelInvalid,
    ModelPublished,
    ModelReady,
    ModelState,
    ModelView,
)
from finery_contracts.retention import Retention
from finery_contracts.tasks import TaskState, TaskView
from finery_kit.db import Transaction
from finery_studio.connections.origins import OriginDesk
from finery_studio.datasets.withdrawal import flagged_at_birth
from finery_studio.models import domain, removal, store, support, versions
from finery_studio.models.findings import allowed_for, faults_of
from finery_studio.models.gallery import entry_named, expected_of
from finery_studio.models.requests import ImportRequest, NewModel, ValidateRequest, asked_for
from finery_studio.models.sources import given, import_spec_of
from finery_studio.projects.domain import check_name
from finery_studio.removal.store import let_go
from finery_studio.tasks import store as task_store
from finery_studio.tasks.submit import NewTask, SpecMaker, submit


@dataclass
class ModelDesk:
    """Everything about models that needs the database."""

    gallery: Mapping[str, GalleryEntry]
    allowed_roots: tuple[Path, ...]
    retention: Retention
    specs: Mapping[TaskKind, SpecMaker]
    origins: OriginDesk
    allowed_code: tuple[str, ...] = ()
    """SHA-256 of Python files of model folders that may run, in the limited child."""

    # --- import and validation ----------------------------------------------------------------------------------

    def create(self, tx: Transaction, new: NewModel, actor: Actor) -> ModelView:
        """Name a model and start its import; validation follows by itself unless switched off."""
        check_name(new.name, model=True)
        if store.find(tx.session, actor.project, new.name) is not None:
            raise Conflict(f"there is a model named {new.name} already", code="name_taken", param="name")
        entry = entry_named(self.gallery, new.gallery) if new.gallery else None
        source = given(tx, new, entry, actor=actor, roots=self.allowed_roots, origins=self.origins)
        task_id = new_id("task")
        view = ModelView(
            id=new_id("mdl"), project=actor.project, name=new.name, description=new.description,
            number=store.next_number(tx.session, actor.project, new.name), state=ModelState.IMPORTING, version=1,
            created_by=actor.user, created_at=tx.now,
            family=entry.family if entry else None, gallery=new.gallery, origin=source.place, tasks=[task_id],
            max_length=entry.max_length if entry else 4096, quantisation=support.quantised_as(entry),
        )  # fmt: skip
        store.save(tx, view, ModelCreated)
        if source.checked is not None:
            self.origins.keep(tx, store.row_of(tx.session, view.id), source.checked)
        request = {
            "model": view.id, "validate": new.validate, "apply_repairs": list(new.apply_repairs), **source.request,
        }  # fmt: skip
        submit(
            tx,
            NewTask(TaskKind.IMPORT, f"import-{new.name}", request, asked_for(new), task_id=task_id,
                    result={"model": view.id}),
            actor, self.specs,
        )  # fmt: skip
        return view

    def imports(self, tx: Transaction, asked: ImportRequest, actor: Actor) -> TaskView:
        """``POST /api/v1/tasks`` with kind import."""
        view = self.create(tx, asked.new_model(), actor)
        return task_store.view_of(task_store.load(tx.session, actor.project, view.tasks[0]))

    def check(self, view: ModelView, action: support.Action) -> None:
        """Let it pass if the support matrix does.

        Raises:
            InvalidRequest: ``not_supported``, with the rule.
        """
        support.check(support.facts_of(view, self.gallery.get(view.gallery or "")), action)

    def check_named(self, tx: Transaction, ref: str, actor: Actor, action: support.Action) -> None:
        """The same for a name: a model of the project, else what the gallery would make; NotFound: there is neither."""
        if store.find(tx.session, actor.project, ref) is None and ref in self.gallery:
            support.check(support.facts_of_entry(self.gallery[ref]), action)
        else:
            self.check(store.load(tx.session, actor.project, ref), action)

    def size_of(self, view: ModelView) -> int | None:
        """Parameters of the model, or of its gallery entry while it is not there yet; None: nobody knows yet.

        Four quantised ones take the room of one; in files that are there they are counted as they are packed.
        """
        entry = self.gallery.get(view.gallery or "")
        packed = 1 if view.quantisation is None else 4
        return view.parameters or (entry.parameters // packed if entry else None)

    def for_use(
        self, tx: Transaction, ref: str, actor: Actor, *, to: support.Action | None = None
    ) -> tuple[ModelView, tuple[str, ...]]:
        """A model that someone names as input, and the tasks to wait for; refused where it does not support that.

        A gallery id with recommended weights is made into a model of the project on the way.
        """
        if to is not None:  # before it says to bring weights that would be of no use
            self.check_named(tx, ref, actor, to)
        new = store.find(tx.session, actor.project, ref) is None and ref in self.gallery
        made = self.create(tx, NewModel(name=ref, gallery=ref), actor) if new else None
        found = made or store.load(tx.session, actor.project, ref)
        if found.state is ModelState.INVALID:
            raise InvalidRequest(
                f"model {found.name} is not valid: {found.error.message if found.error else 'see its findings'}",
                code="model_invalid", param="model",
            )  # fmt: skip
        needs = (found.tasks[-1],) if found.state in (ModelState.IMPORTING, ModelState.VALIDATING) else ()
        return found, needs

    def import_spec(self, tx: Transaction, task: TaskView) -> ImportSpec:
        """The engine's spec."""
        row = store.row_of(tx.session, task.request["model"])
        view = ModelView.model_validate_json(row.view)
        spec = import_spec_of(task, row.origin, allowed_for(view, self.allowed_code))
        return spec.model_copy(update=expected_of(self.gallery.get(view.gallery or "")))

    def on_import_ended(self, tx: Transaction, task: TaskView) -> dict[str, str]:
        """The weights are there, or not; imported or merged."""
        view = store.held(tx, task.request["model"])
        if view is None:
            let_go(tx, task.project, [f"{task.artefact}/out" if task.artefact else None])
            return {}
        if task.state is not TaskState.SUCCEEDED or not isinstance(task.output, ImportOutput | MergeOutput):
            self._invalid(tx, view, task)
            return {}
        came = task.output
        longest = min(view.max_length, came.max_length) if view.gallery else came.max_length
        made = came.repairs if isinstance(came, ImportOutput) else []
        arrived = {
            "weights": f"{task.artefact}/out/model", "parameters": came.parameters, "size_bytes": came.size_bytes,
            "max_length": longest, "repairs": [*view.repairs, *made],
        }  # fmt: skip
        view = view.model_copy(update=arrived)
        if not task.request["validate"]:
            ready = store.save(tx, store.changed(view, state=ModelState.READY), ModelReady)
            if task.request.get("promote"):
                versions.promote(tx, ready)
            return {}
        validation = self._submit_validation(tx, view, task)
        return {"validation": validation}

    def validate_spec(self, tx: Transaction, task: TaskView) -> ValidateSpec:
        """The engine's spec."""
        view = store.load(tx.session, task.project, task.request["model"])
        entry = self.gallery.get(view.gallery or "")
        if view.weights is None:
            raise InvalidRequest(f"model {view.name} has no weights to validate", code="weights_missing")
        return ValidateSpec(model=view.weights, allowed_code=allowed_for(view, self.allowed_code), **expected_of(entry))

    def on_validate_ended(self, tx: Transaction, task: TaskView) -> dict[str, str]:
        """The model is ready or invalid, with all findings."""
        view = store.held(tx, task.request["model"])
        if view is None:
            return {}
        if task.state is TaskState.SUCCEEDED and isinstance(task.output, ValidateOutput):
            form = support.found_by_validation(task.output.facts, said=view.quantisation)
            ready = store.changed(view, state=ModelState.READY, findings=task.output.findings, quantisation=form)
            ready = store.save(tx, ready, ModelReady)
            if task.request.get("promote"):
                versions.promote(tx, ready)
        elif view.state is ModelState.VALIDATING:
            self._invalid(tx, view, task)
        return {}

    # --- what tuning leaves -------------------------------------------------------------------------------------

    def on_tune_ended(self, tx: Transaction, task: TaskView) -> dict[str, str]:
        """A tuned model: published when it was named or came through OpenAI's surface, else temporary (SPEC MO8)."""
        if task.state is not TaskState.SUCCEEDED or not isinstance(task.output, TuneOutput):
            return {}
        request: dict[str, Any] = task.request
        base = store.load(tx.session, task.project, request["model"])
        model_id = new_id("mdl")
        short, suffix = model_id[-8:], request.get("suffix") or ""
        publish, wanted = bool(request.get("publish")), request.get("output")
        if wanted and store.find(tx.session, task.project, wanted) is not None:  # taken since the submit
            wanted = f"{wanted[:55]}-{short}"
        name = wanted or f"{suffix or 'tuned'}-{short}"
        number = store.next_number(tx.session, task.project, name)
        view = ModelView(
            id=model_id, project=task.project, name=name, number=number, state=ModelState.READY,
            version=1, created_by=task.created_by, created_at=tx.now, family=base.family,
            gallery=base.gallery, base=base.id, weights=base.weights, adapter=f"{task.artefact}/out/adapter",
            openai_name=f"ft:{base.gallery or base.name}:{request['project_name']}:{suffix}:{short}",
            parameters=base.parameters, max_length=base.max_length, tasks=[task.id], published=publish,
            expires_at=None if publish else tx.now + timedelta(days=self.retention.temporary_model_days),
            lineage={k: request[k] for k in ("dataset", "validation") if request.get(k)} | {"task": task.id},
        )  # fmt: skip
        view = store.save(tx, view, ModelPublished if publish else ModelReady)
        flagged_at_birth(tx, view)
        return {"model": view.id, "model_name": view.openai_name or view.name}

    def publish(self, tx: Transaction, project: str, ref: str, name: str | None) -> ModelView:
        """Keep a temporary model for good."""
        return versions.publish(tx, project, ref, name)

    # --- use and removal ----------------------------------------------------------------------------------------

    def deployable(self, view: ModelView) -> ServableModel:
        """What the deployer must know, if the model may be deployed at all.

        Raises:
            InvalidRequest: ``not_supported``, with the rule.
            Conflict: the model is not ready.
        """
        self.check(view, support.Action("deploy"))
        return self.servable(view)

    def servable(self, view: ModelView) -> ServableModel:
        """What the deployer must know.

        Raises:
            Conflict: the model is not ready.
        """
        if view.state is not ModelState.READY or view.weights is None:
            raise Conflict(f"model {view.name} is {view.state}; it cannot be deployed yet", code="model_not_ready")
        return ServableModel(
            id=view.id, project=view.project, name=view.name, openai_name=view.openai_name, weights=view.weights,
            adapter=view.adapter, max_length=view.max_length,
        )  # fmt: skip

    def delete(
        self, tx: Transaction, project: str, ref: str, served_by: list[str], *, restorable: bool = False
    ) -> ModelView:
        """It can no longer be named (SPEC MO7); refused while something refers to it, with the names."""
        hours = self.retention.restore_hours if restorable else 0
        return removal.delete(tx, project, ref, served_by, restorable_hours=hours)

    def expire(self, tx: Transaction, served: Collection[str] = ()) -> None:
        """Temporary models go when their time is over, unless a task or deployment uses them; notices come before."""
        days = self.retention.temporary_model_notice_days
        for view in store.expiring(tx, within=timedelta(days=max(days, default=0))):
            if domain.is_over(view, tx.now):
                if view.id not in served and not task_store.users_of(tx.session, view.project, view.id):
                    removal.let_model_go(tx, view)
                continue
            given = domain.notices_due(view, days, tx.now)
            if given:
                store.save(tx, store.changed(view, notices=[*view.notices, *given]), ModelExpiresSoon)

    # --- below --------------------------------------------------------------------------------------------------

    def _invalid(self, tx: Transaction, view: ModelView, task: TaskView) -> None:
        told = store.changed(view, state=ModelState.INVALID, error=task.error, findings=faults_of(task))
        store.save(tx, told, ModelInvalid)

    def _submit_validation(self, tx: Transaction, view: ModelView, cause: TaskView) -> str:
        task_id = new_id("task")
        store.save(tx, store.changed(view, state=ModelState.VALIDATING, tasks=[*view.tasks, task_id]), ModelCreated)
        actor = Actor(project=view.project, project_name="", user=cause.created_by, key="", role=Role.COMMON)
        options = ValidateRequest(
            kind="validate", model=view.id, pool=cause.pool, flavour=cause.flavour, priority=cause.priority,
            notify=cause.notify,
        )  # fmt: skip
        promote = {"promote": True} if cause.request.get("promote") else {}
        new = NewTask(
            TaskKind.VALIDATE, f"validate-{view.name}", {"model": view.id, **promote}, options, task_id=task_id,
            result={"model": view.id}, follows=True,
        )  # fmt: skip
        submit(tx, new, actor, self.specs)
        for row in task_store.dependents(tx.session, cause.id):
            tx.session.add(task_store.NeedRow(task=row.id, needs=task_id))
        tx.session.flush()
        return task_id
