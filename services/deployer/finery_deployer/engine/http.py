"""The engine's HTTP, as vLLM and OpenAI speak it. It refuses callers without the token, and bodies above 8 MiB.

GET  /health               200 while requests are accepted, 503 while draining; the only path without the token
GET  /status               ServeStatus
GET  /v1/models            the one name that is served
POST /v1/chat/completions  whole or as server-sent events
POST /v1/completions       the same for a plain prompt
"""

from __future__ import annotations

import asyncio
import hmac
import logging
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing, contextmanager, suppress
from typing import Any

from aiohttp import web

from finery_contracts.completions import ChatCompletionRequest, CompletionRequest, GenerationRequest
from finery_contracts.errors import (
    ErrorBody,
    FineryError,
    NotFound,
    RateLimited,
    TooLarge,
    Unauthorized,
    Unavailable,
    error_of,
)
from finery_deployer.engine.generation import Delta, Order
from finery_deployer.engine.model import ServedModel
from finery_deployer.engine.protocol import END_OF_STREAM, Choice, Usage, Wording, error_headers, server_sent
from finery_deployer.engine.sampling import Sampling
from finery_deployer.engine.scheduler import MAX_WAITING, Scheduler

MAX_BODY_BYTES = 8 * 2**20
MAX_OPEN = 2 * MAX_WAITING
"""Requests in all, those included whose prompt is still being turned into tokens; one more is refused."""

