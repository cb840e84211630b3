"""What becomes of bytes that were uploaded or are fetched: an ingest task, then a dataset, ready or rejected."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from pydantic import Field, model_validator

from finery_contracts.access import Actor
from finery_contracts.datasets import (
    DataFormat,
    DatasetLineage,
    DatasetReady,
    DatasetRegistered,
    DatasetRejected,
    DatasetState,
    DatasetUploaded,
    DatasetView,
)
from finery_contracts.envelope import Event
from finery_contracts.errors import Conflict, FineryError, InvalidRequest
from finery_contracts.ids import new_id
from finery_contracts.jobs import IngestOutput, IngestSpec, TaskKind
from finery_contracts.options import TaskOptions
from finery_contracts.sources import Source, UploadSource, name_of, place_of
from finery_contracts.tasks import TaskState, TaskView
from finery_kit.db import Transaction
from finery_kit.sealing import SealBroken
from finery_kit.storage import Blob, Storage
from finery_studio.connections.origins import Checked, OriginDesk
from finery_studio.datasets import inputs, store
from finery_studio.datasets.withdrawal import flagged_at_birth, refuse_withdrawn
from finery_studio.removal.store import let_go
from finery_studio.tasks import store as task_store
from finery_studio.tasks.submit import NewTask, SpecMaker, submit
from finery_studio.uploads import store as upload_store

log = logging.getLogger("finery.studio")
INGESTED_PURPOSES = ("fine-tune", "evals")
MAX_NAME = 255


@dataclass(frozen=True)
class Upload:
    """What came with the bytes. ``blob`` None: they have to be fetched."""

    blob: Blob | None
    filename: str
    name: str
    purpose: str
    format: str = "auto"
    bad_records: str = "strict"
    bad_ceiling: float = 0.01
    options: TaskOptions = field(default_factory=TaskOptions)
    lineage: DatasetLineage | None = None


class IngestRequest(TaskOptions):
    """``POST /api/v1/tasks`` with kind ingest: read a source, or the bytes of a dataset again, as a dataset of its own.

    ``source`` may be a URL: ``s3://bucket/key``, ``file:///folder``, ``https://…``.
    """

    kind: Literal["ingest"] = "ingest"
    dataset: str | None = Field(default=None, description="id or name of the dataset whose bytes are read")
    source: Source | None = Field(default=None, description="where the data comes from, instead of dataset")
    output: str | None = Field(
        default=None, min_length=1, max_length=MAX_NAME, description="name of the dataset that is made"
    )
    filename: str | None = Field(default=None, min_length=1, max_length=255)
    purpose: Literal["fine-tune", "evals"] | None = None
    format: DataFormat | None = None
    bad_records: Literal["strict", "skip"] | None = None
    bad_ceiling: float | None = Field(default=None, ge=0, le=1)

    @model_validator(mode="after")
    def _one(self) -> IngestRequest:
        if (self.dataset is None) == (self.source is None):
            raise ValueError("give source (where the data comes from) or dataset (one whose bytes are read again)")
        return self

    def upload(self, blob: Blob | None, said: Mapping[str, str]) -> Upload:
        """What is known of the bytes: what was asked for, then what was ``said`` of them before."""
        options = TaskOptions(**self.model_dump(exclude_unset=True, include=set(TaskOptions.model_fields)))
        filename = (self.filename or said.get("filename") or "data").replace("\\", "/").rpartition("/")[2][:255]
        return Upload(
            blob=blob, filename=filename or "data", name=self.output or said.get("name") or filename or "data",
            purpose=self.purpose or said.get("purpose", "fine-tune"), format=self.format or said.get("format", "auto"),
            bad_records=self.bad_records or said.get("bad_records", "strict"),
            bad_ceiling=self.bad_ceiling if self.bad_ceiling is not None else float(said.get("bad_ceiling", 0.01)),
            options=options,
        )  # fmt: skip


@dataclass(frozen=True)
class DatasetDesk:
    """Making datasets of whatever their bytes are: uploaded, stored already, or to be fetched."""

    specs: Mapping[TaskKind, SpecMaker]
    origins: OriginDesk

    def ingest(self, tx: Transaction, asked: IngestRequest, actor: Actor) -> TaskView:
        """The task of ``POST /api/v1/tasks``."""
        made = self.make(tx, asked, actor)
        assert made.task is not None
        return task_store.view_of(task_store.load(tx.session, actor.project, made.task))

    def make(self, tx: Transaction, asked: IngestRequest, actor: Actor) -> DatasetView:
        """A dataset of the named bytes.

        Raises:
            FineryError: there are none, or they may not be read.
        """
        if asked.dataset is not None:
            return self._again(tx, asked, actor)
        if isinstance(asked.source, UploadSource):
            row = upload_store.finished(tx, actor.project, asked.source.upload)
            blob, said = upload_store.blob_of(row), upload_store.metadata_of(row)
            made = register(tx, asked.upload(blob, said), actor, self.specs)
            upload_store.used(tx, row, made.id)
            return made
        return self._fetch(tx, asked, asked.source, actor)

    def of_upload(self, tx: Transaction, row: upload_store.UploadRow) -> None:
        """An upload that asked for it when it began becomes a dataset; when it cannot, it stays an upload."""
        if upload_store.metadata_of(row).get("ingest") != "true" or row.dataset is not None:
            return
        asked = IngestRequest(source=UploadSource(upload=row.id))
        try:
            with tx.session.begin_nested():
                self.make(tx, asked, Actor.model_validate_json(row.actor))
        except (FineryError, ValueError) as fault:  # whatever was said of it: its bytes are settled
            log.warning("upload_not_ingested", extra={"upload": row.id, "error": type(fault).__name__})

    def _again(self, tx: Transaction, asked: IngestRequest, actor: Actor) -> DatasetView:
        """The same bytes under other settings; what was fetched is fetched anew."""
        source = store.load(tx.session, actor.project, asked.dataset or "")
        refuse_withdrawn(source)
        said = {"filename": source.filename, "name": source.name}
        said |= {"purpose": source.purpose} if source.purpose in INGESTED_PURPOSES else {}
        row = store.row_of(tx.session, source.id)
        lineage = DatasetLineage(sources=[inputs.used(source)])
        if row.origin is None:
            given = asked.upload(Blob(row.blob, source.sha256, source.size_bytes), said)
            return register(tx, replace(given, lineage=lineage), actor, self.specs)
        try:
            origin = self.origins.source_of(row)
        except SealBroken as fault:
            raise Conflict(
                f"where {source.name} came from was sealed under another secret; name its source again",
                code="origin_sealed", param="dataset",
            ) from fault  # fmt: skip
        return self._fetch(tx, asked, origin, actor, said=said, lineage=lineage)

    def _fetch(
        self, tx: Transaction, asked: IngestRequest, source: Any, actor: Actor, *, said: dict[str, str] | None = None,
        lineage: DatasetLineage | None = None,
    ) -> DatasetView:  # fmt: skip
        checked = self.origins.check(tx, source, actor)
        name = name_of(source)
        given = replace(asked.upload(None, said or {"filename": name, "name": name}), lineage=lineage)
        return register(tx, given, actor, self.specs, fetched=(self.origins, checked))


def register(
    tx: Transaction, upload: Upload, actor: Actor, specs: Mapping[TaskKind, SpecMaker], *,
    fetched: tuple[OriginDesk, Checked] | None = None,
) -> DatasetView:  # fmt: skip
    """A dataset and its ingest task, in one transaction."""
    if len(upload.name) > MAX_NAME:
        raise InvalidRequest(
            f"the name has {len(upload.name):,} characters, {MAX_NAME} are the limit", code="name_invalid", param="name"
        )
    dataset_id, task_id = new_id("ds"), new_id("task")
    ingested = upload.purpose in INGESTED_PURPOSES
    view = DatasetView(
        id=dataset_id, project=actor.project, name=upload.name, filename=upload.filename, purpose=upload.purpose,
        size_bytes=upload.blob.size_bytes if upload.blob else 0, sha256=upload.blob.sha256 if upload.blob else "",
        version=1, created_by=actor.user, state=_first_state(upload, ingested=ingested), created_at=tx.now,
        task=task_id if ingested else None, origin=place_of(fetched[1].origin.source) if fetched else None,
        lineage=upload.lineage,
    )  # fmt: skip
    said: type[Event] = DatasetUploaded if upload.blob else DatasetRegistered
    store.save(tx, view, said, blob=upload.blob.url if upload.blob else "")
    view = flagged_at_birth(tx, view) if upload.lineage else view
    if fetched is not None:
        fetched[0].keep(tx, store.row_of(tx.session, dataset_id), fetched[1])
    if ingested:
        _submit_ingest(tx, upload, view, actor=actor, specs=specs)
    return view


def _first_state(upload: Upload, *, ingested: bool) -> DatasetState:
    if upload.blob is None:
        return DatasetState.FETCHING
    return DatasetState.UPLOADED if ingested else DatasetState.READY


def _submit_ingest(
    tx: Transaction, upload: Upload, view: DatasetView, *, actor: Actor, specs: Mapping[TaskKind, SpecMaker]
) -> None:
    request: dict[str, Any] = {
        "dataset": view.id, "filename": upload.filename, "format": upload.format,
        "bad_records": upload.bad_records, "bad_ceiling": upload.bad_ceiling,
    }  # fmt: skip
    asked = IngestRequest.model_validate(
        {
            **{name: value for name, value in request.items() if name != "filename"},
            **upload.options.model_dump(exclude_unset=True), "kind": "ingest",
        }
    )  # fmt: skip
    if view.origin is not None:
        request["source"] = view.origin.model_dump(mode="json", exclude_defaults=True)
    new = NewTask(
        TaskKind.INGEST, f"ingest-{upload.name}", request, asked, result={"dataset": view.id}, task_id=view.task
    )
    submit(tx, new, actor, specs)


def ingest_spec(tx: Transaction, task: TaskView) -> IngestSpec:
    """The engine's spec; of a source that is fetched it holds the open part only."""
    request = {key: value for key, value in task.request.items() if key not in ("dataset", "source")}
    row = store.row_of(tx.session, task.request["dataset"])
    if row.origin is not None:
        return IngestSpec.model_validate({**request, "origin": store.json_of(row.origin)})
    return IngestSpec.model_validate({**request, "source": row.blob})


