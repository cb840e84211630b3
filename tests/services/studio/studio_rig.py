"""What studio's tests are made of: the whole service on a database of its own, without a bus, and a worker's moves."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import cache
from pathlib import Path
from typing import Any
from unittest.mock import patch

import httpx
from fastapi import FastAPI
from sqlmodel import select

from finery_contracts.access import Actor, Role
from finery_contracts.datasets import DatasetView
from finery_contracts.errors import ErrorBody
from finery_contracts.gallery import Gallery
from finery_contracts.ids import new_id
from finery_contracts.jobs import (
    EngineOutput,
    ImportOutput,
    IngestOutput,
    Phase,
    TaskKind,
    TuneOutput,
    ValidateOutput,
)
from finery_contracts.models import ModelView
from finery_contracts.preparing import CountOutput, PrepareOutput, SourceUsed, StepReport
from finery_contracts.tasks import EndReason, TaskProgress, TaskView
from finery_contracts.work import AttemptEnd, Claim, ClaimRequest, Report
from finery_kit.db import utc_now
from finery_kit.delivery import OutboxRow
from finery_kit.storage import Blob
from finery_studio.app import Studio
from finery_studio.datasets import handlers as dataset_handlers
from finery_studio.datasets import store as dataset_store
from finery_studio.edge import forward
from finery_studio.models import store as model_store
from finery_studio.models.gallery import load_gallery
from finery_studio.projects import store as project_store
from finery_studio.removal.sweep import sweep
from finery_studio.settings import StudioSettings
from finery_studio.tasks import store as task_store
from finery_studio.tuning.handlers import TuneRequest

GALLERY_MODEL = "smollm2-135m-instruct"
OPERATOR_KEY = "fk-operator-of-the-test"
OUTPUTS: dict[TaskKind, EngineOutput] = {
    TaskKind.INGEST: IngestOutput(format="openai", records=500, bad_records=0, content_sha256="c" * 64),
    TaskKind.IMPORT: ImportOutput(architecture="llama", parameters=10**8, size_bytes=9, dtype="bf16", max_length=2048),
    TaskKind.VALIDATE: ValidateOutput(),
    TaskKind.PREPARE: PrepareOutput(
        holds="messages", records=80, validation_records=20, size_bytes=800, validation_size_bytes=200,
        content_sha256="d" * 64, validation_sha256="e" * 64, seed=7, warnings=["few"],
        sources=[SourceUsed(dataset="ds_of_the_engine", name="a", version=2, content_sha256="c" * 64, records=500)],
        steps=[StepReport(step="split", parameters={"validation": 0.2}, records_in=100, records_out=100)],
    ),
    TaskKind.COUNT: CountOutput(
        records=500, tokens=9000, tokens_per_epoch=8000, trained_tokens=4000, max_length=64, truncated_records=5,
        truncated_share=0.01, lost_tokens=1000,
    ),
    TaskKind.TUNE: TuneOutput(steps=3, trained_tokens=100, metrics={"loss": 0.5}),
}  # fmt: skip


@dataclass
class Rig:
    """Studio's desks on a fresh database; ``actor`` is the default project's operator."""

    studio: Studio
    actor: Actor
    deployed: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    app: FastAPI | None = None

    async def write(self, work: Any) -> Any:
        return await self.studio.database.write(work)

    async def read(self, work: Any) -> Any:
        return await self.studio.database.read(work)

    def by(self, role: Role) -> Actor:
        return self.actor.model_copy(update={"role": role})

    async def task(self, task_id: str) -> TaskView:
        return await self.read(lambda s: task_store.view_of(task_store.load(s, self.actor.project, task_id)))

    async def model(self, ref: str) -> ModelView:
        return await self.read(lambda s: model_store.load(s, self.actor.project, ref))

    async def dataset(self, ref: str) -> DatasetView:
        return await self.read(lambda s: dataset_store.load(s, self.actor.project, ref))

    async def upload(
        self, name: str = "train.jsonl", *, sha: str = "a" * 64, purpose: str = "fine-tune"
    ) -> DatasetView:
        blob = Blob(f"store://{self.actor.project}/blobs/{sha}", sha, 10)
        given = dataset_handlers.Upload(blob=blob, filename=name, name=name, purpose=purpose)
        return await self.write(lambda tx: dataset_handlers.register(tx, given, self.actor, self.studio.specs))

    async def tune(self, dataset: str, *, tolerant: bool = True, **said: Any) -> TaskView:
        asked = TuneRequest.model_validate({"kind": "tune", "model": GALLERY_MODEL, "dataset": dataset, **said})
        return await self.write(lambda tx: self.studio.tuning.tune(tx, asked, self.actor, tolerant=tolerant))

    async def claim(self, *kinds: TaskKind, request_id: str = "") -> Claim | None:
        """The next waiting task, as a worker gets it."""
        request = ClaimRequest(request_id=request_id or new_id("req"), worker="w", kinds=list(kinds or TaskKind))
        return (await self.studio.tasks.on_claim(request)).claim

    async def end(
        self,
        claim: Claim,
        *,
        reason: EndReason = EndReason.SUCCEEDED,
        error: ErrorBody | None = None,
        seq: int = 1,
        output: EngineOutput | None = None,
        metrics: dict[str, float] | None = None,
    ) -> Report:
        """The attempt's last report."""
        output = (output or OUTPUTS.get(claim.spec.kind)) if reason is EndReason.SUCCEEDED else None
        artefact = f"store://{claim.project}/tasks/{claim.task_id}/{claim.attempt}/left"
        report = Report(
            task_id=claim.task_id, attempt=claim.attempt, project=claim.project, worker="w", seq=seq,
            phase=Phase.RUNNING, running_s=1, progress=TaskProgress(metrics=metrics or {}),
            end=AttemptEnd(reason=reason, output=output, error=error, artefact=artefact),
        )  # fmt: skip
        await self.write(lambda tx: self.studio.tasks.on_report(tx, report))
        return report

    async def work(self, *kinds: TaskKind) -> list[Claim]:
        """Do everything that waits, and what begins to wait by that; all of it succeeds."""
        done = list[Claim]()
        while (claim := await self.claim(*kinds)) is not None:
            await self.end(claim)
            done.append(claim)
        return done

    async def said(self, noun_id: str | None = None) -> list[str]:
        """Types of the facts in the outbox, oldest first."""
        rows = await self.read(lambda s: list(s.exec(select(OutboxRow).order_by(OutboxRow.seq))))
        return [row.type.removeprefix("io.finery.")[:-3] for row in rows if noun_id in (None, row.noun_id)]

    async def pass_time(self, *, hours: float = 0) -> None:
        """Later, after studio has removed what has to go by then."""
        now = self.studio.database.now() + timedelta(hours=hours, seconds=10)
        vars(self.studio.database)["_clock"] = lambda: now
        await sweep(self.studio.database, self.studio.storage)

    def http(self, key: str = OPERATOR_KEY) -> httpx.AsyncClient:
        """A client of studio's own HTTP application."""
        self.app = self.app or self.studio.http()
        transport = httpx.ASGITransport(app=self.app, raise_app_exceptions=False)
        headers = {"authorization": f"Bearer {key}"}
        return httpx.AsyncClient(transport=transport, base_url="http://studio", headers=headers)


