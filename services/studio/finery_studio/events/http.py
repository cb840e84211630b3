"""Routes that read back: the event log of a project, and traces."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query, Request
from fastapi.responses import StreamingResponse
from sqlmodel import Session, col, select

from finery_contracts.access import Actor, Role
from finery_contracts.errors import NotFound
from finery_kit.db import Database
from finery_kit.delivery import OutboxRow, events_since
from finery_kit.telemetry import read_trace
from finery_studio.edge.auth import Gate
from finery_studio.tasks import store as task_store

FOLLOW_S = 0.25


def routes(gate: Gate, database: Database, spans_file: Path) -> APIRouter:
    """``/api/v1/events`` and ``/api/v1/traces``."""
    router = APIRouter(prefix="/api/v1", tags=["events"])
    reader = Depends(gate.needs(Role.READ))

    @router.get("/events", response_model=None)
    async def events(
        request: Request,
        actor: Actor = reader,
        after: Annotated[int, Query(ge=0, description="cursor: the seq of the last event seen")] = 0,
        since: datetime | None = None,
        noun: Annotated[str | None, Query(description="id of a task, dataset, model, …")] = None,
        limit: Annotated[int, Query(ge=1, le=1000)] = 100,
        follow: bool = False,
    ) -> dict[str, Any] | StreamingResponse:
        async def page_from(place: int, size: int) -> list[OutboxRow]:
            return await database.read(
                lambda session: events_since(session, actor.project, after=place, since=since, noun_id=noun, limit=size)
            )

        if follow:
            return StreamingResponse(_follow(request, page_from, after), media_type="text/event-stream")
        rows = await page_from(after, limit + 1)
        shown = rows[:limit]
        return {
            "data": [{"seq": row.seq, "event": json.loads(row.body)} for row in shown],
            "has_more": len(rows) > limit,
            "next": shown[-1].seq if shown else after,
        }

    @router.get("/traces/{trace_id}")
    async def trace(trace_id: str, actor: Actor = reader) -> dict[str, Any]:
        mine = await database.read(lambda session: _owns_trace(session, actor.project, trace_id))
        if not mine:
            raise NotFound(f"there is no trace {trace_id} in this project", code="trace_not_found")
        return {"trace_id": trace_id, "spans": await asyncio.to_thread(read_trace, spans_file, trace_id)}

    @router.get("/tasks/{task_id}/trace")
    async def task_trace(task_id: str, actor: Actor = reader) -> dict[str, Any]:
        row = await database.read(lambda session: task_store.load(session, actor.project, task_id))
        if row.traceparent is None:
            raise NotFound(f"task {task_id} was submitted without a trace", code="trace_not_found")
        trace_id = row.traceparent.split("-")[1]
        return {"trace_id": trace_id, "spans": await asyncio.to_thread(read_trace, spans_file, trace_id)}

    return router


def _owns_trace(session: Session, project: str, trace_id: str) -> bool:
    query = select(task_store.TaskRow.id).where(
        task_store.TaskRow.project == project, col(task_store.TaskRow.traceparent).contains(trace_id)
    )
    return session.exec(query.limit(1)).first() is not None


async def _follow(
    request: Request, page_from: Callable[[int, int], Awaitable[list[OutboxRow]]], place: int
) -> AsyncIterator[bytes]:
    """Server-sent events: the id of each is its cursor."""
    while not await request.is_disconnected():
        for row in await page_from(place, 100):
            place = row.seq or place
            yield f"id: {row.seq}\nevent: {row.type}\ndata: {row.body.decode()}\n\n".encode()
        await asyncio.sleep(FOLLOW_S)