def on_ingest_ended(tx: Transaction, task: TaskView, *, storage: Storage) -> dict[str, str]:
    """The dataset is ready, or rejected with the report; content that is there already is not kept twice."""
    row = tx.session.get(store.DatasetRow, task.request["dataset"], with_for_update=True, populate_existing=True)
    if row is None or not DatasetState(row.state).pending:
        let_go(tx, task.project, [f"{task.artefact}/out" if task.artefact else None])
        return {}
    view = DatasetView.model_validate_json(row.view)
    report = f"{task.artefact}/out/report.jsonl" if task.artefact else None
    if task.state is TaskState.SUCCEEDED and isinstance(task.output, IngestOutput):
        found = task.output
        came = found.fetched.model_dump(include={"sha256", "size_bytes"}) if found.fetched else {}
        own = f"{task.artefact}/out/records.parquet"
        content = store.kept_once(tx, storage, view.project, found.content_sha256, own=own)
        ready = store.changed(
            view, state=DatasetState.READY, format=found.format, kind=found.data_kind, records=found.records,
            bad_records=found.bad_records, content=content,
            content_sha256=found.content_sha256, report=report, warnings=found.warnings,
            statistics=f"{task.artefact}/out/stats.json", **came,
        )  # fmt: skip
        store.save(tx, ready, DatasetReady)
        return {}
    bad = int(task.progress.metrics.get("bad_records", 0))
    rejected = store.changed(view, state=DatasetState.REJECTED, error=task.error, report=report, bad_records=bad)
    store.save(tx, rejected, DatasetRejected)
    return {}
