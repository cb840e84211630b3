"""Tasks that make datasets of datasets, and that count one: from what a person asks to what is registered in the end.

A prepared dataset does not exist before its task has succeeded; a task that fails leaves none.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import Field

from finery_contracts.access import Actor
from finery_contracts.cleansing import Contamination, Step, faults_of
from finery_contracts.datasets import DataKind, DatasetLineage, DatasetReady, DatasetState, DatasetView
from finery_contracts.errors import InvalidRequest
from finery_contracts.ids import new_id
from finery_contracts.jobs import TaskKind
from finery_contracts.options import TaskOptions
from finery_contracts.preparing import CountSpec, PrepareOutput, PrepareSource, PrepareSpec, SourceUsed
from finery_contracts.tasks import TaskState, TaskView
from finery_kit.db import Transaction
from finery_kit.storage import Storage
from finery_studio.datasets import inputs, store
from finery_studio.datasets.withdrawal import flagged_at_birth
from finery_studio.models import store as model_store
from finery_studio.models.handlers import ModelDesk
from finery_studio.tasks import store as task_store
from finery_studio.tasks.submit import NewTask, submit

DatasetRef = Annotated[str, Field(min_length=1, max_length=255, description="id or name of a dataset")]
DatasetName = Annotated[str, Field(min_length=1, max_length=255)]


class PrepareRequest(TaskOptions):
    """``POST /api/v1/tasks`` with kind prepare: one dataset, or two with a split, of ready ones by a chain of steps."""

    kind: Literal["prepare"]
    datasets: list[DatasetRef] = Field(min_length=1, max_length=20, description="in the order of a mixture's weights")
    steps: list[Step] = Field(default_factory=list[Step], max_length=50, description="done one after the other")
    output: DatasetName | None = Field(default=None, description="name of the dataset that is made")
    validation_output: DatasetName | None = Field(default=None, description="name of what a split lays aside")
    purpose: Literal["fine-tune", "evals"] = "fine-tune"
    model: str | None = Field(default=None, description="whose tokenizer counts, where a length is in tokens")
    seed: int = Field(default=42, ge=0, le=2**31 - 1)
    examples: int = Field(default=20, ge=0, le=100, description="records shown of what each step did")
    on: Literal["worker", "ray"] = Field(
        default="worker",
        description="ray: large sets, on the cluster that the worker's RAY_ADDRESS names",
    )


class CountRequest(TaskOptions):
    """``POST /api/v1/tasks`` with kind count: the tokens of a dataset as training with this model would see them."""

    kind: Literal["count"]
    dataset: DatasetRef
    model: str = Field(description="model id or name, or a gallery id")
    max_length: int | None = Field(
        default=None, ge=16, le=10_000_000, description="tokens; longer records would be cut; default: the model's own"
    )


@dataclass
class PreparingDesk:
    """Makes prepare and count tasks."""

    models: ModelDesk

    def prepare(self, tx: Transaction, asked: PrepareRequest, actor: Actor) -> TaskView:
        """Submit a preparation; it waits for the ingest of sources that are not ready yet."""
        _refuse_what_cannot_be(asked)
        sources, needs = _all_for_use(tx, asked.datasets, actor, "datasets")
        steps, references, more = _with_references(tx, asked.steps, actor)
        needs += more
        request: dict[str, Any] = {
            "datasets": [view.id for view in sources], "references": [view.id for view in references],
            "steps": [step.model_dump(mode="json") for step in steps],
            "output": asked.output or f"{sources[0].name[:240]}-prepared", "purpose": asked.purpose,
            "seed": asked.seed, "examples": asked.examples, "on": asked.on,
        }  # fmt: skip
        if asked.validation_output is not None:
            request["validation_output"] = asked.validation_output
        if asked.model is not None:
            model, waits = self.models.for_use(tx, asked.model, actor)
            request["model"] = model.id
            needs += waits
        new = NewTask(
            TaskKind.PREPARE, f"prepare-{request['output']}", request, asked, needs=tuple(dict.fromkeys(needs))
        )
        return submit(tx, new, actor, self.models.specs)

    def prepare_spec(self, tx: Transaction, task: TaskView) -> PrepareSpec:
        """The engine's spec; what the sources are now stands in it, and later in the lineage."""
        request = task.request
        model = self._weights(tx, task, request["model"]) if request.get("model") else None
        return PrepareSpec(
            sources=[_source(tx, task, ref) for ref in request["datasets"]],
            references=[_source(tx, task, ref) for ref in request["references"]],
            steps=request["steps"], seed=request["seed"], examples=request["examples"], model=model,
            on=request.get("on", "worker"),
        )  # fmt: skip

    def count(self, tx: Transaction, asked: CountRequest, actor: Actor) -> TaskView:
        """Submit a count."""
        dataset, needs = inputs.for_use(tx, asked.dataset, actor, param="dataset")
        model, more = self.models.for_use(tx, asked.model, actor)
        request = {"dataset": dataset.id, "model": model.id, "model_name": model.name, "max_length": asked.max_length}
        new = NewTask(TaskKind.COUNT, f"count-{dataset.name}", request, asked, needs=(*needs, *more))
        return submit(tx, new, actor, self.models.specs)

    def count_spec(self, tx: Transaction, task: TaskView) -> CountSpec:
        """The engine's spec."""
        request = task.request
        dataset = inputs.ready(tx, task, request["dataset"], "dataset")
        assert dataset.content is not None
        model = model_store.load(tx.session, task.project, request["model"])
        longest = request["max_length"] or model.max_length
        return CountSpec(
            model=self._weights(tx, task, model.id), dataset=dataset.content, max_length=longest
        )  # fmt: skip

    def _weights(self, tx: Transaction, task: TaskView, model: str) -> str:
        return self.models.servable(model_store.load(tx.session, task.project, model)).weights


