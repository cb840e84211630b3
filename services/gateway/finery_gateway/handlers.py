"""Completions on their way to an instance and back: who asks, where to, how fast, and what it cost.

Bytes pass as they come. Nothing of a prompt or an answer is kept, logged or traced. A call is on record before the last
byte of its answer goes out; one that was cut off is recorded too, with status 499 and what was counted by then.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from datetime import UTC, datetime

import aiohttp
from aiohttp import web
from opentelemetry.trace import Span, SpanKind
from pydantic_core import from_json, to_json

from finery_contracts.access import KeyGrant
from finery_contracts.deployments import DeploymentState, Route
from finery_contracts.errors import FineryError, InvalidRequest, TooLarge, Unauthorized, Unavailable
from finery_contracts.ids import new_id
from finery_contracts.usage import CallUsage
from finery_gateway import domain
from finery_gateway.adapters import Directory, Waker
from finery_gateway.domain import AnswerStream, Ask, TokenBucket, Tokens
from finery_gateway.settings import GatewaySettings
from finery_gateway.store import Journal
from finery_kit.keys import key_hash
from finery_kit.telemetry import current_traceparent, span_from

log = logging.getLogger("finery.gateway")
CLIENT_LEFT = 499
MAX_BUCKETS = 4096
DEFAULT_RETRY_S = 2.0


@dataclass
class Call:
    """One request under way."""

    request: web.Request
    id: str
    started: float
    span: Span
    grant: KeyGrant | None = None
    route: Route | None = None
    model: str = ""
    response: web.StreamResponse | None = None
    recorded: bool = False


@dataclass
class Completions:
    """The handlers of the two completion paths."""

    settings: GatewaySettings
    secret: bytes
    directory: Directory
    waker: Waker
    journal: Journal
    http: aiohttp.ClientSession
    _buckets: dict[str, TokenBucket] = field(default_factory=dict[str, TokenBucket])

    async def answer(self, request: web.Request) -> web.StreamResponse:
        """``POST /v1/chat/completions`` and ``POST /v1/completions``."""
        name = f"POST {request.path}"
        with span_from(request.headers.get("traceparent"), "gateway", name, kind=SpanKind.SERVER) as span:
            call = Call(request, new_id("req"), time.monotonic(), span)
            span.set_attribute("request_id", call.id)
            try:
                response = await self._answer(call)
            except FineryError as fault:
                response = refused(fault, call.id)
            span.set_attribute("http.response.status_code", response.status)
            return response

    async def _answer(self, call: Call) -> web.StreamResponse:
        grant = call.grant = await self._authorise(call.request)
        call.span.set_attribute("project", grant.project)
        body = await self._body(call.request)
        ask = domain.read_ask(body)
        call.model = ask.model
        route = await self._route(grant, ask.model)
        self._slow_down(route)
        try:
            return await self._forward(call, ask, body, route)
        except aiohttp.ClientConnectorError:
            # Refused before anything was sent: the instance may have been replaced a moment ago.
            moved = await self._moved(grant, ask.model, route)
        try:
            return await self._forward(call, ask, body, moved)
        except aiohttp.ClientConnectorError as fault:
            raise _unreachable(moved) from fault

    async def _authorise(self, request: web.Request) -> KeyGrant:
        key = domain.bearer(request.headers.get("Authorization"))
        grant = await self.directory.grant(key_hash(self.secret, key))
        if grant is None:
            raise Unauthorized
        return grant

    async def _body(self, request: web.Request) -> bytes:
        limit = self.settings.gateway_max_body_bytes
        if request.headers.get("Content-Encoding", "identity") != "identity":
            raise InvalidRequest("the body is encoded; send it without Content-Encoding", code="unsupported_encoding")
        too_large = TooLarge(f"the body is larger than {limit:,} bytes; shorten the prompt", code="body_too_large")
        if (request.content_length or 0) > limit:
            raise too_large
        body = bytearray()
        try:
            async with asyncio.timeout(self.settings.gateway_body_timeout_s):
                async for chunk in request.content.iter_any():
                    body += chunk
                    if len(body) > limit:
                        raise too_large
        except TimeoutError as fault:
            raise InvalidRequest("the body did not arrive in time; send it again", code="body_timeout") from fault
        return bytes(body)

    async def _route(self, grant: KeyGrant, name: str) -> Route:
        route = await self.directory.route(grant.project, name)
        if route is not None and route.state is DeploymentState.RUNNING:
            return route
        if name.startswith(domain.TUNED):
            return await self.waker.wake(grant, name)
        raise domain.refusal(route, name)

    async def _moved(self, grant: KeyGrant, name: str, route: Route) -> Route:
        newer = await self.directory.again(route)
        if newer is not None and newer.state is DeploymentState.RUNNING:
            return newer
        return await self._route(grant, name)

    def _slow_down(self, route: Route) -> None:
        now = time.monotonic()
        bucket = self._buckets.get(route.deployment)
        if bucket is None or bucket.rate != route.qps:
            if len(self._buckets) >= MAX_BUCKETS:
                self._buckets.clear()
            bucket = self._buckets[route.deployment] = TokenBucket.full(route.qps, now)
        wait_s = bucket.take(now)
        if wait_s > 0:
            raise domain.too_fast(route, wait_s)

    async def _forward(self, call: Call, ask: Ask, body: bytes, route: Route) -> web.StreamResponse:
        call.route = route
        call.span.set_attribute("deployment", route.deployment)
        headers = {
            "Content-Type": "application/json", "Authorization": f"Bearer {route.token}", "X-Request-Id": call.id,
            "traceparent": current_traceparent() or "",
        }  # fmt: skip
        url = f"{route.url}{call.request.path}"
        stream = AnswerStream(strip_usage=not ask.wants_usage)
        try:
            async with self.http.post(url, data=domain.forwarded(ask, body, route), headers=headers) as upstream:
                if upstream.status in (401, 403):
                    raise _unreachable(route)
                if upstream.status == 200 and upstream.content_type == "text/event-stream":
                    return await self._stream(call, upstream, stream)
                return await self._whole(call, upstream)
        except asyncio.CancelledError:
            self._record(call, CLIENT_LEFT, stream.tokens)
            raise
        except (aiohttp.ClientError, OSError) as fault:
            if call.response is None and isinstance(fault, aiohttp.ClientConnectorError):
                raise
            if call.response is None:
                raise _unreachable(route) from fault
            # What the instance does wrong once the answer has begun is dealt with there: the caller is gone.
            self._record(call, CLIENT_LEFT, stream.tokens)
            return call.response

    async def _whole(self, call: Call, upstream: aiohttp.ClientResponse) -> web.Response:
        body = await upstream.read()
        await self._record(call, upstream.status, _tokens_in(body))
        return web.Response(status=upstream.status, body=body, headers=_headers(upstream, call.id))

    async def _stream(self, call: Call, upstream: aiohttp.ClientResponse, stream: AnswerStream) -> web.StreamResponse:
        response = web.StreamResponse(headers={**_headers(upstream, call.id), "Cache-Control": "no-cache"})
        await response.prepare(call.request)
        call.response = response
        async for data in _until_cut(upstream):
            out = stream.feed(data)
            if out:
                await response.write(out)
        broken: FineryError | None = None if stream.whole else _unreachable(call.route)
        try:
            await self._record(call, broken.status if broken else 200, stream.tokens)
        except Unavailable as fault:
            broken = fault
        # The status is out already: an error can only be one more event, and the end marker stays away.
        await response.write(_event(broken) if broken else stream.rest())
        await response.write_eof()
        return response

    def _record(self, call: Call, status: int, tokens: Tokens) -> asyncio.Future[None]:
        """Put the call on record, once; awaiting it waits for the disk."""
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        if call.recorded or call.grant is None or call.route is None:
            done.set_result(None)
            return done
        call.recorded = True
        usage = CallUsage(
            request_id=call.id, at=datetime.now(UTC), project=call.grant.project, key=call.grant.key,
            deployment=call.route.deployment, model=call.model[:512], prompt_tokens=tokens.prompt,
            completion_tokens=tokens.completion, duration_ms=round((time.monotonic() - call.started) * 1000, 3),
            status=status,
        )  # fmt: skip
        return self.journal.post(usage)


async def _until_cut(upstream: aiohttp.ClientResponse) -> AsyncIterator[bytes]:
    """What the instance sends, until its end or until it is gone."""
    while True:
        try:
            data = await upstream.content.readany()
        except (aiohttp.ClientError, OSError):
            return
        if not data:
            return
        yield data


def refused(fault: FineryError, request_id: str) -> web.Response:
    """An error in OpenAI's shape, with the headers that belong to its status."""
    headers = {"X-Request-Id": request_id}
    retry_s = fault.retry_after_s if fault.retry_after_s is not None else DEFAULT_RETRY_S
    if fault.status in (429, 503):
        headers["Retry-After"] = str(max(1, math.ceil(retry_s)))
    if fault.status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    return web.Response(
        status=fault.status, body=to_json(fault.as_openai()), content_type="application/json", headers=headers
    )


def _unreachable(route: Route | None) -> Unavailable:
    name = route.names[-1] if route else "the deployment"
    return Unavailable(
        f"the instance of {name} went away before it had answered; send the request again",
        code="deployment_unreachable",
        retry_after_s=1,
    )


def _headers(upstream: aiohttp.ClientResponse, request_id: str) -> dict[str, str]:
    kept = {name: upstream.headers[name] for name in ("Content-Type", "Retry-After") if name in upstream.headers}
    return {**kept, "X-Request-Id": request_id}


def _tokens_in(body: bytes) -> Tokens:
    try:
        return domain.tokens_of(from_json(body)) or Tokens()
    except ValueError:
        return Tokens()


def _event(fault: FineryError) -> bytes:
    return b"data: " + to_json(fault.as_openai()) + b"\n\n"
