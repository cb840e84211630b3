"""Routes of connections. What opens one is taken in and never given out."""

from typing import Any, Literal

from fastapi import APIRouter, Depends

from finery_contracts.access import Actor, Role
from finery_contracts.connections import ConnectionRequest, ConnectionView
from finery_contracts.errors import InvalidRequest
from finery_kit.db import Database
from finery_studio.connections import store
from finery_studio.connections.handlers import ConnectionDesk
from finery_studio.edge.auth import Gate
from finery_studio.edge.wishes import Wish


def routes(gate: Gate, database: Database, desk: ConnectionDesk) -> APIRouter:
    """``/api/v1/connections``."""
    router = APIRouter(prefix="/api/v1/connections", tags=["connections"])
    reader, owner = Depends(gate.needs(Role.READ)), Depends(gate.needs(Role.FULL))
    maker = gate.wishes(Role.FULL)

    @router.get("")
    async def list_all(actor: Actor = reader) -> dict[str, Any]:
        found = await database.read(lambda session: store.of_project(session, actor.project))
        return {"data": [view.model_dump(mode="json") for view in found], "has_more": False, "next": None}

    @router.get("/{ref}")
    async def one(ref: str, actor: Actor = reader) -> ConnectionView:
        return await database.read(lambda session: store.view_of(store.load(session, actor.project, ref)))

    @router.post("", status_code=201)
    async def register(body: ConnectionRequest, wish: Wish = maker) -> ConnectionView:
        parts = await desk.taken_apart(body)
        return await gate.once(
            wish, ConnectionView, lambda tx: desk.register(tx, body, parts, actor=wish.actor)
        )  # fmt: skip

    @router.delete("/{ref}")
    async def delete(ref: str, actor: Actor = owner, confirm: Literal["DELETE"] | None = None) -> dict[str, Any]:
        if confirm is None:
            raise InvalidRequest(
                "what opens a connection is gone with it: say confirm=DELETE", code="confirm_missing", param="confirm"
            )
        gone = await database.write(lambda tx: desk.delete(tx, ref, actor))
        return {"id": gone.id, "deleted": True}

    return router
