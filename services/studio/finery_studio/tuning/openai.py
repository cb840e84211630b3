"""OpenAI's fine-tuning surface: the unmodified client drives the whole loop. A job is a task of kind tune."""

import asyncio
import json
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Query, Request
from pydantic import Field, field_validator

from finery_contracts.access import Actor, Role
from finery_contracts.errors import Conflict, InvalidRequest, NotFound
from finery_contracts.ids import finery_id
from finery_contracts.jobs import TaskKind
from finery_contracts.model import Request as Body_
from finery_contracts.options import TaskOptions
from finery_contracts.streams import METRICS, metric_subject
from finery_contracts.tasks import TaskView
from finery_contracts.tuning import TuneOptions
from finery_kit.db import Transaction
from finery_kit.delivery import events_since
from finery_studio.edge.answers import openai_page
from finery_studio.edge.wishes import Wish
from finery_studio.tasks import store
from finery_studio.tasks.http import TaskRoutes
from finery_studio.tasks.listing import Wanted, list_tasks, metadata_of
from finery_studio.tuning.handlers import TuneRequest
from finery_studio.tuning.openai_objects import STATUS, checkpoint_object, fact_event, job_object, metric_event

CANCEL_WAIT_S = 20.0
Auto = Literal["auto"]


class Hyperparameters(Body_):
    """OpenAI's names."""

    n_epochs: Auto | Annotated[int, Field(ge=1, le=50)] = "auto"
    batch_size: Auto | Annotated[int, Field(ge=1, le=256)] = "auto"
    learning_rate_multiplier: Auto | Annotated[float, Field(gt=0, le=100)] = "auto"


class Supervised(Body_):
    """``method.supervised``."""

    hyperparameters: Hyperparameters = Hyperparameters()


class Method(Body_):
    """``method``; other types come with later versions."""

    type: Literal["supervised"]
    supervised: Supervised = Supervised()


class Extras(TuneOptions, TaskOptions):
    """``x_finery``: what OpenAI lacks."""

    output: str | None = None


class JobRequest(Body_):
    """``POST /v1/fine_tuning/jobs``."""

    model: str
    training_file: str
    validation_file: str | None = None
    hyperparameters: Hyperparameters | None = None
    method: Method | None = None
    suffix: str | None = Field(default=None, min_length=1, max_length=64, pattern=r"^[A-Za-z0-9_.-]+$")
    seed: int | None = Field(default=None, ge=0, le=2**31 - 1)
    metadata: dict[str, Annotated[str, Field(max_length=512)]] | None = Field(default=None, max_length=16)
    integrations: list[Any] | None = Field(default=None, max_length=0, description="none are offered")
    x_finery: Extras = Extras()

    @field_validator("metadata")
    @classmethod
    def _short_keys(cls, metadata: dict[str, str] | None) -> dict[str, str] | None:
        if metadata and any(len(key) > 64 for key in metadata):
            raise ValueError("keys of metadata have at most 64 characters")
        return metadata


def tune_request(job: JobRequest) -> TuneRequest:
    """The same wish in our own words."""
    if job.method is not None and job.hyperparameters is not None:
        raise InvalidRequest(
            "hyperparameters and method exclude each other: give method.supervised.hyperparameters", param="method",
            code="conflicting_parameters",
        )  # fmt: skip
    hyper = job.method.supervised.hyperparameters if job.method else job.hyperparameters or Hyperparameters()
    names = {"n_epochs": "epochs", "batch_size": "batch_size", "learning_rate_multiplier": "learning_rate_multiplier"}
    said = {names[k]: v for k, v in hyper.model_dump().items() if v != "auto"}
    extras = job.x_finery.model_dump(exclude_unset=True, include=set(TuneOptions.model_fields))
    twice = sorted(said.keys() & extras.keys())
    if twice:
        raise InvalidRequest(
            f"{', '.join(twice)} given twice: in hyperparameters and in x_finery", code="conflicting_parameters",
            param=f"x_finery.{twice[0]}",
        )  # fmt: skip
    seed = {"seed": job.seed} if job.seed is not None else {}
    metadata = {"metadata": job.metadata} if job.metadata else {}
    return TuneRequest(
        kind="tune", model=job.model, dataset=finery_id(job.training_file, "ds"),
        validation=finery_id(job.validation_file, "ds") if job.validation_file else None, suffix=job.suffix,
        options=TuneOptions.model_validate({**extras, **said, **seed}), output=job.x_finery.output, publish=True,
        **{**job.x_finery.model_dump(exclude_unset=True, include=set(TaskOptions.model_fields)), **metadata},
    )  # fmt: skip