log = logging.getLogger(__name__)

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Endpoint:
    """The paths of one served model, and the count of requests that were let in and are not answered yet."""

    def __init__(self, served: ServedModel, scheduler: Scheduler, *, name: str, token: str) -> None:
        self._served = served
        self._scheduler = scheduler
        self._name = name
        self._token = token.encode()
        self._since = int(time.time())
        self._encoder = ThreadPoolExecutor(max_workers=1, thread_name_prefix="encode")
        self._open = 0
        self._all_answered = asyncio.Event()
        self._all_answered.set()

    def application(self) -> web.Application:
        """The routes behind the two middlewares."""
        app = web.Application(client_max_size=MAX_BODY_BYTES, middlewares=[_errors_in_openai_shape, self._authorise])
        app.router.add_get("/health", self._health)
        app.router.add_get("/status", self._status)
        app.router.add_get("/v1/models", self._models)
        app.router.add_post("/v1/chat/completions", self._chat)
        app.router.add_post("/v1/completions", self._complete)
        return app

    async def settle(self, *, within_s: float) -> None:
        """Wait until every request that was let in is answered, but no longer than that."""
        with suppress(TimeoutError):
            async with asyncio.timeout(within_s):
                await self._all_answered.wait()

    def close(self) -> None:
        """Let go of the encoding thread."""
        self._encoder.shutdown(wait=False, cancel_futures=True)

    @web.middleware
    async def _authorise(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        given = request.headers.get("Authorization", "").encode(errors="surrogateescape")
        if request.path != "/health" and not hmac.compare_digest(given, b"Bearer " + self._token):
            raise Unauthorized
        return await handler(request)

    async def _health(self, request: web.Request) -> web.Response:
        if not self._scheduler.healthy:
            raise Unavailable("this instance accepts no requests: it drains, or its engine is dead")
        return web.Response()

    async def _status(self, request: web.Request) -> web.Response:
        return web.Response(text=self._scheduler.status().model_dump_json(), content_type="application/json")

    async def _models(self, request: web.Request) -> web.Response:
        model = {
            "id": self._name, "object": "model", "created": self._since, "owned_by": "finery",
            "max_model_len": self._served.max_length,
        }  # fmt: skip
        return web.json_response({"object": "list", "data": [model]})

    async def _chat(self, request: web.Request) -> web.StreamResponse:
        wanted = ChatCompletionRequest.validate(await request.read())
        return await self._answer(request, wanted, lambda: self._served.chat_prompt(wanted.messages))

    async def _complete(self, request: web.Request) -> web.StreamResponse:
        wanted = CompletionRequest.validate(await request.read())
        return await self._answer(request, wanted, lambda: self._served.text_prompt(wanted.prompt))

    async def _answer(
        self, request: web.Request, wanted: GenerationRequest, encode: Callable[[], list[int]]
    ) -> web.StreamResponse:
        if wanted.model != self._name:
            raise NotFound(
                f"there is no model {wanted.model} here; this instance serves {self._name}",
                code="model_not_found",
                param="model",
            )
        if not self._scheduler.healthy:
            raise Unavailable("this instance is stopping; send the request again", retry_after_s=1)
        if self._open >= MAX_OPEN:
            raise RateLimited(f"{MAX_OPEN} requests are open already; send it again later", retry_after_s=1)
        with self._counted():
            prompt = await asyncio.get_running_loop().run_in_executor(self._encoder, encode)
            order = order_of(wanted, prompt, room=self._served.room_for(len(prompt), wanted.token_budget))
            wording = Wording(self._name, chat=isinstance(wanted, ChatCompletionRequest))
            async with aclosing(self._generate(order)) as deltas:
                if wanted.stream:
                    return await _stream(request, wanted, wording, Usage(len(prompt)), deltas)
                return await _whole(order, wording, deltas)

    @contextmanager
    def _counted(self) -> Iterator[None]:
        self._open += 1
        self._all_answered.clear()
        try:
            yield
        finally:
            self._open -= 1
            if not self._open:
                self._all_answered.set()

    async def _generate(self, order: Order) -> AsyncGenerator[list[Delta]]:
        """What the scheduler makes of an order. Whoever stops listening (a caller who went away) ends it."""
        loop = asyncio.get_running_loop()
        inbox: asyncio.Queue[list[Delta] | FineryError | None] = asyncio.Queue()

        def deliver(said: list[Delta] | FineryError | None) -> None:
            loop.call_soon_threadsafe(inbox.put_nowait, said)

        ticket = self._scheduler.submit(order, deliver)
        try:
            yield []
            while (said := await inbox.get()) is not None:
                if isinstance(said, FineryError):
                    raise said
                yield said
        finally:
            self._scheduler.cancel(ticket)


def order_of(wanted: GenerationRequest, prompt: list[int], *, room: int) -> Order:
    """A request, in the engine's terms; ``room`` is how many tokens each choice may have."""
    return Order(
        prompt=prompt,
        max_tokens=room,
        n=wanted.n,
        sampling=Sampling(
            temperature=wanted.temperature,
            top_k=wanted.top_k,
            top_p=wanted.top_p,
            presence_penalty=wanted.presence_penalty,
            frequency_penalty=wanted.frequency_penalty,
            seed=wanted.seed,
        ),
        stops=tuple(wanted.stop),
        ignore_eos=wanted.ignore_eos,
        beam_search=wanted.use_beam_search,
        length_penalty=wanted.length_penalty,
    )


async def _whole(order: Order, wording: Wording, deltas: AsyncIterator[list[Delta]]) -> web.Response:
    choices, usage = [Choice() for _ in range(order.n)], Usage(len(order.prompt))
    async for gained in deltas:
        for delta in gained:
            choices[delta.index].text += delta.text
            choices[delta.index].finish = delta.finish
            usage.completion_tokens += delta.tokens
    return web.json_response(wording.whole(choices, usage))


async def _stream(
    request: web.Request,
    wanted: GenerationRequest,
    wording: Wording,
    usage: Usage,
    deltas: AsyncIterator[list[Delta]],
) -> web.StreamResponse:
    """Send chunks as they come. Nothing is sent before the order was accepted, so a refusal still has its status."""
    await anext(deltas)
    response = web.StreamResponse(headers={"Content-Type": "text/event-stream", "Cache-Control": "no-cache"})
    with suppress(ConnectionResetError):
        await response.prepare(request)
        try:
            async for chunk in _chunks(wanted, wording, usage, deltas):
                await response.write(server_sent(chunk))
        except FineryError as error:
            await response.write(server_sent(error.as_openai()))
        await response.write(END_OF_STREAM)
        await response.write_eof()
    return response


async def _chunks(
    wanted: GenerationRequest, wording: Wording, usage: Usage, deltas: AsyncIterator[list[Delta]]
) -> AsyncIterator[dict[str, Any]]:
    if wording.chat:
        for index in range(wanted.n):
            yield wording.chunk(index, {"role": "assistant", "content": ""})
    async for gained in deltas:
        for delta in gained:
            usage.completion_tokens += delta.tokens
            if delta.text:
                yield wording.chunk(delta.index, {"content": delta.text})
            if delta.finish:
                yield wording.chunk(delta.index, {}, delta.finish)
    if wanted.stream_options is not None and wanted.stream_options.include_usage:
        yield wording.usage_chunk(usage)


@web.middleware
async def _errors_in_openai_shape(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Every refusal leaves as JSON in OpenAI's shape; what nobody foresaw is logged and told without its details."""
    try:
        return await handler(request)
    except FineryError as known:
        error = known
    except web.HTTPRequestEntityTooLarge:
        error = TooLarge(f"the body is larger than {MAX_BODY_BYTES} bytes; shorten the prompt")
    except web.HTTPException as refused:
        body = ErrorBody(code=f"http_{refused.status}", message=f"{request.method} {request.path}: {refused.reason}")
        return web.json_response(error_of(refused.status, body).as_openai(), status=refused.status)
    except Exception:
        log.exception("request_failed")
        error = FineryError()
    return web.json_response(error.as_openai(), status=error.status, headers=error_headers(error))
