"""Routes of datasets."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Form, Query, Request, UploadFile
from fastapi.responses import FileResponse, Response
from sqlmodel import Session

from finery_contracts.access import Actor, Role
from finery_contracts.datasets import DataFormat, DatasetState, DatasetStatistics, DatasetView, RecordPage
from finery_contracts.errors import Conflict, ErrorBody, InvalidRequest, NotFound, TooLarge
from finery_contracts.jobs import BadRecord
from finery_contracts.lineage import Lineage
from finery_contracts.options import TaskOptions
from finery_kit.db import Database, Transaction
from finery_kit.storage import CHUNK, Storage
from finery_studio.datasets import handlers, removal, store, withdrawal
from finery_studio.datasets.preview import page_of
from finery_studio.datasets.withdrawal import WithdrawRequest
from finery_studio.edge.answers import page
from finery_studio.edge.auth import Gate
from finery_studio.edge.wishes import Wish
from finery_studio.lineage import lineage_of

MAX_NAMED_BYTES = 2**20
NDJSON = "application/x-ndjson"
NAMED = {
    "requestBody": {
        "content": {
            "application/json": {
                "schema": {
                    "type": "object", "required": ["source"],
                    "description": "a source instead of a file: the body of POST /api/v1/tasks with kind ingest, its "
                    "`name` being the dataset's",
                    "properties": {"source": {"description": "a URL, or {kind, …}: see IngestRequest"}},
                }
            }
        }
    }
}  # fmt: skip


class DatasetRoutes:
    """What both surfaces need."""

    def __init__(
        self, gate: Gate, database: Database, storage: Storage, desk: handlers.DatasetDesk, max_bytes: int,
        changed: Callable[[], None], restore_hours: int,
    ) -> None:  # fmt: skip
        self.gate, self.database, self.storage, self.desk = gate, database, storage, desk
        self.specs, self.max_bytes, self.changed = desk.specs, max_bytes, changed
        self.restore_hours = restore_hours

    async def name(self, body: bytes, wish: Wish) -> dict[str, Any]:
        """A dataset of a source that is named: JSON as ``POST /api/v1/tasks`` takes it, ``name`` for the dataset."""
        try:
            said = json.loads(body)
        except (ValueError, RecursionError) as fault:
            raise InvalidRequest("the body is no JSON", code="invalid_json") from fault
        if not isinstance(said, dict):
            raise InvalidRequest("the body is a JSON object", code="invalid_json")
        named = {**said, "output": said["name"]} if "name" in said else said
        asked = handlers.IngestRequest.model_validate({k: v for k, v in named.items() if k != "name"})
        made = await self.gate.once(
            wish, dict[str, Any], lambda tx: _view(self.desk.make(tx, asked, wish.actor))
        )  # fmt: skip
        self.changed()
        return made

    async def take(
        self, upload: UploadFile, wish: Wish, told: Callable[[DatasetView], dict[str, Any]], **said: Any
    ) -> dict[str, Any]:
        """Keep the bytes, then make dataset and task in one transaction. ``told``: the answer's shape."""
        actor = wish.actor
        filename = (upload.filename or "upload").replace("\\", "/").rsplit("/", 1)[-1][:255] or "upload"
        if "\0" in f"{filename}{said.get('name', '')}":
            raise InvalidRequest("a name holds no NUL", code="name_invalid", param="name")
        blob = await self.storage.put_stream(actor.project, _chunks(upload), max_bytes=self.max_bytes)
        if blob.size_bytes == 0:
            raise InvalidRequest(f"the file {filename} is empty", code="file_empty", param="file")
        given = handlers.Upload(blob=blob, filename=filename, **{"name": filename, **said})

        def work(tx: Transaction) -> dict[str, Any]:
            return told(handlers.register(tx, given, actor, self.specs))

        answer = await self.gate.once(wish, dict[str, Any], work)
        self.changed()
        return answer

    async def drop(self, actor: Actor, ref: str, *, restorable_hours: int = 0) -> DatasetView:
        """Delete; the bytes go later, when nothing else needs them."""
        view = await self.database.write(
            lambda tx: removal.delete(tx, actor.project, ref, restorable_hours=restorable_hours)
        )
        self.changed()
        return view


