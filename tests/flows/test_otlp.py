"""One OpenTelemetry trace from the HTTP call through bus, services and engine to the webhook, read at a receiver."""

from __future__ import annotations

import asyncio
import gzip
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import pytest
from aiohttp import web
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from finery.embedded import Options, house
from finery_kit.ports import free_port
from tests.flows.conftest import QuickExecutor, ended
from tests.flows.test_main_thread import confirmed, listen, tune, upload


@dataclass
class Seen:
    """A span at the receiver."""

    service: str
    name: str
    span: str
    parent: str
    trace: str


@dataclass
class Receiver:
    """Takes OTLP over HTTP."""

    url: str = ""
    spans: list[Seen] = field(default_factory=list)

    async def take(self, request: web.Request) -> web.Response:
        body = await request.read()
        if request.headers.get("content-encoding") == "gzip":
            body = gzip.decompress(body)
        message = ExportTraceServiceRequest.FromString(body)
        for resource in message.resource_spans:
            names = {a.key: a.value.string_value for a in resource.resource.attributes}
            for scope in resource.scope_spans:
                self.spans += [
                    Seen(names["service.name"], s.name, s.span_id.hex(), s.parent_span_id.hex(), s.trace_id.hex())
                    for s in scope.spans
                ]
        return web.Response()


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    """A collector on loopback."""
    found = Receiver()
    app = web.Application(client_max_size=64 * 2**20)
    app.router.add_post("/v1/traces", found.take)
    runner = web.AppRunner(app)
    await runner.setup()
    port = free_port()
    await web.TCPSite(runner, "127.0.0.1", port).start()
    found.url = f"http://127.0.0.1:{port}"
    yield found
    await runner.cleanup()


async def test_the_receiver_sees_one_tree_from_call_to_webhook(
    receiver: Receiver, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("finery.embedded.LocalExecutor", QuickExecutor)
    options = Options(
        home=tmp_path / "home", port=free_port(), otlp_endpoint=receiver.url, allow_webhook_networks=("127.0.0.0/8",)
    )
    heard: list[tuple[bytes, dict[str, str]]] = []
    async with (
        house(options) as ready,
        httpx.AsyncClient(base_url=ready.url, headers={"authorization": f"Bearer {ready.api_key}"}) as api,
    ):
        url, runner = await listen(api, heard)
        await api.post("/api/v1/topics", json={"name": "jobs"})
        made = (await api.post("/api/v1/subscriptions", json={"topic": "jobs", "url": url})).json()
        await confirmed(api, made["id"])
        trace_id = "ab" * 16
        api.headers["traceparent"] = f"00-{trace_id}-{'cd' * 8}-01"
        file = await upload(api)
        job = (await tune(api, file["id"], x_finery={"notify": {"topic": "jobs", "events": ["succeeded"]}})).json()
        await ended(api, job["x_finery"]["task"])
        async with asyncio.timeout(10):
            while not heard:
                await asyncio.sleep(0.05)
        await runner.cleanup()

    spans = [span for span in receiver.spans if span.trace == trace_id]
    by_id = {span.span: span for span in spans}
    webhook = next(span for span in spans if span.name.startswith("webhook POST"))
    way = [webhook]
    while way[-1].parent in by_id:
        way.append(by_id[way[-1].parent])
    assert way[-1].name == "POST /v1/fine_tuning/jobs"
    assert way[-1].parent == "cd" * 8  # the caller's own span
    assert {"finery-notifier", "finery-studio"} <= {span.service for span in way}
    engine = next(span for span in spans if span.name == "engine.tune")
    assert by_id[engine.parent].name == "attempt tune"
    assert by_id[engine.parent].service == "finery-trainer"
    assert trace_id in heard[0][1].get("Traceparent", heard[0][1].get("traceparent", ""))
