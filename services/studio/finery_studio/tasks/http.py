"""Routes of tasks."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Body, Depends, Query, Request
from fastapi.responses import FileResponse, StreamingResponse
from pydantic import BaseModel
from sqlmodel import Session

from finery_contracts.access import Actor, Role
from finery_contracts.errors import InvalidRequest, NotFound, NotOffered
from finery_contracts.jobs import TaskKind
from finery_contracts.streams import LOGS, METRICS, log_subject, metric_subject
from finery_contracts.tasks import TaskState, TaskView
from finery_kit.db import Database, Transaction
from finery_kit.storage import Storage
from finery_studio.datasets.handlers import DatasetDesk, IngestRequest
from finery_studio.datasets.preparing import CountRequest, PrepareRequest, PreparingDesk
from finery_studio.edge.answers import page
from finery_studio.edge.auth import Gate
from finery_studio.edge.wishes import Wish
from finery_studio.events.streams import Stored
from finery_studio.labelling.judging import JudgeRequest, Judging
from finery_studio.models import repairs, support
from finery_studio.models.publication import Publisher
from finery_studio.models.requests import ImportRequest, MergeRequest, RepairTask, ValidateRequest
from finery_studio.pools.queue import told
from finery_studio.tasks import listing, store
from finery_studio.tasks.handlers import TaskDesk
from finery_studio.tasks.logs import archived_lines, clear
from finery_studio.tasks.moves import IllegalMove
from finery_studio.tuning.handlers import EvaluateRequest, TuneRequest, TuningDesk

ReadSubject = Callable[..., Awaitable[list[Stored]]]
NOT_OFFERED = {"distill": "distillation", "compress": "compression"}
LOG_POLL_S = 0.5


@dataclass(frozen=True)
class TaskRoutes:
    """What the routes of tasks need."""

    gate: Gate
    database: Database
    storage: Storage
    tasks: TaskDesk
    tuning: TuningDesk
    preparing: PreparingDesk
    publisher: Publisher
    read_subject: ReadSubject
    datasets: DatasetDesk

    async def submit(self, body: dict[str, Any], wish: Wish) -> TaskView:
        """Validate by kind, then store."""
        view = await self.gate.once(wish, TaskView, lambda tx: make_task(self, tx, body, wish.actor))
        self.tasks.wake_relay()
        self.tasks.ring()
        return view


def make_task(desk: TaskRoutes, tx: Transaction, body: dict[str, Any], actor: Actor) -> TaskView:
    """A task from a body as ``POST /api/v1/tasks`` takes it.

    Raises:
        NotOffered: a kind that this version does not offer yet.
        InvalidRequest: ``not_supported``: the support matrix forbids it, whatever is offered.
        FineryError, pydantic.ValidationError: the body is wrong.
    """
    kind = body.get("kind")
    if kind == "compress" and isinstance(body.get("model"), str):  # what no version would do is told by its rule
        to = support.Action("compress", str(body.get("strategy", "")))
        desk.tuning.models.check_named(tx, body["model"], actor, to)
    if isinstance(kind, str) and kind in NOT_OFFERED:
        raise NotOffered(f"{NOT_OFFERED[kind]} is not offered yet; tune and evaluate are", param="kind")
    makers: dict[str, tuple[type[BaseModel], Callable[[Transaction, Any, Actor], TaskView]]] = {
        "tune": (TuneRequest, desk.tuning.tune),
        "evaluate": (EvaluateRequest, desk.tuning.evaluate),
        "prepare": (PrepareRequest, desk.preparing.prepare),
        "count": (CountRequest, desk.preparing.count),
        "judge": (JudgeRequest, Judging(desk.tuning.models).judge),
        "validate": (ValidateRequest, desk.tuning.validate),
        "import": (RepairTask, partial(repairs.repair_task, desk.tuning.models))
        if "repair_of" in body
        else (ImportRequest, desk.tuning.models.imports),
        "merge": (MergeRequest, desk.publisher.merge),
        "ingest": (IngestRequest, desk.datasets.ingest),
    }
    if not isinstance(kind, str) or kind not in makers:
        raise InvalidRequest(f"say what it is to do: kind is one of {', '.join(makers)}", param="kind")
    request, make = makers[kind]
    return make(tx, request.model_validate(body), actor)


def routes(desk: TaskRoutes) -> APIRouter:
    """``/api/v1/tasks``."""
    router = APIRouter(prefix="/api/v1/tasks", tags=["tasks"])
    reader = Depends(desk.gate.needs(Role.READ))
    writer = Depends(desk.gate.needs(Role.COMMON))
    wisher = desk.gate.wishes(Role.COMMON)

    async def load(actor: Actor, task_id: str) -> TaskView:
        return store.view_of(await desk.database.read(lambda s: store.load(s, actor.project, task_id)))

    @router.post("", status_code=201)
    async def submit(body: Annotated[dict[str, Any], Body()], wish: Wish = wisher) -> TaskView:
        return await desk.submit(body, wish)

    @router.get("")
    async def list_all(
        request: Request,
        actor: Actor = reader,
        limit: Annotated[int, Query(ge=1, le=100)] = 20,
        after: str | None = None,
        kind: TaskKind | None = None,
        state: TaskState | None = None,
        pool: str | None = None,
        user: str | None = None,
        search: str | None = None,
        sort: listing.Sort = listing.NEWEST_FIRST,
    ) -> dict[str, Any]:
        wanted = listing.Wanted(
            kind=kind, state=state, pool=pool, user=user, search=search, sort=sort,
            metadata=listing.metadata_of(request.url.query), after=after, limit=limit + 1,
        )  # fmt: skip

        def read(session: Session) -> dict[str, Any]:
            rows = listing.list_tasks(session, actor.project, wanted)
            answer = page(told(session, [store.view_of(row) for row in rows]), limit)
            return {**answer, "next": listing.cursor(rows[limit - 1], sort) if answer["has_more"] else None}

        return await desk.database.read(read)

    @router.get("/{task_id}")
    async def one(task_id: str, actor: Actor = reader) -> TaskView:
        def read(session: Session) -> TaskView:
            return told(session, [store.view_of(store.load(session, actor.project, task_id))], every_place=True)[0]

        return await desk.database.read(read)

    @router.get("/{task_id}/metrics")
    async def metrics(task_id: str, actor: Actor = reader, after: int = 0) -> dict[str, Any]:
        task = await load(actor, task_id)
        stored = await desk.read_subject(METRICS.name, metric_subject(task.project, task.id), after=after)
        points = [{"seq": item.seq, **point} for item in stored for point in json.loads(item.body)]
        return {"data": points, "has_more": False, "next": stored[-1].seq if stored else after}

    @router.get("/{task_id}/logs", response_model=None)
    async def logs(
        request: Request,
        task_id: str,
        actor: Actor = reader,
        after: int = 0,
        search: str | None = None,
        follow: bool = False,
    ) -> StreamingResponse | dict[str, Any]:
        task = await load(actor, task_id)
        subject = log_subject(task.project, task.id)
        if follow:
            return StreamingResponse(_follow(request, desk, actor, task.id, after), media_type="application/x-ndjson")
        stored = await desk.read_subject(LOGS.name, subject, after=after)
        lines = [{"seq": item.seq, **line} for item in stored for line in json.loads(item.body)]
        if not lines and after == 0:
            lines = await asyncio.to_thread(_archived, task, desk.storage)
        if search:
            lines = [line for line in lines if search.lower() in line["text"].lower()]
        return {"data": lines, "has_more": False, "next": stored[-1].seq if stored else after}

    @router.get("/{task_id}/artefact/{path:path}")
    async def artefact(task_id: str, path: str, actor: Actor = reader) -> FileResponse:
        task = await load(actor, task_id)
        if task.artefact is None:
            raise NotFound(f"task {task_id} has left no artefact (yet)", code="artefact_missing")
        root = desk.storage.path(task.artefact)
        file = (root / path).resolve()
        if not file.is_relative_to(root) or not file.is_file():
            have = sorted(str(p.relative_to(root)) for p in root.rglob("*") if p.is_file())[:50]
            raise NotFound(f"there is no {path}; there are {', '.join(have)}", code="artefact_missing", param="path")
        return FileResponse(file, filename=file.name)

    _moves(router, desk, writer, wisher)
    return router


def _moves(router: APIRouter, desk: TaskRoutes, writer: Any, wisher: Any) -> None:
    """What people do to a task; a move that its state does not allow is refused and recorded."""

    async def move(wish: Wish, task_id: str, asked: str, work: Callable[..., TaskView]) -> TaskView:
        project = wish.actor.project
        try:
            return await desk.gate.once(wish, TaskView, lambda tx: work(tx, project, task_id))
        except IllegalMove as fault:
            told = partial(desk.tasks.record_refusal, asked=asked, by=wish.actor.user, error=fault.body)
            await desk.database.write(lambda tx: told(tx, project, task_id))
            raise

    @router.post("/{task_id}/terminate")
    async def terminate(task_id: str, wish: Wish = wisher) -> TaskView:
        return await move(wish, task_id, "terminate", desk.tasks.terminate)

    @router.post("/{task_id}/pause")
    async def pause(task_id: str, wish: Wish = wisher) -> TaskView:
        return await move(wish, task_id, "pause", desk.tasks.pause)

    @router.post("/{task_id}/resume")
    async def resume(task_id: str, wish: Wish = wisher) -> TaskView:
        return await move(wish, task_id, "resume", desk.tasks.resume)

    @router.get("/{task_id}/settings")
    async def settings(task_id: str, actor: Actor = writer) -> dict[str, Any]:
        row = await desk.database.read(lambda s: store.load(s, actor.project, task_id))
        return json.loads(row.asked)

    @router.post("/{task_id}/copy", status_code=201)
    async def copy(
        task_id: str, edits: Annotated[dict[str, Any] | None, Body()] = None, wish: Wish = wisher
    ) -> TaskView:
        row = await desk.database.read(lambda s: store.load(s, wish.actor.project, task_id))
        merged = {**json.loads(row.asked), **(edits or {})}
        return await desk.submit({name: value for name, value in merged.items() if value is not None}, wish)

    @router.delete("/{task_id}")
    async def delete(task_id: str, actor: Actor = writer, confirm: Literal["DELETE"] | None = None) -> dict[str, Any]:
        if confirm is None:
            raise InvalidRequest(
                "deleting a task cannot be undone: say confirm=DELETE", code="confirm_missing", param="confirm"
            )
        gone = await move(Wish(actor), task_id, "delete", desk.tasks.delete)
        await asyncio.to_thread(clear, gone, desk.storage)
        return {"id": task_id, "deleted": True}


def _archived(task: TaskView, storage: Storage) -> list[dict[str, Any]]:
    ends = {attempt.number: (attempt.ended_at or task.created_at).isoformat() for attempt in task.attempts}
    kept = archived_lines(task, storage)
    return [{"seq": 0, "at": ends[number], "attempt": number, "text": line} for number, line in kept]


async def _follow(request: Request, desk: TaskRoutes, actor: Actor, task_id: str, after: int) -> AsyncIterator[bytes]:
    """Lines as they come, until the task has ended and all were sent."""
    while not await request.is_disconnected():
        row = await desk.database.read(lambda s: store.load(s, actor.project, task_id))
        task = store.view_of(row)
        for item in await desk.read_subject(LOGS.name, log_subject(task.project, task.id), after=after):
            after = item.seq
            for line in json.loads(item.body):
                yield json.dumps({"seq": item.seq, **line}).encode() + b"\n"
        if task.state.ended:
            return
        await asyncio.sleep(LOG_POLL_S)
