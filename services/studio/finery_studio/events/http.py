"""Routes that read back: the event log of a project, and traces."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Header, Query, Request
from fastapi.responses import StreamingResponse
from sqlmodel import Session, col, select

from finery_contracts.access import Actor, Role
from finery_contracts.errors import InvalidRequest, NotFound
from finery_contracts.log import LogPage, check_type_pattern
from finery_kit.db import Database
from finery_kit.telemetry import read_trace
from finery_studio.edge.auth import Gate
from finery_studio.events import log
from finery_studio.tasks import store as task_store

FOLLOW_S = 0.25
HEARTBEAT_S = 15.0
UNHELD = {"cache-control": "no-store", "x-accel-buffering": "no"}


def routes(gate: Gate, database: Database, spans_file: Path) -> APIRouter:
    """``/api/v1/events`` and ``/api/v1/traces``."""
    router = APIRouter(prefix="/api/v1", tags=["events"])
    reader = Depends(gate.needs(Role.READ))

    @router.get("/events", response_model=None)
    async def events(
        request: Request,
        actor: Actor = reader,
        after: Annotated[str, Query(description="cursor: the seq of the last event seen")] = "0",
        since: Annotated[str | None, Query(description="a time or date, such as 2026-11-21T08:00:00Z")] = None,
        noun: Annotated[str | None, Query(max_length=255, description="id of a task, model, …: its history")] = None,
        types: Annotated[list[str] | None, Query(description="such as task.succeeded or task.*", max_length=50)] = None,
        limit: Annotated[int, Query(ge=1, le=1000)] = 100,
        follow: Annotated[bool, Query(description="server-sent events, as they come")] = False,
        last_event_id: Annotated[str | None, Header(description="the cursor, when a stream is taken up again")] = None,
    ) -> LogPage | StreamingResponse:
        wanted = log.Wanted(
            actor.project, after=cursor_of(after), since=_moment(since) if since else None, noun_id=noun,
            types=tuple(check_type_pattern(pattern) for pattern in types or ()),
        )  # fmt: skip
        if not follow:
            return await database.read(lambda session: log.page(session, wanted, limit=limit))
        if last_event_id:
            wanted = replace(wanted, after=cursor_of(last_event_id))
        return StreamingResponse(_follow(request, database, wanted), media_type="text/event-stream", headers=UNHELD)

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


async def _follow(request: Request, database: Database, wanted: log.Wanted) -> AsyncIterator[bytes]:
    """Server-sent events: the id of each is its cursor. A comment from time to time shows that the line is open."""
    silent_s = 0.0
    yield b": the event log\n\n"
    while not await request.is_disconnected():
        rows = await database.read(partial(log.read, wanted=wanted, limit=100))
        for row in rows:
            wanted = replace(wanted, after=row.seq or wanted.after)
            data = row.body.replace(b"\r\n", b"\n").replace(b"\r", b"\n").replace(b"\n", b"\ndata: ")
            yield b"id: %d\nevent: %s\ndata: %s\n\n" % (row.seq, row.type.encode(), data)
        silent_s = 0.0 if rows else silent_s + FOLLOW_S
        if silent_s >= HEARTBEAT_S:
            silent_s = 0.0
            yield b": still here\n\n"
        if len(rows) < 100:
            await asyncio.sleep(FOLLOW_S)


def cursor_of(text: str) -> int:
    """The place that a caller's cursor names.

    Raises:
        InvalidRequest: it is none.
    """
    if not (text.isascii() and text.isdigit() and len(text) <= 18):
        raise InvalidRequest(
            f"{text[:40]!r} is no cursor; take next of a page, or the id of an event in a stream",
            code="cursor_invalid", param="after",
        )  # fmt: skip
    return int(text)


def _moment(text: str) -> datetime:
    """A time without a zone, and a date, are meant in UTC."""
    try:
        found = datetime.fromisoformat(text.replace(" ", "+"))  # a plus in a URL arrives as a space
        return found.replace(tzinfo=found.tzinfo or UTC).astimezone(UTC)
    except (ValueError, OverflowError) as fault:
        raise InvalidRequest(
            f"{text[:40]!r} is no time; say it as 2026-11-21T08:00:00Z, or 2026-11-21", code="since_invalid",
            param="since",
        ) from fault  # fmt: skip