def routes(desk: TaskRoutes) -> APIRouter:
    """``/v1/fine_tuning/jobs``."""
    router = APIRouter(prefix="/v1/fine_tuning/jobs", tags=["OpenAI"])
    reader = Depends(desk.gate.needs(Role.READ))
    wisher = desk.gate.wishes(Role.COMMON)

    async def load(actor: Actor, job_id: str) -> TaskView:
        try:
            row = await desk.database.read(lambda s: store.load(s, actor.project, finery_id(job_id, "task")))
        except NotFound as fault:
            raise NotFound(f"there is no fine-tuning job {job_id}", code="job_not_found") from fault
        if row.kind != TaskKind.TUNE:
            raise NotFound(f"there is no fine-tuning job {job_id}", code="job_not_found")
        return store.view_of(row)

    @router.post("")
    async def create(body: JobRequest, wish: Wish = wisher) -> dict[str, Any]:
        asked = tune_request(body)

        def work(tx: Transaction) -> dict[str, Any]:
            return job_object(desk.tuning.tune(tx, asked, wish.actor, tolerant=True))

        try:
            job = await desk.gate.once(wish, dict[str, Any], work)
        except NotFound as fault:
            if fault.error_code == "file_not_found":
                raise _no_file(body, fault) from fault
            raise
        desk.tasks.wake_relay()
        desk.tasks.ring()
        return job

    @router.get("")
    async def list_jobs(
        request: Request,
        actor: Actor = reader,
        after: str | None = None,
        limit: Annotated[int, Query(ge=1, le=100)] = 20,
    ) -> dict[str, Any]:
        wanted = Wanted(
            kind=TaskKind.TUNE, limit=limit + 1, metadata=metadata_of(request.url.query),
            after=finery_id(after, "task") if after else None,
        )  # fmt: skip
        rows = await desk.database.read(lambda s: list_tasks(s, actor.project, wanted))
        return openai_page([job_object(store.view_of(row)) for row in rows], limit)

    @router.get("/{job_id}")
    async def retrieve(job_id: str, actor: Actor = reader) -> dict[str, Any]:
        return job_object(await load(actor, job_id))

    @router.post("/{job_id}/cancel")
    async def cancel(job_id: str, wish: Wish = wisher) -> dict[str, Any]:
        actor, task = wish.actor, await load(wish.actor, job_id)
        if task.state.ended:
            raise Conflict(f"job {job_id} has {STATUS[task.state]} already", code="job_not_cancellable")

        def work(tx: Transaction) -> dict[str, Any]:
            return job_object(desk.tasks.terminate(tx, actor.project, task.id))

        await desk.gate.once(wish, dict[str, Any], work)
        async with asyncio.timeout(CANCEL_WAIT_S) as waiting:
            while not (task := await load(actor, job_id)).state.ended:
                if waiting.expired() or (waiting.when() or 0) - asyncio.get_running_loop().time() < 0.5:
                    break
                await asyncio.sleep(0.1)
        return await desk.gate.settled(wish, job_object(task))

    @router.get("/{job_id}/events")
    async def events(
        job_id: str, actor: Actor = reader, after: str | None = None, limit: Annotated[int, Query(ge=1, le=100)] = 20
    ) -> dict[str, Any]:
        task = await load(actor, job_id)
        facts = await desk.database.read(lambda s: events_since(s, actor.project, noun_id=task.id, limit=1000))
        points = await desk.read_subject(METRICS.name, metric_subject(task.project, task.id))
        told = [fact_event(row) for row in facts]
        told += [metric_event(item.seq, n, p) for item in points for n, p in enumerate(json.loads(item.body))]
        told.sort(key=lambda event: (event["created_at"], event["id"]), reverse=True)
        return openai_page(_after(told, after), limit)

    @router.get("/{job_id}/checkpoints")
    async def checkpoints(
        job_id: str, actor: Actor = reader, after: str | None = None, limit: Annotated[int, Query(ge=1, le=100)] = 10
    ) -> dict[str, Any]:
        task = await load(actor, job_id)
        listed = [checkpoint_object(task, n) for n in reversed(range(len(task.checkpoints)))]
        return openai_page(_after(listed, after), limit)

    return router


def _after(items: list[dict[str, Any]], after: str | None) -> list[dict[str, Any]]:
    if after is None:
        return items
    places = [n for n, item in enumerate(items) if item["id"] == after]
    if not places:
        raise InvalidRequest(f"after: there is no {after} in this list", code="cursor_invalid", param="after")
    return items[places[0] + 1 :]


def _no_file(body: JobRequest, fault: NotFound) -> InvalidRequest:
    missing_training = finery_id(body.training_file, "ds") in fault.message
    param = "training_file" if missing_training else "validation_file"
    name = body.training_file if missing_training else body.validation_file
    return InvalidRequest(
        f"{param} {name} does not exist in this project (it may have been deleted); upload it first",
        code="file_not_found", param=param,
    )  # fmt: skip
