"""What becomes of uploaded bytes: an ingest task, then a dataset that is ready or rejected."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from pydantic import Field

from finery_contracts.access import Actor
from finery_contracts.datasets import (
    DataFormat,
    DatasetLineage,
    DatasetReady,
    DatasetRejected,
    DatasetState,
    DatasetUploaded,
    DatasetView,
)
from finery_contracts.errors import InvalidRequest
from finery_contracts.ids import new_id
from finery_contracts.jobs import IngestOutput, IngestSpec, TaskKind
from finery_contracts.options import TaskOptions
from finery_contracts.tasks import TaskState, TaskView
from finery_kit.db import Transaction
from finery_kit.storage import Blob, Storage
from finery_studio.datasets import store
from finery_studio.datasets.withdrawal import refuse_withdrawn
from finery_studio.removal.store import let_go
from finery_studio.tasks import store as task_store
from finery_studio.tasks.submit import NewTask, SpecMaker, submit

INGESTED_PURPOSES = ("fine-tune", "evals")
MAX_NAME = 255


@dataclass(frozen=True)
class Upload:
    """What came with the bytes."""

    blob: Blob
    filename: str
    name: str
    purpose: str
    format: str = "auto"
    bad_records: str = "strict"
    bad_ceiling: float = 0.01
    options: TaskOptions = field(default_factory=TaskOptions)
    lineage: DatasetLineage | None = None


class IngestRequest(TaskOptions):
    """``POST /api/v1/tasks`` with kind ingest: read an uploaded file again, which makes a dataset of its own."""

    kind: Literal["ingest"]
    dataset: str = Field(description="id or name of the dataset whose bytes are read")
    format: DataFormat = "auto"
    bad_records: Literal["strict", "skip"] = "strict"
    bad_ceiling: float = Field(default=0.01, ge=0, le=1)


def ingest_again(tx: Transaction, asked: IngestRequest, actor: Actor, specs: Mapping[TaskKind, SpecMaker]) -> TaskView:
    """The same bytes under other settings."""
    source = store.load(tx.session, actor.project, asked.dataset)
    refuse_withdrawn(source)
    upload = Upload(
        blob=Blob(store.blob_of(tx.session, source.id), source.sha256, source.size_bytes), filename=source.filename,
        name=source.name, purpose="evals" if source.purpose == "evals" else "fine-tune", format=asked.format,
        bad_records=asked.bad_records, bad_ceiling=asked.bad_ceiling, options=_options_of(asked),
    )  # fmt: skip
    made = register(tx, upload, actor, specs)
    assert made.task is not None
    return task_store.view_of(task_store.load(tx.session, actor.project, made.task))


def register(tx: Transaction, upload: Upload, actor: Actor, specs: Mapping[TaskKind, SpecMaker]) -> DatasetView:
    """A dataset and its ingest task, in one transaction."""
    if len(upload.name) > MAX_NAME:
        raise InvalidRequest(
            f"the name has {len(upload.name):,} characters, {MAX_NAME} are the limit", code="name_invalid", param="name"
        )
    dataset_id, task_id = new_id("ds"), new_id("task")
    ingested = upload.purpose in INGESTED_PURPOSES
    view = DatasetView(
        id=dataset_id, project=actor.project, name=upload.name, filename=upload.filename, purpose=upload.purpose,
        size_bytes=upload.blob.size_bytes, sha256=upload.blob.sha256, version=1, created_by=actor.user,
        state=DatasetState.UPLOADED if ingested else DatasetState.READY, created_at=tx.now,
        task=task_id if ingested else None, lineage=upload.lineage,
    )  # fmt: skip
    store.save(tx, view, DatasetUploaded, blob=upload.blob.url)
    if ingested:
        request = {
            "dataset": dataset_id, "filename": upload.filename, "format": upload.format,
            "bad_records": upload.bad_records, "bad_ceiling": upload.bad_ceiling,
        }  # fmt: skip
        asked = IngestRequest(
            kind="ingest", **{name: request[name] for name in ("dataset", "format", "bad_records", "bad_ceiling")},
            **upload.options.model_dump(exclude_unset=True),
        )  # fmt: skip
        result = {"dataset": dataset_id}
        submit(
            tx, NewTask(TaskKind.INGEST, f"ingest-{upload.name}", request, asked, result=result, task_id=task_id),
            actor, specs,
        )  # fmt: skip
    return view


def _options_of(asked: IngestRequest) -> TaskOptions:
    return TaskOptions(**asked.model_dump(exclude_unset=True, include=set(TaskOptions.model_fields)))


def ingest_spec(tx: Transaction, task: TaskView) -> IngestSpec:
    """The engine's spec."""
    request = {key: value for key, value in task.request.items() if key != "dataset"}
    return IngestSpec.model_validate({**request, "source": store.blob_of(tx.session, task.request["dataset"])})


def on_ingest_ended(tx: Transaction, task: TaskView, *, storage: Storage) -> dict[str, str]:
    """The dataset is ready, or rejected with the report; content that is there already is not kept twice."""
    row = tx.session.get(store.DatasetRow, task.request["dataset"], with_for_update=True, populate_existing=True)
    if row is None or row.state != DatasetState.UPLOADED:
        let_go(tx, task.project, [f"{task.artefact}/out" if task.artefact else None])
        return {}
    view = DatasetView.model_validate_json(row.view)
    report = f"{task.artefact}/out/report.jsonl" if task.artefact else None
    if task.state is TaskState.SUCCEEDED and isinstance(task.output, IngestOutput):
        found = task.output
        own = f"{task.artefact}/out/records.parquet"
        content = next(filter(storage.find, store.content_with(tx, view.project, found.content_sha256)), own)
        if content != own:
            tx.after_commit.append(lambda: storage.delete(own))
        ready = store.changed(
            view, state=DatasetState.READY, format=found.format, kind=found.data_kind, records=found.records,
            bad_records=found.bad_records, content=content,
            content_sha256=found.content_sha256, report=report, warnings=found.warnings,
            statistics=f"{task.artefact}/out/stats.json",
        )  # fmt: skip
        store.save(tx, ready, DatasetReady)
        return {}
    store.save(tx, store.changed(view, state=DatasetState.REJECTED, error=task.error, report=report), DatasetRejected)
    return {}
