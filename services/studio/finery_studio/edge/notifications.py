"""Topics, subscriptions and deliveries over HTTP, forwarded to the notifier; and the two links that need no key."""

from html import escape
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Query, Response
from fastapi.responses import HTMLResponse
from pydantic import BaseModel, Field

from finery_contracts.access import Actor, Role
from finery_contracts.errors import FineryError
from finery_contracts.model import Request, UtcTime
from finery_contracts.notification_requests import MAX_OVERLAP_S, SubscriptionRequest, TopicRequest
from finery_contracts.notifications import Unsubscribing
from finery_studio.edge.auth import Gate
from finery_studio.edge.forward import Ask, Free, PageSize, carried_out
from finery_studio.edge.wishes import Wish

Shown = Annotated[Literal["waiting", "delivered", "dead"] | None, Query(description="only those in this state")]
PAGE = """<!doctype html><html lang="en"><head><meta charset="utf-8"><meta name="robots" content="noindex">
<title>Finery</title></head><body><p>{text}</p>{form}</body></html>"""
FORM = '<form method="post"><button type="submit">Unsubscribe</button></form>'
QUIET = {"Referrer-Policy": "no-referrer", "Cache-Control": "no-store"}


class Rotation(Request):
    """How long the old secret signs beside the new one."""

    overlap_s: float = Field(default=86_400.0, ge=0, le=MAX_OVERLAP_S)


class Again(Request):
    """What to send once more."""

    since: UtcTime
    state: Literal["dead", "delivered", "all"] = "dead"


class Since(Request):
    """From when on."""

    since: UtcTime


def routes(gate: Gate, ask: Ask) -> APIRouter:
    """Everything a project's key may ask of the notifier."""
    router = APIRouter(prefix="/api/v1", tags=["notifications"])
    _topics(router, gate, ask)
    _subscriptions(router, gate, ask)
    _care(router, gate, ask)
    _deliveries(router, gate, ask)
    return router


def link_routes(ask: Ask) -> APIRouter:
    """The links in messages: no key needed, the token is the right."""
    router = APIRouter(tags=["notifications"])

    @router.get("/confirm/{token}", response_class=HTMLResponse)
    @router.post("/confirm/{token}", response_class=HTMLResponse)
    async def confirm(token: str) -> Response:
        try:
            await ask("notifier", "subscription.confirm", Free({"token": token}), None)
        except FineryError as fault:
            return _page(f"Not confirmed ({fault.error_code}).", status=fault.status)
        return _page("The subscription is confirmed. You can close this page.")

    @router.get("/unsubscribe/{token}", response_class=HTMLResponse)
    async def before_unsubscribing(token: str) -> Response:
        return await _unsubscribe(ask, "subscription.unsubscribing", token)

    @router.post("/unsubscribe/{token}", response_class=HTMLResponse)
    async def unsubscribe(token: str) -> Response:
        """RFC 8058: mail programs post here with one click."""
        return await _unsubscribe(ask, "subscription.unsubscribe", token)

    return router


async def _unsubscribe(ask: Ask, verb: str, token: str) -> Response:
    try:
        told = Unsubscribing.model_validate(await ask("notifier", verb, Free({"token": token}), None))
    except FineryError as fault:
        return _page(f"This link does not work ({fault.error_code}).", status=fault.status)
    if told.state == "unsubscribed":
        return _page(f"{told.to} hears no more of the topic {told.topic}.")
    return _page(f"Shall {told.to} hear no more of the topic {told.topic}?", form=FORM)


def _page(text: str, *, status: int = 200, form: str = "") -> Response:
    return HTMLResponse(PAGE.format(text=escape(text), form=form), status, headers=QUIET)


def _topics(router: APIRouter, gate: Gate, ask: Ask) -> None:
    reader = Depends(gate.needs(Role.READ))
    writer = Depends(gate.needs(Role.COMMON))
    wisher = gate.wishes(Role.COMMON)

    @router.post("/topics", status_code=201)
    async def add_topic(body: TopicRequest, wish: Wish = wisher) -> Any:
        return await _wished(gate, ask, wish, "topic.create", body)

    @router.get("/topics")
    async def list_topics(actor: Actor = reader, limit: PageSize = 20, after: str | None = None) -> Any:
        return await ask("notifier", "topic.list", Free({"limit": limit, "after": after}), actor)

    @router.delete("/topics/{ref}")
    async def delete_topic(ref: str, actor: Actor = writer) -> Any:
        return await ask("notifier", "topic.delete", Free({"topic": ref}), actor)