def routes(desk: DatasetRoutes) -> APIRouter:
    """``/api/v1/datasets``."""
    router = APIRouter(prefix="/api/v1/datasets", tags=["datasets"])
    reader = Depends(desk.gate.needs(Role.READ))
    writer = Depends(desk.gate.needs(Role.COMMON))
    wisher = desk.gate.wishes(Role.COMMON)

    @router.post("", status_code=201, openapi_extra=NAMED)
    async def upload(
        request: Request,
        file: UploadFile | None = None,
        wish: Wish = wisher,
        name: Annotated[str | None, Form()] = None,
        stated: Annotated[DataFormat, Form(alias="format")] = "auto",
        bad_records: Annotated[Literal["strict", "skip"], Form()] = "strict",
        bad_ceiling: Annotated[float, Form(ge=0, le=1)] = 0.01,
        purpose: Annotated[Literal["fine-tune", "evals"], Form()] = "fine-tune",
        notify: Annotated[str | None, Form(description="JSON: {topic, events}")] = None,
        task: Annotated[str | None, Form(description="JSON: options of the task: auto_stop_s, priority, …")] = None,
    ) -> DatasetView:
        if file is None:
            return DatasetView.model_validate(await desk.name(await small_body(request), wish))
        said = {"name": name} if name else {}
        made = await desk.take(
            file, wish, _view, purpose=purpose, format=stated, bad_records=bad_records, bad_ceiling=bad_ceiling,
            options=_options(task, notify), **said,
        )  # fmt: skip
        return DatasetView.model_validate(made)

    @router.get("")
    async def list_all(
        actor: Actor = reader, limit: Annotated[int, Query(ge=1, le=100)] = 20, after: str | None = None
    ) -> dict[str, Any]:
        found = await desk.database.read(
            lambda session: store.list_datasets(session, actor.project, after=after, limit=limit + 1)
        )
        return page(found, limit)

    @router.get("/{ref}")
    async def one(ref: str, actor: Actor = reader) -> DatasetView:
        return await desk.database.read(lambda session: store.load(session, actor.project, ref))

    @router.get("/{ref}/report")
    async def report(ref: str, actor: Actor = reader) -> Response:
        view = await desk.database.read(lambda session: store.load(session, actor.project, ref))
        if view.report is None and view.error is None:
            raise Conflict(f"dataset {view.name} is {view.state}; its report is not written yet", code="not_ready")
        file = desk.storage.find(view.report) if view.report is not None else None
        if file is not None or view.error is None:
            return FileResponse(file or desk.storage.path(view.report or ""), media_type=NDJSON)
        return Response(_whole(view, view.error).model_dump_json(exclude_none=True) + "\n", media_type=NDJSON)

    @router.get("/{ref}/lineage")
    async def lineage(ref: str, actor: Actor = reader) -> Lineage:
        def read(session: Session) -> Lineage:
            return lineage_of(session, actor.project, store.load(session, actor.project, ref).id)

        return await desk.database.read(read)

    @router.get("/{ref}/records", response_model_exclude_none=True)
    async def records(
        ref: str,
        actor: Actor = reader,
        offset: Annotated[int, Query(ge=0, le=2**53)] = 0,
        limit: Annotated[int, Query(ge=1, le=100)] = 20,
    ) -> RecordPage:
        view = await desk.database.read(lambda session: store.load(session, actor.project, ref))
        path = desk.storage.path(_written(view, view.content))
        return await asyncio.to_thread(page_of, path, offset=offset, limit=limit)

    @router.get("/{ref}/statistics")
    async def statistics(ref: str, actor: Actor = reader) -> DatasetStatistics:
        view = await desk.database.read(lambda session: store.load(session, actor.project, ref))
        path = desk.storage.path(_written(view, view.statistics))
        return DatasetStatistics.model_validate_json(await asyncio.to_thread(path.read_bytes))

    @router.delete("/{ref}")
    async def delete(ref: str, actor: Actor = writer, confirm: Literal["DELETE"] | None = None) -> DatasetView:
        if confirm is None:
            raise InvalidRequest(
                "deleting a dataset cannot be undone: say confirm=DELETE", code="confirm_missing", param="confirm"
            )
        return await desk.drop(actor, ref)

    @router.post("/{ref}/restore")
    async def restore(ref: str, wish: Wish = wisher) -> DatasetView:
        project = wish.actor.project
        view = await desk.gate.once(wish, DatasetView, lambda tx: removal.restore(tx, project, ref))
        desk.changed()
        return view

    @router.post("/{ref}/withdraw")
    async def withdraw(ref: str, body: WithdrawRequest, wish: Wish = wisher) -> DatasetView:
        actor = wish.actor

        def work(tx: Transaction) -> DatasetView:
            return withdrawal.withdraw(tx, actor.project, ref, by=actor.user, reason=body.reason)

        view = await desk.gate.once(wish, DatasetView, work)
        desk.changed()
        return view

    return router


async def small_body(request: Request) -> bytes:
    """A body of JSON.

    Raises:
        InvalidRequest, TooLarge: it is something else, or more than a description of a source.
    """
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
        raise InvalidRequest("send the file as multipart, or JSON that names a source", code="file_missing",
                             param="file")  # fmt: skip
    found = bytearray()
    async for piece in request.stream():
        found += piece
        if len(found) > MAX_NAMED_BYTES:
            raise TooLarge(f"what names a source has at most {MAX_NAMED_BYTES:,} bytes")
    return bytes(found)


def _options(task: str | None, notify: str | None) -> TaskOptions:
    try:
        given = json.loads(task) if task else {}
        told = {"notify": json.loads(notify)} if notify else {}
    except ValueError as fault:
        raise InvalidRequest(f"task and notify are JSON objects: {fault}", code="invalid_json", param="task") from fault
    if not isinstance(given, dict):
        raise InvalidRequest("task is a JSON object of options", code="invalid_json", param="task")
    return TaskOptions.model_validate({**given, **told})


def _whole(view: DatasetView, error: ErrorBody) -> BadRecord:
    """What is wrong with a file of which no record was looked at."""
    reason, _, remedy = error.message.rpartition("; ")
    again = "correct the file, or what it comes from, and ingest it again"
    return BadRecord(
        file=view.filename, code=error.code, reason=reason or error.message, remedy=remedy if reason else again
    )


def _written(view: DatasetView, url: str | None) -> str:
    """The URL of what ingest writes when a dataset gets ready."""
    if url is None and view.state is DatasetState.READY:
        raise NotFound(f"of dataset {view.name} none were made; prepare it again", code="statistics_not_found")
    if url is None:
        raise Conflict(f"dataset {view.name} is {view.state}; there are records when it is ready", code="not_ready")
    return url


def _view(view: DatasetView) -> dict[str, Any]:
    return view.model_dump(mode="json")


async def _chunks(upload: UploadFile) -> AsyncIterator[bytes]:
    while chunk := await upload.read(CHUNK):
        yield chunk
