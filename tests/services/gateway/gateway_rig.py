"""A gateway with a real bus and real HTTP; the model, studio and deployer are stand-ins that speak the contracts."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import nats
from aiohttp import web
from nats.aio.client import Client

from finery_contracts.access import KeyGrant, Role
from finery_contracts.deployments import (
    DeploymentState,
    DeploymentView,
    Route,
    ServableModel,
    ServableRequest,
    WakeCommand,
)
from finery_contracts.errors import FineryError
from finery_contracts.streams import EVENTS, KV_KEYS, KV_ROUTES, rpc_subject
from finery_contracts.usage import CallUsage, UsageRecorded
from finery_gateway import app
from finery_gateway.settings import GatewaySettings
from finery_kit.bus import RpcAnswer, RpcRequest
from finery_kit.bus_init import bus_init
from finery_kit.db import utc_now
from finery_kit.keys import key_hash
from finery_kit.ports import free_port
from finery_kit.service import Service, running
from finery_kit.testing import flushed

SECRET = bytes(range(32))
KEY = "fk-good"
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@dataclass
class Engine:
    """An upstream that speaks OpenAI's shapes; ``answer`` may be replaced by a test."""

    url: str = ""
    bodies: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    raw: list[bytes] = field(default_factory=list[bytes])
    headers: list[Mapping[str, str]] = field(default_factory=list[Mapping[str, str]])
    cancelled: asyncio.Event = field(default_factory=asyncio.Event)
    answer: Handler | None = None

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """Remember and answer."""
        self.raw.append(await request.read())
        self.bodies.append(json.loads(self.raw[-1]))
        self.headers.append(request.headers.copy())
        if self.answer is not None:
            try:
                return await self.answer(request)
            except asyncio.CancelledError:
                self.cancelled.set()
                raise
        if self.bodies[-1].get("stream"):
            return await sent(request, *chunks(self.bodies[-1]))
        return web.json_response(whole(self.bodies[-1]["model"]))


def whole(model: str) -> dict[str, Any]:
    """An answer that is not streamed."""
    message = {"role": "assistant", "content": "hello"}
    return {
        "id": "chatcmpl-1", "object": "chat.completion", "created": 1, "model": model,
        "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10},
    }  # fmt: skip


def chunks(body: dict[str, Any]) -> list[bytes]:
    """The events of a stream, with odd spacing on purpose: nobody may re-encode them."""
    said = [
        b'data: {"model":"m",  "choices":[{"index":0,"delta":{"role":"assistant","content":""}}]}\n\n',
        'data: {"model":"m","choices":[{"index":0,"delta":{"content":"h\\u00e9 \\"usage\\" 中"}}]}\n\n'.encode(),
        b'data: {"model":"m","choices":[{"index":0,"delta":{"content":"llo"}}]}\n\n',
        b'data: {"model":"m","choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}\n\n',
    ]
    if (body.get("stream_options") or {}).get("include_usage"):
        said.append(USAGE_CHUNK)
    return [*said, b"data: [DONE]\n\n"]


USAGE_CHUNK = b'data: {"model":"m","choices":[],"usage":{"prompt_tokens":7,"completion_tokens":2,"total_tokens":9}}\n\n'


async def sent(request: web.Request, *pieces: bytes) -> web.StreamResponse:
    """Pieces as they are, one write each."""
    response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
    await response.prepare(request)
    for piece in pieces:
        await response.write(piece)
    await response.write_eof()
    return response


