"""CloudEvents by HTTP: structured, batched or binary, with the handshake by which a broker asks whether it may deliver.

Source: https://github.com/cloudevents/spec/blob/v1.0.2/cloudevents/http-webhook.md. It refuses to be asked without a
key; the handshake needs none, for it opens nothing.
"""

import json
import re
from collections.abc import Iterable
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Header, Request, Response

from finery_contracts.access import Role
from finery_contracts.errors import FineryError, InvalidRequest, TooLarge, error_of
from finery_kit.db import Transaction
from finery_kit.idempotency import release, reserve, settle
from finery_studio.edge.wishes import Wish
from finery_studio.inbound import cloudevents
from finery_studio.inbound.handlers import Received, receive, refuse
from finery_studio.tasks.http import TaskRoutes

Said = Iterable[tuple[str, str]]
"""Headers as they were sent."""
ORIGIN = re.compile(r"[A-Za-z0-9*]([A-Za-z0-9.:_-]{0,252}[A-Za-z0-9])?")
BODY = {
    "requestBody": {
        "required": True,
        "content": {
            kind: {"schema": {"type": shape}}
            for kind, shape in (
                (cloudevents.STRUCTURED, "object"), (cloudevents.BATCH, "array"), ("application/json", "object")
            )
        },
    }
}  # fmt: skip


async def limited_body(request: Request) -> bytes:
    """The body, read no further than an event may be large.

    Raises:
        TooLarge: there is more.
    """
    found = bytearray()
    async for chunk in request.stream():
        found += chunk
        if len(found) > cloudevents.MAX_BATCH_BYTES:
            raise TooLarge(f"a batch of events has at most {cloudevents.MAX_BATCH_BYTES:,} bytes")
    request._body = bytes(found)  # pyright: ignore[reportPrivateUsage] - so that others find it read
    return request._body  # pyright: ignore[reportPrivateUsage]


def routes(desk: TaskRoutes) -> APIRouter:
    """``/api/v1/inbound``."""
    router = APIRouter(prefix="/api/v1/inbound", tags=["events"])
    wisher = desk.gate.wishes(Role.COMMON)
    limited = Depends(limited_body)

    @router.options("", status_code=200)
    async def may_deliver(
        webhook_request_origin: Annotated[str | None, Header()] = None,
        webhook_request_rate: Annotated[str | None, Header()] = None,
    ) -> Response:
        headers = {"Allow": "POST, OPTIONS"}
        if webhook_request_origin is not None:
            if not ORIGIN.fullmatch(webhook_request_origin):
                raise InvalidRequest(
                    "WebHook-Request-Origin is no name of a host", code="origin_invalid", param="WebHook-Request-Origin"
                )
            rate = webhook_request_rate or ""
            allowed = rate if re.fullmatch(r"[1-9][0-9]{0,8}", rate) else "*"
            headers |= {"WebHook-Allowed-Origin": webhook_request_origin, "WebHook-Allowed-Rate": allowed}
        return Response(headers=headers)

    @router.post("", status_code=202, openapi_extra=BODY)
    async def deliver(request: Request, body: bytes = limited, wish: Wish = wisher) -> dict[str, Any]:
        def work(tx: Transaction) -> dict[str, Any]:
            return take(tx, wish, request.headers.items(), body, desk)

        answer = await desk.database.write(work)
        desk.tasks.wake_relay()
        desk.tasks.ring()
        if answer.get("refused"):
            raise error_of(answer["status"], Received.model_validate(answer["refused"]).error or FineryError().body)
        return answer

    return router


def take(tx: Transaction, wish: Wish, said: Said, body: bytes, desk: TaskRoutes) -> dict[str, Any]:
    """What came of a request. A refusal is committed, as a fact, so it is told here and raised after that."""
    told = reserve(tx, wish.asked) if wish.asked is not None else None
    if told is not None:
        return json.loads(told)
    answer = _answer(tx, wish, said, body, desk)
    if wish.asked is not None:
        if answer.get("refused"):
            release(tx, wish.asked)
        else:
            settle(tx, wish.asked, json.dumps(answer))
    return answer


def _answer(tx: Transaction, wish: Wish, said: Said, body: bytes, desk: TaskRoutes) -> dict[str, Any]:
    try:
        headers = cloudevents.headers_of(said)
        events = cloudevents.read(headers, body)
    except FineryError as fault:
        return _refusal(refuse(tx, wish.actor.project, fault, cloudevents.named(None)))
    received = [receive(tx, wish.actor, event, desk) for event in events]
    if headers.get("content-type", "").lower().startswith(cloudevents.BATCH):
        return {"data": [item.model_dump(mode="json", exclude={"status"}) for item in received]}
    one = received[0]
    return _refusal(one) if one.error is not None else one.model_dump(mode="json", exclude={"status", "error"})


def _refusal(received: Received) -> dict[str, Any]:
    return {"refused": received.model_dump(mode="json"), "status": received.status}
