"""Routes of uploads: tus 1.0, with our own views beside its headers.

A tus client needs the project's key and nothing else. Bodies are never held in memory.
"""

from collections.abc import Awaitable, Callable
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query, Request, Response
from fastapi.responses import JSONResponse
from fastapi.routing import APIRoute
from starlette.datastructures import Headers
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Receive, Scope, Send

from finery_contracts.access import Actor, Role
from finery_contracts.errors import FineryError, TooLarge
from finery_contracts.uploads import UploadView
from finery_kit.db import Database, Transaction
from finery_studio.edge.answers import error_answer, page
from finery_studio.edge.auth import Gate
from finery_studio.edge.wishes import KEY_HEADER, Wish
from finery_studio.uploads import protocol, store
from finery_studio.uploads.handlers import UploadDesk

MAX_KEYED_BYTES = 2**20
METHODS = ("PATCH", "HEAD", "DELETE")
BODY = {"requestBody": {"content": {protocol.BYTES: {"schema": {"type": "string", "format": "binary"}}}}}


class TusRoute(APIRoute):
    """Errors, too, say which version of the protocol is spoken."""

    def get_route_handler(self) -> Callable[[Request], Awaitable[Response]]:
        """See FastAPI."""
        handle = super().get_route_handler()

        async def answer(request: Request) -> Response:
            try:
                return await handle(request)
            except FineryError as fault:
                return error_answer(fault, **{"Tus-Resumable": protocol.VERSION, "Tus-Version": protocol.VERSION})

        return answer


class MeantMethod:
    """A client that can only GET and POST says in X-HTTP-Method-Override which method it means, as tus asks."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ASGI."""
        if scope["type"] == "http" and scope["method"] == "POST" and scope["path"].startswith(f"{store.PATH}/"):
            meant = Headers(scope=scope).get("x-http-method-override", "POST").upper()
            scope = {**scope, "method": meant if meant in METHODS else "POST"}
        await self.app(scope, receive, send)


async def small_under_a_key(request: Request) -> None:
    """A request under an Idempotency-Key is compared byte by byte, so it is read whole: it must be small.

    Raises:
        TooLarge: it is not.
    """
    if KEY_HEADER not in request.headers:
        return
    found = bytearray()
    async for piece in request.stream():
        found += piece
        if len(found) > MAX_KEYED_BYTES:
            raise TooLarge(f"under an {KEY_HEADER} the first piece has at most {MAX_KEYED_BYTES:,} bytes; use PATCH")
    request._body = bytes(found)  # pyright: ignore[reportPrivateUsage] - so that others find it read


def routes(gate: Gate, database: Database, desk: UploadDesk) -> APIRouter:
    """``/api/v1/uploads``."""
    router = APIRouter(prefix=store.PATH, tags=["uploads"], route_class=TusRoute)
    writer = Depends(gate.needs(Role.COMMON))
    small = Depends(small_under_a_key)
    wisher = gate.wishes(Role.COMMON)

    @router.options("", status_code=204)
    async def options() -> Response:
        return Response(status_code=204, headers=protocol.options(desk.max_bytes))

    @router.post("", status_code=201, openapi_extra=BODY, response_model=UploadView)
    async def create(request: Request, _: None = small, wish: Wish = wisher) -> Response:
        headers = request.headers
        protocol.check_version(headers)
        size, metadata = protocol.length_of(headers, desk.max_bytes), protocol.metadata_of(headers)
        checksum = protocol.checksum_of(headers)
        with_bytes = headers.get("content-type", "").startswith(protocol.BYTES)

        def make(tx: Transaction) -> dict[str, Any]:
            return desk.create(tx, size, metadata, actor=wish.actor).model_dump(mode="json")

        view = UploadView.model_validate(await gate.once(wish, dict[str, Any], make))
        if with_bytes:
            view = await desk.receive(view.project, view.id, request.stream(), offset=0, checksum=checksum)
            await gate.settled(wish, view.model_dump(mode="json"))
        told = {**protocol.told(view), "Location": view.location}
        return JSONResponse(view.model_dump(mode="json"), 201, headers=told)

    @router.patch("/{upload_id}", status_code=204, openapi_extra=BODY)
    async def send(upload_id: str, request: Request, actor: Actor = writer) -> Response:
        protocol.check_version(request.headers)
        protocol.check_media(request.headers)
        offset, checksum = protocol.offset_of(request.headers), protocol.checksum_of(request.headers)
        try:
            view = await desk.receive(actor.project, upload_id, request.stream(), offset=offset, checksum=checksum)
        except (ClientDisconnect, TimeoutError):
            return Response(status_code=408, headers={"Tus-Resumable": protocol.VERSION})
        return Response(status_code=204, headers=protocol.told(view))

    @router.delete("/{upload_id}", status_code=204)
    async def terminate(upload_id: str, request: Request, actor: Actor = writer) -> Response:
        protocol.check_version(request.headers)
        await desk.drop(actor.project, upload_id)
        return Response(status_code=204, headers={"Tus-Resumable": protocol.VERSION})

    _reads(router, gate, database)
    return router


def _reads(router: APIRouter, gate: Gate, database: Database) -> None:
    reader = Depends(gate.needs(Role.READ))

    async def load(actor: Actor, upload_id: str) -> UploadView:
        return store.view_of(await database.read(lambda session: store.load(session, actor.project, upload_id)))

    @router.head("/{upload_id}")
    async def offset(upload_id: str, request: Request, actor: Actor = reader) -> Response:
        protocol.check_version(request.headers)
        return Response(headers=protocol.told(await load(actor, upload_id)))

    @router.get("/{upload_id}")
    async def one(upload_id: str, actor: Actor = reader) -> UploadView:
        return await load(actor, upload_id)

    @router.get("")
    async def list_all(
        actor: Actor = reader, limit: Annotated[int, Query(ge=1, le=100)] = 20, after: str | None = None
    ) -> dict[str, Any]:
        return page(
            await database.read(lambda s: store.list_uploads(s, actor.project, limit=limit + 1, after=after)), limit
        )