def _subscriptions(router: APIRouter, gate: Gate, ask: Ask) -> None:
    reader = Depends(gate.needs(Role.READ))
    writer = Depends(gate.needs(Role.COMMON))
    wisher = gate.wishes(Role.COMMON)

    @router.post("/subscriptions", status_code=201)
    async def subscribe(body: SubscriptionRequest, wish: Wish = wisher) -> Any:
        return await _wished(gate, ask, wish, "subscription.create", body, keep=False)

    @router.get("/subscriptions")
    async def list_subscriptions(actor: Actor = reader, limit: PageSize = 20, after: str | None = None) -> Any:
        return await ask("notifier", "subscription.list", Free({"limit": limit, "after": after}), actor)

    @router.get("/subscriptions/{ref}")
    async def subscription(ref: str, actor: Actor = reader) -> Any:
        return await ask("notifier", "subscription.get", Free({"subscription": ref}), actor)

    @router.delete("/subscriptions/{ref}")
    async def delete_subscription(ref: str, actor: Actor = writer) -> Any:
        return await ask("notifier", "subscription.delete", Free({"subscription": ref}), actor)


def _care(router: APIRouter, gate: Gate, ask: Ask) -> None:
    wisher = gate.wishes(Role.COMMON)

    @router.post("/subscriptions/{ref}/enable")
    async def enable(ref: str, wish: Wish = wisher) -> Any:
        return await _wished(gate, ask, wish, "subscription.enable", Free({"subscription": ref}))

    @router.post("/subscriptions/{ref}/rotate")
    async def rotate(ref: str, body: Rotation | None = None, wish: Wish = wisher) -> Any:
        wanted = {"subscription": ref, "overlap_s": (body or Rotation()).overlap_s}
        return await _wished(gate, ask, wish, "subscription.rotate", Free(wanted), keep=False)

    @router.post("/subscriptions/{ref}/redeliver")
    async def redeliver_since(ref: str, body: Again, wish: Wish = wisher) -> Any:
        wanted = {"subscription": ref, **body.model_dump(mode="json")}
        return await _wished(gate, ask, wish, "subscription.redeliver", Free(wanted))

    @router.post("/subscriptions/{ref}/backfill")
    async def backfill(ref: str, body: Since, wish: Wish = wisher) -> Any:
        wanted = {"subscription": ref, **body.model_dump(mode="json")}
        return await _wished(gate, ask, wish, "subscription.backfill", Free(wanted))


def _deliveries(router: APIRouter, gate: Gate, ask: Ask) -> None:
    reader = Depends(gate.needs(Role.READ))
    wisher = gate.wishes(Role.COMMON)

    @router.get("/subscriptions/{ref}/deliveries")
    async def deliveries(
        ref: str, actor: Actor = reader, limit: PageSize = 20, after: str | None = None, state: Shown = None
    ) -> Any:
        wanted = {"subscription": ref, "limit": limit, "after": after, "state": state}
        return await ask("notifier", "delivery.list", Free(wanted), actor)

    @router.get("/deliveries/{ref}")
    async def delivery(ref: str, actor: Actor = reader) -> Any:
        return await ask("notifier", "delivery.get", Free({"delivery": ref}), actor)

    @router.post("/deliveries/{ref}/redeliver")
    async def redeliver(ref: str, wish: Wish = wisher) -> Any:
        return await _wished(gate, ask, wish, "delivery.redeliver", Free({"delivery": ref}))


async def _wished(
    gate: Gate, ask: Ask, wish: Wish, verb: str, body: BaseModel, *, keep: bool = True
) -> Any:  # fmt: skip
    """Ask the notifier under the wish's key; without ``keep`` studio does not store the answer: it holds a secret."""
    return await carried_out(gate, wish, lambda: ask.once("notifier", verb, body, wish), keep=keep)