def code_of(answer: httpx.Response) -> tuple[int, str]:
    """Status and code of a refusal."""
    return answer.status_code, answer.json()["error"]["code"]


_shipped = cache(load_gallery)


def _gallery(operators: Path | None) -> Gallery:
    """The shipped one is read once for all tests; nobody can change it."""
    return load_gallery(operators) if operators else _shipped()


async def studio_rig(folder: Path, *, clock: Callable[[], datetime] = utc_now, **settings: Any) -> Rig:
    """A studio whose other owners answer that nothing is deployed, unless the rig says so."""
    told = {"home": folder, "installation_secret": "ab" * 32, "operator_key": OPERATOR_KEY, **settings}
    with patch("finery_studio.app.load_gallery", _gallery):
        studio = Studio(StudioSettings(**told), clock=clock)
    studio.database.open()
    await studio.first_start()
    project = (await studio.database.read(project_store.projects))[0]
    actor = Actor(project=project.id, project_name="default", user="operator", key="key_1", role=Role.OPERATOR)
    rig = Rig(studio, actor)

    async def owner(_owner: str, _verb: str, _body: Any, _answer: Any, **_: Any) -> forward.Anything:
        return forward.Anything({"data": rig.deployed, "has_more": False})

    studio._ask = forward.Ask(owner)
    return rig
