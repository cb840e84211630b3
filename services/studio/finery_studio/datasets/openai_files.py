"""OpenAI's files, which are datasets under another name."""

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Form, Query, UploadFile
from fastapi.responses import FileResponse

from finery_contracts.access import Actor, Role
from finery_contracts.datasets import DatasetState, DatasetView
from finery_contracts.errors import Conflict, InvalidRequest, NotFound
from finery_contracts.ids import finery_id, openai_id
from finery_studio.datasets import store
from finery_studio.datasets.http import DatasetRoutes
from finery_studio.edge.answers import openai_page
from finery_studio.edge.wishes import Wish

PURPOSES = ("fine-tune", "evals", "user_data", "assistants", "batch", "vision")


def routes(desk: DatasetRoutes) -> APIRouter:
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
        return openai_page([file_object(view, brief=True) for view in found], limit)

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
        await desk.drop(actor, view.id, restorable_hours=desk.restore_hours)
        return {"id": file_id, "object": "file", "deleted": True}

    return router


def file_object(view: DatasetView, *, brief: bool = False) -> dict[str, Any]:
    """A dataset as OpenAI's file; ``brief`` in lists, with the first of many errors alone."""
    status = {DatasetState.READY: "processed"}.get(view.state, "uploaded" if view.state.pending else "error")
    error = view.error.brief() if view.error and brief else view.error
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
            "errors": error.details if error else [],
        },
    }