def on_prepare_ended(tx: Transaction, task: TaskView, *, storage: Storage) -> dict[str, str]:
    """One dataset is there, or two; none when the task did not succeed."""
    made = task.output
    if task.state is not TaskState.SUCCEEDED or not isinstance(made, PrepareOutput):
        return {}
    request = task.request
    train = _register(tx, task, made, name=request["output"], part="train", storage=storage)
    if made.validation_records is None:
        return {"dataset": train.id}
    name = request.get("validation_output") or f"{train.name[:240]}-validation"
    aside = _register(tx, task, made, name=name, part="validation", storage=storage)
    return {"dataset": train.id, "validation": aside.id}


def _register(
    tx: Transaction, task: TaskView, made: PrepareOutput, *, name: str, part: Literal["train", "validation"],
    storage: Storage,
) -> DatasetView:  # fmt: skip
    is_train = part == "train"
    file = "records.parquet" if is_train else "validation.parquet"
    digest = made.content_sha256 if is_train else made.validation_sha256 or ""
    content = store.kept_once(tx, storage, task.project, digest, own=f"{task.artefact}/out/{file}")
    asked = _spec_of(tx, task)
    view = DatasetView(
        id=new_id("ds"), project=task.project, name=name, filename=f"{name}.parquet", purpose=task.request["purpose"],
        size_bytes=made.size_bytes if is_train else made.validation_size_bytes, sha256=digest, version=1,
        state=DatasetState.READY, created_by=task.created_by, created_at=tx.now, task=task.id, format="prepared",
        records=made.records if is_train else made.validation_records or 0, content=content, content_sha256=digest,
        kind=DataKind(made.holds), statistics=f"{task.artefact}/out/{'stats' if is_train else 'validation_stats'}.json",
        warnings=made.warnings if is_train else [],
        lineage=DatasetLineage(
            task=task.id, part=part, sources=[_without_path(used) for used in asked.sources],
            references=[_without_path(used) for used in asked.references], steps=made.steps, seed=made.seed,
        ),
    )  # fmt: skip
    return flagged_at_birth(tx, store.save(tx, view, DatasetReady, blob=content))


def _spec_of(tx: Transaction, task: TaskView) -> PrepareSpec:
    """What it was made of, as studio told the engine; an engine's own word for it is not asked."""
    text = task_store.load(tx.session, task.project, task.id).spec
    assert text is not None
    return PrepareSpec.model_validate_json(text)


def _without_path(used: PrepareSource) -> SourceUsed:
    return SourceUsed.model_validate(used.model_dump(exclude={"path"}))


def _refuse_what_cannot_be(asked: PrepareRequest) -> None:
    """All faults of the chain at once, each with its place."""
    faults = faults_of(asked.steps, datasets=len(asked.datasets), has_model=asked.model is not None)
    if faults:
        details = [
            {"param": f"steps.{place}.{name}", "message": reason, "code": "steps_invalid"}
            for place, name, reason in faults
        ]
        raise InvalidRequest(
            f"the chain cannot be: {'; '.join(reason for _, _, reason in faults)}", code="steps_invalid",
            param=str(details[0]["param"]), details=details,
        )  # fmt: skip


def _all_for_use(tx: Transaction, refs: Sequence[str], actor: Actor, param: str) -> tuple[list[DatasetView], list[str]]:
    found = [inputs.for_use(tx, ref, actor, param=param) for ref in refs]
    views = [view for view, _ in found]
    if len({view.id for view in views}) < len(views):
        raise InvalidRequest("a dataset is named twice; name each once", code="dataset_twice", param=param)
    return views, [task for _, needs in found for task in needs]


def _with_references(
    tx: Transaction, steps: list[Step], actor: Actor
) -> tuple[list[Step], list[DatasetView], list[str]]:
    """The steps with evaluation sets by their ids: a name could come to mean another one until the task runs."""
    resolved, references, needs = list[Step](), dict[str, DatasetView](), list[str]()
    for step in steps:
        if isinstance(step, Contamination):
            views, more = _all_for_use(tx, step.against, actor, "steps.against")
            references |= {view.id: view for view in views}
            needs += more
            step = step.model_copy(update={"against": [view.id for view in views]})
        resolved.append(step)
    return resolved, list(references.values()), needs


def _source(tx: Transaction, task: TaskView, dataset_id: str) -> PrepareSource:
    view = inputs.ready(tx, task, dataset_id, "dataset")
    assert view.content is not None
    return PrepareSource(**inputs.used(view).model_dump(), path=view.content)
