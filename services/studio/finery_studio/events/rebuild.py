"""``/api/v1/bus/rebuild``: the operator has every owner refill what the bus lost, and sees how far they are."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from fastapi import APIRouter, Depends
from pydantic import BaseModel

from finery_contracts.access import Actor, Role
from finery_contracts.errors import FineryError
from finery_contracts.rebuild import RebuildPage, RebuildState
from finery_studio.edge.auth import Gate
from finery_studio.edge.forward import carried_out
from finery_studio.edge.wishes import Wish

OWNERS = ("studio", "deployer", "notifier", "billing-meter", "gateway")
AskOwner = Callable[[str, str, BaseModel | None, Actor | None], Awaitable[Any]]


def routes(gate: Gate, ask: AskOwner) -> APIRouter:
    """Begin, and look."""
    router = APIRouter(prefix="/api/v1/bus", tags=["operations"])
    operator = Depends(gate.needs(Role.OPERATOR))
    wisher = gate.wishes(Role.OPERATOR)

    async def all_owners(verb: str, actor: Actor) -> RebuildPage:
        states = await asyncio.gather(*(_one(ask, owner, verb, actor) for owner in OWNERS))
        done = all(not state.running and not state.waiting and state.error is None for state in states)
        return RebuildPage(data=list(states), done=done)

    @router.post("/rebuild", status_code=202)
    async def rebuild(wish: Wish = wisher) -> RebuildPage:
        async def send() -> dict[str, Any]:
            return (await all_owners("rebuild", wish.actor)).model_dump(mode="json")

        return RebuildPage.model_validate(await carried_out(gate, wish, send))

    @router.get("/rebuild")
    async def rebuild_state(actor: Actor = operator) -> RebuildPage:
        return await all_owners("rebuild.state", actor)

    return router


async def _one(ask: AskOwner, owner: str, verb: str, actor: Actor) -> RebuildState:
    try:
        return RebuildState.model_validate(await ask(owner, verb, None, actor))
    except FineryError as fault:  # one that is away does not keep the others from it
        return RebuildState(owner=owner, error=fault.error_code)
