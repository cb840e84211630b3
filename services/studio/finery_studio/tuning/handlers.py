"""Tune and evaluate tasks: from what a person asks to what the engine is told."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from pydantic import Field

from finery_contracts.access import Actor
from finery_contracts.datasets import DatasetState, DatasetView
from finery_contracts.errors import Conflict, InvalidRequest
from finery_contracts.jobs import EvaluateSpec, TaskKind, TuneSpec
from finery_contracts.options import TaskOptions
from finery_contracts.tasks import TaskView
from finery_contracts.tuning import TuneOptions
from finery_kit.db import Transaction
from finery_studio.datasets import store as dataset_store
from finery_studio.models import store as model_store
from finery_studio.models.handlers import ModelDesk
from finery_studio.models.requests import ValidateRequest
from finery_studio.models.support import Action
from finery_studio.projects.domain import check_name
from finery_studio.tasks.submit import NewTask, submit
from finery_studio.tuning import recipe


class TuneRequest(TaskOptions):
    """``POST /api/v1/tasks`` with kind tune."""

    kind: Literal["tune"]
    model: str = Field(description="model id or name, or a gallery id")
    dataset: str
    validation: str | None = None
    suffix: str | None = Field(default=None, max_length=64, pattern=r"^[A-Za-z0-9_.-]*$")
    output: str | None = Field(default=None, description="name of the model; named ones are published at once")
    publish: bool = Field(default=False, description="publish the model at once also without a name of its own")
    options: TuneOptions = TuneOptions()


class EvaluateRequest(TaskOptions):
    """``POST /api/v1/tasks`` with kind evaluate."""

    kind: Literal["evaluate"]
    model: str
    dataset: str
    metric: Literal["exact_match", "accuracy"] = "accuracy"
    max_tokens: int = Field(default=16, ge=1, le=4096)
    batch_size: int = Field(default=16, ge=1, le=256)


@dataclass
class TuningDesk:
    """Makes tune, evaluate and validate tasks."""

    models: ModelDesk

    def tune(self, tx: Transaction, asked: TuneRequest, actor: Actor, *, tolerant: bool = False) -> TaskView:
        """Submit a tuning. ``tolerant``: a rejected dataset fails the task instead of the call, as OpenAI does."""
        train, needs = self._dataset(tx, asked.dataset, actor, "dataset", tolerant=tolerant)
        needs = list(needs)
        request: dict[str, Any] = {"dataset": train.id}
        if asked.validation:
            validation, more = self._dataset(tx, asked.validation, actor, "validation", tolerant=tolerant)
            request["validation"] = validation.id
            needs += more
        model, more = self.models.for_use(tx, asked.model, actor, to=Action("tune", asked.options.method))
        needs += more
        if asked.output is not None:
            check_name(asked.output, model=True)
            if model_store.find(tx.session, actor.project, asked.output) is not None:
                raise Conflict(f"there is a model named {asked.output} already", code="name_taken", param="output")
        request |= {
            "model": model.id, "model_name": model.name, "suffix": asked.suffix, "output": asked.output,
            "publish": asked.output is not None or asked.publish, "project_name": actor.project_name,
            "options": asked.options.model_dump(exclude_unset=True),
        }  # fmt: skip
        new = NewTask(
            TaskKind.TUNE, f"tune-{model.name}", request, asked, needs=tuple(dict.fromkeys(needs)),
            method=asked.options.method, model_parameters=self.models.size_of(model),
        )  # fmt: skip
        return submit(tx, new, actor, self.models.specs)

    def tune_spec(self, tx: Transaction, task: TaskView) -> TuneSpec:
        """Everything is there: decide every parameter."""
        request = task.request
        train = self._ready(tx, task, request["dataset"], "training_file")
        model = model_store.load(tx.session, task.project, request["model"])
        servable = self.models.servable(model)
        options = TuneOptions.model_validate(request["options"])
        self.models.check(model, Action("tune", options.method))  # validation may have found what submit did not know
        entry = self.models.gallery.get(model.gallery or "")
        facts = recipe.Facts(
            samples=train.records, model_parameters=model.parameters, model_max_length=model.max_length,
            gallery_rate=entry.learning_rate.get(options.method) if entry else None,
        )  # fmt: skip
        parameters, reasons = recipe.decide(options, facts)
        task.request["parameters"] = parameters.model_dump()
        task.request["reasons"] = reasons
        validation = None
        if request.get("validation"):
            validation = self._ready(tx, task, request["validation"], "validation_file").content
        assert train.content is not None
        return TuneSpec(model=servable.weights, train=train.content, validation=validation, parameters=parameters)

    def evaluate(self, tx: Transaction, asked: EvaluateRequest, actor: Actor) -> TaskView:
        """Submit an evaluation."""
        dataset, needs = self._dataset(tx, asked.dataset, actor, "dataset", tolerant=False)
        model, more = self.models.for_use(tx, asked.model, actor)
        request = {
            "dataset": dataset.id, "model": model.id, "model_name": model.name, "metric": asked.metric,
            "max_tokens": asked.max_tokens, "batch_size": asked.batch_size,
        }  # fmt: skip
        new = NewTask(
            TaskKind.EVALUATE, f"evaluate-{model.name}", request, asked, needs=(*needs, *more),
            model_parameters=self.models.size_of(model),
        )  # fmt: skip
        return submit(tx, new, actor, self.models.specs)

    def evaluate_spec(self, tx: Transaction, task: TaskView) -> EvaluateSpec:
        """The engine's spec."""
        model = self.models.servable(model_store.load(tx.session, task.project, task.request["model"]))
        dataset = self._ready(tx, task, task.request["dataset"], "dataset")
        assert dataset.content is not None
        return EvaluateSpec(
            model=model.weights, adapter=model.adapter, dataset=dataset.content, metric=task.request["metric"],
            max_tokens=task.request["max_tokens"], batch_size=task.request["batch_size"],
        )  # fmt: skip

    def validate(self, tx: Transaction, asked: ValidateRequest, actor: Actor) -> TaskView:
        """Submit another validation of a model."""
        model, needs = self.models.for_use(tx, asked.model, actor)
        if model.base is not None:
            raise InvalidRequest(f"{model.name} is an adapter; validate its base", code="not_supported", param="model")
        result = {"model": model.id}
        new = NewTask(
            TaskKind.VALIDATE, f"validate-{model.name}", dict(result), asked, needs=needs, result=result,
            model_parameters=self.models.size_of(model),
        )  # fmt: skip
        return submit(tx, new, actor, self.models.specs)

    def _dataset(
        self, tx: Transaction, ref: str, actor: Actor, param: str, *, tolerant: bool
    ) -> tuple[DatasetView, tuple[str, ...]]:
        view = dataset_store.load(tx.session, actor.project, ref)
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

    def _ready(self, tx: Transaction, task: TaskView, dataset_id: str, param: str) -> DatasetView:
        view = dataset_store.load(tx.session, task.project, dataset_id)
        if view.state is not DatasetState.READY:
            reason = view.error.message if view.error else f"it is {view.state}"
            raise InvalidRequest(
                reason, code=f"invalid_{param}", param=param, details=view.error.details if view.error else None
            )
        return view
