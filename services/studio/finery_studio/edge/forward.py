"""Nouns of other owners: authenticate here, ask the owner over the bus, answer what it answers."""

from collections.abc import Awaitable, Callable
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query, Request
from fastapi.responses import HTMLResponse
from pydantic import BaseModel, RootModel

from finery_contracts.access import Actor, Role
from finery_contracts.deployments import DeployCommand, DeploymentCommand, DeploymentView, DeployRequest
from finery_contracts.errors import FineryError
from finery_contracts.notification_requests import SubscriptionRequest, TopicRequest
from finery_studio.edge.auth import Gate

PageSize = Annotated[int, Query(ge=1, le=100)]
Resolve = Callable[[DeployRequest, Actor], Awaitable[DeployCommand]]


class Anything(RootModel[Any]):
    """A JSON value that is passed on as it is."""


class Free(RootModel[dict[str, Any]]):
    """A request body put together here."""


class Ask:
    """``await ask(owner, verb, body, actor)`` over the bus; set once the connection is there."""

    def __init__(self, send: Callable[..., Awaitable[Any]]) -> None:
        self._send = send

    async def __call__(self, owner: str, verb: str, body: BaseModel | None, actor: Actor | None) -> Any:
        answer: Anything = await self._send(owner, verb, body, Anything, actor=actor)
        return answer.root


def routes(gate: Gate, ask: Ask, resolve: Resolve) -> APIRouter:
    """Deployments, topics, subscriptions, bills."""
    router = APIRouter(prefix="/api/v1")
    _deployments(router, gate, ask, resolve)
    _notifications(router, gate, ask)
    _bills(router, gate, ask)
    return router


def confirmation_routes(ask: Ask) -> APIRouter:
    """The link in a confirmation: no key needed, the token is the secret."""
    router = APIRouter(tags=["notifications"])

    @router.get("/confirm/{token}", response_class=HTMLResponse)
    @router.post("/confirm/{token}", response_class=HTMLResponse)
    async def confirm(token: str) -> HTMLResponse:
        try:
            await ask("notifier", "subscription.confirm", Free({"token": token}), None)
        except FineryError as fault:
            return HTMLResponse(f"<p>Not confirmed ({fault.error_code}).</p>", fault.status)
        return HTMLResponse("<p>The subscription is confirmed. You can close this page.</p>")

    return router


def _deployments(router: APIRouter, gate: Gate, ask: Ask, resolve: Resolve) -> None:
    reader = Depends(gate.needs(Role.READ))
    writer = Depends(gate.needs(Role.COMMON))

    @router.post("/deployments", status_code=201, tags=["deployments"])
    async def deploy(body: DeployRequest, actor: Actor = writer) -> DeploymentView:
        return DeploymentView.model_validate(await ask("deployer", "create", await resolve(body, actor), actor))

    @router.get("/deployments", tags=["deployments"])
    async def list_deployments(actor: Actor = reader, limit: PageSize = 20, after: str | None = None) -> Any:
        return await ask("deployer", "list", Free({"limit": limit, "after": after}), actor)

    @router.get("/deployments/{ref}", tags=["deployments"])
    async def one(ref: str, actor: Actor = reader) -> DeploymentView:
        return DeploymentView.model_validate(await ask("deployer", "get", DeploymentCommand(deployment=ref), actor))

    @router.post("/deployments/{ref}/start", tags=["deployments"])
    async def start(ref: str, actor: Actor = writer) -> DeploymentView:
        return DeploymentView.model_validate(await ask("deployer", "start", DeploymentCommand(deployment=ref), actor))

    @router.post("/deployments/{ref}/stop", tags=["deployments"])
    async def stop(ref: str, actor: Actor = writer) -> DeploymentView:
        return DeploymentView.model_validate(await ask("deployer", "stop", DeploymentCommand(deployment=ref), actor))

    @router.delete("/deployments/{ref}", tags=["deployments"])
    async def delete(ref: str, actor: Actor = writer) -> DeploymentView:
        return DeploymentView.model_validate(await ask("deployer", "delete", DeploymentCommand(deployment=ref), actor))


def _notifications(router: APIRouter, gate: Gate, ask: Ask) -> None:
    reader = Depends(gate.needs(Role.READ))
    writer = Depends(gate.needs(Role.COMMON))

    @router.post("/topics", status_code=201, tags=["notifications"])
    async def add_topic(body: TopicRequest, actor: Actor = writer) -> Any:
        return await ask("notifier", "topic.create", body, actor)

    @router.get("/topics", tags=["notifications"])
    async def list_topics(actor: Actor = reader, limit: PageSize = 20, after: str | None = None) -> Any:
        return await ask("notifier", "topic.list", Free({"limit": limit, "after": after}), actor)

    @router.delete("/topics/{ref}", tags=["notifications"])
    async def delete_topic(ref: str, actor: Actor = writer) -> Any:
        return await ask("notifier", "topic.delete", Free({"topic": ref}), actor)

    @router.post("/subscriptions", status_code=201, tags=["notifications"])
    async def subscribe(body: SubscriptionRequest, actor: Actor = writer) -> Any:
        return await ask("notifier", "subscription.create", body, actor)

    @router.get("/subscriptions", tags=["notifications"])
    async def list_subscriptions(actor: Actor = reader, limit: PageSize = 20, after: str | None = None) -> Any:
        return await ask("notifier", "subscription.list", Free({"limit": limit, "after": after}), actor)

    @router.get("/subscriptions/{ref}", tags=["notifications"])
    async def subscription(ref: str, actor: Actor = reader) -> Any:
        return await ask("notifier", "subscription.get", Free({"subscription": ref}), actor)

    @router.delete("/subscriptions/{ref}", tags=["notifications"])
    async def unsubscribe(ref: str, actor: Actor = writer) -> Any:
        return await ask("notifier", "subscription.delete", Free({"subscription": ref}), actor)

    @router.get("/subscriptions/{ref}/deliveries", tags=["notifications"])
    async def deliveries(ref: str, actor: Actor = reader, limit: PageSize = 20, after: str | None = None) -> Any:
        return await ask(
            "notifier", "delivery.list", Free({"subscription": ref, "limit": limit, "after": after}), actor
        )


def _bills(router: APIRouter, gate: Gate, ask: Ask) -> None:
    reader = Depends(gate.needs(Role.READ))

    @router.get("/bill", tags=["billing"])
    async def bill(request: Request, actor: Actor = reader) -> Any:
        return await ask("billing-meter", "bill.summary", Free(dict(request.query_params)), actor)

    @router.get("/bill/lines", tags=["billing"])
    async def lines(
        actor: Actor = reader,
        limit: PageSize = 20,
        after: str | None = None,
        noun_id: str | None = None,
    ) -> Any:
        return await ask(
            "billing-meter", "bill.lines", Free({"limit": limit, "after": after, "noun_id": noun_id}), actor
        )

    @router.get("/prices", tags=["billing"])
    async def prices(actor: Actor = reader) -> Any:
        return await ask("billing-meter", "prices", None, actor)


__all__ = ["Anything", "Ask", "confirmation_routes", "routes"]
