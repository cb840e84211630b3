"""Routes of datasets: our own surface and OpenAI's files."""

import json
from collections.abc import AsyncIterator, Callable
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Form, Query, Request, UploadFile
from fastapi.responses import FileResponse
from sqlmodel import Session

from finery_contracts.access import Actor, Role
from finery_contracts.datasets import DatasetState, DatasetView
from finery_contracts.errors import Conflict, InvalidRequest, NotFound, TooLarge
from finery_contracts.ids import finery_id, openai_id
from finery_contracts.options import TaskOptions
from finery_kit.db import Database, Transaction
from finery_kit.storage import CHUNK, Storage
from finery_studio.datasets import handlers, store
from finery_studio.edge.answers import openai_page, page
from finery_studio.edge.auth import Gate
from finery_studio.edge.wishes import Wish
from finery_studio.uploads import store as upload_store

MAX_NAMED_BYTES = 2**20
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
PURPOSES = ("fine-tune", "evals", "user_data", "assistants", "batch", "vision")


class DatasetRoutes:
    """What both surfaces need."""

    def __init__(
        self, gate: Gate, database: Database, storage: Storage, desk: handlers.DatasetDesk, max_bytes: int,
        changed: Callable[[], None],
    ) -> None:  # fmt: skip
        self.gate, self.database, self.storage, self.desk = gate, database, storage, desk
        self.specs, self.max_bytes, self.changed = desk.specs, max_bytes, changed

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

    async def drop(self, actor: Actor, ref: str) -> DatasetView:
        """Delete; the bytes go when nothing else has them."""
        view = await self.database.write(lambda tx: handlers.delete(tx, actor.project, ref))
        self.changed()
        blob = await self.database.read(lambda session: store.blob_of(session, view.id))
        if blob and not await self.database.read(lambda session: _is_used(session, blob, view.id)):
            self.storage.delete(blob)
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
        stated: Annotated[Literal["auto", "openai", "csv"], Form(alias="format")] = "auto",
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
    async def report(ref: str, actor: Actor = reader) -> FileResponse:
        view = await desk.database.read(lambda session: store.load(session, actor.project, ref))
        if view.report is None:
            raise Conflict(f"dataset {view.name} is {view.state}; its report is not written yet", code="not_ready")
        return FileResponse(desk.storage.path(view.report), media_type="application/x-ndjson")

    @router.delete("/{ref}")
    async def delete(ref: str, actor: Actor = writer) -> DatasetView:
        return await desk.drop(actor, ref)

    return router


def openai_routes(desk: DatasetRoutes) -> APIRouter:
    """``/v1/files``."""
    router = APIRouter(prefix="/v1/files", tags=["OpenAI"])
    reader = Depends(desk.gate.needs(Role.READ))
    writer = Depends(desk.gate.needs(Role.COMMON))
    wisher = desk.gate.wishes(Role.COMMON)

    async def load(actor: Actor, file_id: str) -> DatasetView:
        ref = finery_id(file_id, "ds")
        try:
            return await desk.database.read(lambda session: store.load(session, actor.project, ref))
        except NotFound as fault:
            raise NotFound(f"No such File object: {file_id}", code="file_not_found", param="id") from fault

    @router.post("")
    async def create(file: UploadFile, purpose: Annotated[str, Form()], wish: Wish = wisher) -> dict[str, Any]:
        if purpose not in PURPOSES:
            raise InvalidRequest(
                f"{purpose!r} is not a purpose; use one of {', '.join(PURPOSES)}", code="invalid_purpose",
                param="purpose",
            )  # fmt: skip
        return await desk.take(file, wish, file_object, purpose=purpose)

    @router.get("")
    async def list_files(
        actor: Actor = reader,
        limit: Annotated[int, Query(ge=1, le=10_000)] = 10_000,
        after: str | None = None,
        purpose: str | None = None,
        order: Literal["asc", "desc"] = "desc",
    ) -> dict[str, Any]:
        found = await desk.database.read(
            lambda session: store.list_datasets(
                session, actor.project, purpose=purpose, limit=limit + 1, ascending=order == "asc",
                after=finery_id(after, "ds") if after else None,
            )
        )  # fmt: skip
        return openai_page([file_object(view) for view in found], limit)

    @router.get("/{file_id}")
    async def retrieve(file_id: str, actor: Actor = reader) -> dict[str, Any]:
        return file_object(await load(actor, file_id))

    @router.get("/{file_id}/content")
    async def content(file_id: str, actor: Actor = reader) -> FileResponse:
        view = await load(actor, file_id)
        blob = await desk.database.read(lambda session: store.blob_of(session, view.id))
        if not blob:
            raise Conflict(
                f"the bytes of {view.name} lie where they were fetched from; its records are in the dataset",
                code="bytes_elsewhere", param="id",
            )  # fmt: skip
        return FileResponse(desk.storage.path(blob), filename=view.filename, media_type="application/octet-stream")

    @router.delete("/{file_id}")
    async def delete(file_id: str, actor: Actor = writer) -> dict[str, Any]:
        view = await load(actor, file_id)
        await desk.drop(actor, view.id)
        return {"id": file_id, "object": "file", "deleted": True}

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


def file_object(view: DatasetView) -> dict[str, Any]:
    """A dataset as OpenAI's file."""
    status = {DatasetState.UPLOADED: "uploaded", DatasetState.READY: "processed"}.get(view.state, "error")
    return {
        "id": openai_id(view.id, "file"),
        "object": "file",
        "bytes": view.size_bytes,
        "created_at": int(view.created_at.timestamp()),
        "expires_at": None,
        "filename": view.filename,
        "purpose": view.purpose,
        "status": status,
        "status_details": view.error.message if view.error else None,
        "x_finery": {
            "dataset": view.id,
            "task": view.task,
            "records": view.records,
            "warnings": view.warnings,
            "errors": view.error.details if view.error else [],
        },
    }


def _options(task: str | None, notify: str | None) -> TaskOptions:
    try:
        given = json.loads(task) if task else {}
        told = {"notify": json.loads(notify)} if notify else {}
    except ValueError as fault:
        raise InvalidRequest(f"task and notify are JSON objects: {fault}", code="invalid_json", param="task") from fault
    if not isinstance(given, dict):
        raise InvalidRequest("task is a JSON object of options", code="invalid_json", param="task")
    return TaskOptions.model_validate({**given, **told})


def _is_used(session: Session, blob: str, except_id: str) -> bool:
    return store.blob_is_used(session, blob, except_id) or upload_store.waits_for_use(session, blob)


def _view(view: DatasetView) -> dict[str, Any]:
    return view.model_dump(mode="json")


async def _chunks(upload: UploadFile) -> AsyncIterator[bytes]:
    while chunk := await upload.read(CHUNK):
        yield chunk
