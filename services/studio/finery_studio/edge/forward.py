"""Nouns of other owners: authenticate here, ask the owner over the bus, answer what it answers."""

import contextlib
import json
from collections.abc import Awaitable, Callable
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query, Response
from pydantic import BaseModel, RootModel

from finery_contracts.access import Actor, Role
from finery_contracts.deployments import DeployCommand, DeploymentCommand, DeploymentView, DeployRequest, ServableModel
from finery_contracts.errors import FineryError, NotFound
from finery_kit.bus import RPC_TIMEOUT_S
from finery_kit.idempotency import release, reserve
from finery_studio.edge.auth import Gate
from finery_studio.edge.wishes import Wish

PageSize = Annotated[int, Query(ge=1, le=100)]
Resolve = Callable[[DeployRequest, Actor], Awaitable[DeployCommand]]
Servable = Callable[[str, str], Awaitable[ServableModel]]
"""A model (reference, project) as it may be served, after its files were checked."""
WARNING_HEADER = "X-Finery-Warning"


class Anything(RootModel[Any]):
    """A JSON value that is passed on as it is."""


class Free(RootModel[dict[str, Any]]):
    """A request body put together here."""


class Ask:
    """``await ask(owner, verb, body, actor)`` over the bus; set once the connection is there."""

    def __init__(self, send: Callable[..., Awaitable[Any]]) -> None:
        self._send = send

    async def __call__(
        self, owner: str, verb: str, body: BaseModel | None, actor: Actor | None, *, timeout_s: float = RPC_TIMEOUT_S
    ) -> Any:
        answer: Anything = await self._send(owner, verb, body, Anything, actor=actor, timeout_s=timeout_s)
        return answer.root

    async def once(self, owner: str, verb: str, body: BaseModel | None, wish: Wish) -> Any:
        """The same for a wish: its key goes along, and the owner stores it with the effect."""
        asked = wish.asked
        key, digest = (asked.key, asked.digest) if asked is not None else (None, None)
        answer: Anything = await self._send(
            owner, verb, body, Anything, actor=wish.actor, idempotency_key=key, digest=digest
        )
        return answer.root


async def all_deployments(ask: Ask, actor: Actor) -> list[DeploymentView]:
    """Every deployment of the project, page by page."""
    found, after = list[DeploymentView](), None
    while True:
        answer = await ask("deployer", "list", Free({"limit": 100, "after": after}), actor)
        found += [DeploymentView.model_validate(item) for item in answer["data"]]
        after = answer.get("next")
        if not answer.get("has_more") or after is None:
            return found


async def carried_out(gate: Gate, wish: Wish, send: Callable[[], Awaitable[Any]], *, keep: bool = True) -> Any:
    """What the owner answers to a wish. Studio remembers which request the key belongs to, so that no other route takes
    it, and the answer; without ``keep`` (it holds a secret) the owner is asked again for it.

    A refusal gives the key back. After any other fault nobody knows what the owner did: the key stays with this
    request, and the owner answers when it comes again.
    """
    asked = wish.asked
    if asked is None:
        return await send()
    told = await gate.database.write(lambda tx: reserve(tx, asked))
    if told is not None:
        return json.loads(told)
    try:
        answer = await send()
    except FineryError as fault:
        if fault.status < 500 and fault.error_code != "request_in_progress":
            await gate.database.write(lambda tx: release(tx, asked))
        raise
    return await gate.settled(wish, answer) if keep else answer


def routes(gate: Gate, ask: Ask, resolve: Resolve, servable: Servable) -> APIRouter:
    """Deployments and bills; notifications have a file of their own."""
    router = APIRouter(prefix="/api/v1")
    _deployments(router, gate, ask, resolve, servable)
    return router


def _deployments(router: APIRouter, gate: Gate, ask: Ask, resolve: Resolve, servable: Servable) -> None:
    reader = Depends(gate.needs(Role.READ))
    writer = Depends(gate.needs(Role.COMMON))
    wisher = gate.wishes(Role.COMMON)

    async def told(verb: str, body: BaseModel, wish: Wish) -> dict[str, Any]:
        return DeploymentView.model_validate(await ask.once("deployer", verb, body, wish)).model_dump(mode="json")

    async def command(verb: str, ref: str, wish: Wish) -> DeploymentView:
        made = await carried_out(gate, wish, lambda: told(verb, DeploymentCommand(deployment=ref), wish))
        return DeploymentView.model_validate(made)

    @router.post("/deployments", status_code=201, tags=["deployments"])
    async def deploy(body: DeployRequest, response: Response, wish: Wish = wisher) -> DeploymentView:
        async def send() -> Any:
            command = await resolve(body, wish.actor)
            _warn(response, command.model.warnings)
            return await told("create", command, wish)

        return DeploymentView.model_validate(await carried_out(gate, wish, send))

    @router.get("/deployments", tags=["deployments"])
    async def list_deployments(actor: Actor = reader, limit: PageSize = 20, after: str | None = None) -> Any:
        return await ask("deployer", "list", Free({"limit": limit, "after": after}), actor)

    @router.get("/deployments/{ref}", tags=["deployments"])
    async def one(ref: str, actor: Actor = reader) -> DeploymentView:
        return DeploymentView.model_validate(await ask("deployer", "get", DeploymentCommand(deployment=ref), actor))

    @router.post("/deployments/{ref}/start", tags=["deployments"])
    async def start(ref: str, response: Response, wish: Wish = wisher) -> DeploymentView:
        found = DeploymentView.model_validate(
            await ask("deployer", "get", DeploymentCommand(deployment=ref), wish.actor)
        )
        with contextlib.suppress(NotFound):  # its model was deleted meanwhile: the deployer decides
            _warn(response, (await servable(found.model, wish.actor.project)).warnings)
        return await command("start", ref, wish)

    @router.post("/deployments/{ref}/stop", tags=["deployments"])
    async def stop(ref: str, wish: Wish = wisher) -> DeploymentView:
        return await command("stop", ref, wish)

    @router.delete("/deployments/{ref}", tags=["deployments"])
    async def delete(ref: str, actor: Actor = writer) -> DeploymentView:
        return DeploymentView.model_validate(await ask("deployer", "delete", DeploymentCommand(deployment=ref), actor))


def _warn(response: Response, warnings: list[str]) -> None:
    if warnings:
        response.headers[WARNING_HEADER] = " ".join("; ".join(warnings).split()).encode("ascii", "replace").decode()


__all__ = ["Anything", "Ask", "carried_out", "routes"]
