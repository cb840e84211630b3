"""Routes of grants: everybody sees them, the role full gives and takes them."""

from typing import Any, Literal

from fastapi import APIRouter, Depends

from finery_contracts.access import Actor, Role
from finery_contracts.errors import InvalidRequest
from finery_contracts.grants import GrantChange, GrantRequest, GrantView
from finery_kit.db import Database
from finery_studio.edge.auth import Gate
from finery_studio.edge.wishes import Wish
from finery_studio.grants import handlers, store


def routes(gate: Gate, database: Database) -> APIRouter:
    """``/api/v1/grants``."""
    router = APIRouter(prefix="/api/v1/grants", tags=["grants"])
    reader, owner = Depends(gate.needs(Role.READ)), Depends(gate.needs(Role.FULL))
    giver = gate.wishes(Role.FULL)

    @router.get("")
    async def list_all(actor: Actor = reader) -> dict[str, Any]:
        found = await database.read(lambda session: store.of_project(session, actor.project))
        living = [grant for grant in found if grant.expires_at is None or grant.expires_at > database.now()]
        return {"data": [grant.model_dump(mode="json") for grant in living], "has_more": False, "next": None}

    @router.get("/{grant_id}")
    async def one(grant_id: str, actor: Actor = reader) -> GrantView:
        return await database.read(lambda session: store.load(session, actor.project, grant_id, now=database.now()))

    @router.post("", status_code=201)
    async def give(body: GrantRequest, wish: Wish = giver) -> GrantView:
        return await gate.once(wish, GrantView, lambda tx: handlers.give(tx, body, wish.actor))

    @router.patch("/{grant_id}")
    async def narrow(grant_id: str, body: GrantChange, actor: Actor = owner) -> GrantView:
        return await database.write(lambda tx: handlers.narrow(tx, grant_id, body, actor=actor))

    @router.delete("/{grant_id}")
    async def withdraw(grant_id: str, actor: Actor = owner) -> dict[str, Any]:
        gone = await database.write(lambda tx: handlers.withdraw(tx, grant_id, actor))
        return {"id": gone.id, "deleted": True}

    @router.delete("")
    async def clear(actor: Actor = owner, confirm: Literal["DELETE"] | None = None) -> dict[str, Any]:
        if confirm is None:
            raise InvalidRequest(
                "clearing all grants cannot be undone: say confirm=DELETE", code="confirm_missing", param="confirm"
            )
        return {"deleted": await database.write(lambda tx: handlers.clear(tx, actor))}

    return router