@dataclass
class Rig:
    """What a test works with."""

    home: Path
    bus_url: str
    client: Client
    engine: Engine
    studio: list[web.Request] = field(default_factory=list[web.Request])
    studio_url: str = ""
    studio_answer: Handler | None = None
    http: aiohttp.ClientSession = field(default_factory=lambda: aiohttp.ClientSession(auto_decompress=False))
    port: int = field(default_factory=free_port)
    revisions: int = 0

    @property
    def url(self) -> str:
        """The gateway's."""
        return f"http://127.0.0.1:{self.port}"

    def settings(self, **settings: Any) -> GatewaySettings:
        """Quick ones."""
        given = {"gateway_ship_interval_s": 0.05, "studio_url": self.studio_url, **settings}
        return GatewaySettings(
            home=self.home, nats_url=self.bus_url, gateway_port=self.port, installation_secret=SECRET.hex(), **given
        )

    @contextlib.asynccontextmanager
    async def gateway(self, **settings: Any) -> AsyncIterator[Service]:
        """A running gateway."""
        service = app.build(self.settings(**settings))
        async with running(service):
            await self.until_true(self._listens)
            yield service

    async def _listens(self) -> bool:
        with contextlib.suppress(aiohttp.ClientError):
            async with self.http.get(f"{self.url}/healthz") as answer:
                return answer.status == 200
        return False

    async def add_key(self, key: str = KEY, project: str = "proj_a") -> str:
        """A key that is known from now on."""
        grant = KeyGrant(key=f"key_{key}", project=project, project_name=project, user="user_1", role=Role.COMMON)
        bucket = await self.client.jetstream().key_value(KV_KEYS)
        await bucket.put(key_hash(SECRET, key), grant.model_dump_json().encode())
        return key

    async def add_route(self, name: str = "chat", **changes: Any) -> Route:
        """A route to the engine."""
        self.revisions += 1
        route = Route(
            **{
                "deployment": f"dep_{name}", "project": "proj_a", "names": [name], "state": DeploymentState.RUNNING,
                "url": self.engine.url, "token": "instance-token", "qps": 1000.0, "default_max_tokens": 16,
                "max_length": 512, "revision": self.revisions, **changes,
            }
        )  # fmt: skip
        bucket = await self.client.jetstream().key_value(KV_ROUTES)
        await bucket.put(f"{route.project}.{route.deployment}", route.model_dump_json().encode())
        return route

    def post(self, body: Any, *, key: str | None = KEY, path: str = "/v1/chat/completions", **options: Any) -> Any:
        """A call; ``body`` may be bytes."""
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        return self.http.post(
            f"{self.url}{path}", data=data, headers={**headers, **options.pop("headers", {})}, **options
        )

    async def refusal(self, body: Any, **options: Any) -> tuple[int, str, aiohttp.ClientResponse]:
        """Status and code of a call that is refused; the shape is checked on the way."""
        async with self.post(body, **options) as answer:
            error = (await answer.json())["error"]
            assert set(error) >= {"message", "type", "param", "code"}
            assert error["message"]
            return answer.status, error["code"], answer

    async def usage(self) -> list[UsageRecorded]:
        """All usage facts on the bus."""
        jetstream = self.client.jetstream()
        info = await jetstream.stream_info(EVENTS.name)
        last = info.state.last_seq
        found = [await jetstream.get_msg(EVENTS.name, seq) for seq in range(1, last + 1)]
        return [UsageRecorded.model_validate_json(msg.data or b"") for msg in found]

    async def calls(self, count: int) -> list[CallUsage]:
        """Wait until so many calls are on the bus."""
        until = time.monotonic() + 15
        seen: list[CallUsage] = []
        while time.monotonic() < until:
            seen = [call for fact in await self.usage() for call in fact.data.calls]
            if len(seen) >= count:
                return seen
            await asyncio.sleep(0.02)
        raise AssertionError(f"{len(seen)} calls instead of {count}")

    async def until_true(self, question: Callable[[], Any]) -> None:
        """Wait until a question is answered with yes; it may be a coroutine function."""
        until = time.monotonic() + 15
        while time.monotonic() < until:
            answer = question()
            if await answer if asyncio.iscoroutine(answer) else answer:
                return
            await asyncio.sleep(0.02)
        raise AssertionError("it did not become true")

    async def answer_rpc(self, owner: str, verb: str, answer: Callable[[RpcRequest], Any]) -> list[RpcRequest]:
        """Stand in for the owner of a noun; ``answer`` returns a record or raises a FineryError."""
        seen: list[RpcRequest] = []

        async def on_request(message: Any) -> None:
            request = RpcRequest.model_validate_json(message.data)
            seen.append(request)
            try:
                found = answer(request)
                found = await found if asyncio.iscoroutine(found) else found
                reply = RpcAnswer(body=found.model_dump(mode="json"))
            except FineryError as fault:
                reply = RpcAnswer(status=fault.status, error=fault.body)
            await message.respond(reply.model_dump_json().encode())

        await self.client.subscribe(rpc_subject(owner, verb), cb=on_request)
        await flushed(self.client)
        return seen


def servable(request: RpcRequest) -> ServableModel:
    """What studio says of an ft: name."""
    name = ServableRequest.model_validate(request.body).name
    assert request.actor is not None
    return ServableModel(
        id="model_1", project=request.actor.project, name="m", openai_name=name, weights="store://w", adapter=None,
        max_length=512,
    )  # fmt: skip


def trial(request: RpcRequest, state: DeploymentState = DeploymentState.DEPLOYING) -> DeploymentView:
    """What the deployer says of a wake."""
    model = WakeCommand.model_validate(request.body).model
    return DeploymentView(
        id="dep_trial", project=model.project, name="trial-mdl_1", model=model.id, model_name=model.name, trial=True,
        state=state, version=1, created_by="u", created_at=utc_now(), qps=5,
    )  # fmt: skip


@contextlib.asynccontextmanager
async def served(handler: Handler, *, port: int | None = None) -> AsyncIterator[str]:
    """An HTTP server whose every path is one handler; yields its URL."""
    application = web.Application(client_max_size=2**30)
    application.router.add_route("*", "/{path:.*}", handler)
    runner = web.AppRunner(
        application, handler_cancellation=True, access_log=None, auto_decompress=False, shutdown_timeout=0.1
    )
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", port or 0)
    await site.start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


@contextlib.asynccontextmanager
async def gateway_rig(tmp_path: Path, bus_url: str) -> AsyncIterator[Rig]:
    """Everything around a gateway, with one key."""
    client = await nats.connect(bus_url)
    await bus_init(client)
    engine = Engine()
    rig = Rig(tmp_path / "home", bus_url, client, engine)
    rig.home.mkdir()

    async def studio(request: web.Request) -> web.StreamResponse:
        rig.studio.append(request)
        if rig.studio_answer is not None:
            return await rig.studio_answer(request)
        body = await request.read()
        return web.json_response(
            {"path": request.raw_path, "method": request.method, "size": len(body), "headers": dict(request.headers)}
        )

    async with served(engine.handle) as engine.url, served(studio) as rig.studio_url:
        await rig.add_key()
        try:
            yield rig
        finally:
            await rig.http.close()
            await client.close()
