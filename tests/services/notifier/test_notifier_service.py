"""The whole notifier on a real broker: asked over the bus, a fact from another service's outbox, a signed webhook."""

import asyncio
from pathlib import Path

import nats
import pytest
from aiohttp import web
from notifier_rig import Heard, Sink, actor, fact, sink_server, verify

from finery_contracts.errors import InvalidRequest
from finery_contracts.ids import new_id
from finery_contracts.notification_requests import ConfirmRequest, PageRequest, SubscriptionRequest, TopicRequest
from finery_contracts.notifications import SubscriptionPage, SubscriptionView, TopicView
from finery_contracts.tasks import NotifyChoice, TaskSucceeded
from finery_kit.bus import ask
from finery_kit.bus_init import bus_init
from finery_kit.db import Database, Transaction, utc_now
from finery_kit.delivery import DELIVERY_METADATA, Relay, emit
from finery_kit.service import running
from finery_kit.settings import load
from finery_kit.telemetry import read_trace
from finery_kit.testing import nats_server
from finery_notifier.app import build
from finery_notifier.settings import NotifierSettings

TRACE_ID = "4bf92f3577b34da6a3ce929d0e0e4736"


class Inbox(Sink):
    """A sink that can be waited for."""

    def __init__(self) -> None:
        super().__init__()
        self.arrivals: asyncio.Queue[Heard] = asyncio.Queue()

    async def answer(self, request: web.Request) -> web.StreamResponse:
        response = await super().answer(request)
        if request.method == "POST":
            self.arrivals.put_nowait(self.heard[-1])
        return response

    async def next(self) -> Heard:
        return await asyncio.wait_for(self.arrivals.get(), 15)


async def publish_from_an_outbox(url: str, folder: Path) -> str:
    """What studio does: a fact stored with its change, published by the relay."""
    database = Database(f"sqlite:///{folder / 'studio.sqlite'}", DELIVERY_METADATA)
    database.open()
    client = await nats.connect(url)
    data = fact(TaskSucceeded, at=utc_now(), notify=NotifyChoice(topic="ops", events=["succeeded"])).data

    def say(tx: Transaction) -> str:
        parent = f"00-{TRACE_ID}-00f067aa0ba902b7-01"
        emit(tx, TaskSucceeded, data.id, project="proj_1", version=7, data=data, traceparent=parent)
        return data.id

    task_id = await database.write(say)
    await Relay(database, client.jetstream(), "studio").publish_waiting()
    await client.close()
    database.close()
    return task_id


async def test_a_fact_of_another_service_reaches_the_endpoint_that_agreed(tmp_path: Path):
    with nats_server(tmp_path / "nats") as url:
        client = await nats.connect(url)
        await bus_init(client)
        settings = load(
            NotifierSettings, home=tmp_path, nats_url=url, notifier_allow_networks="127.0.0.0/8",
            notifier_retry_schedule_s="0.05", public_url="https://finery.example",
        )  # fmt: skip
        me = actor("proj_1")
        async with sink_server(Inbox()) as inbox, running(build(settings)):
            await ask(client, "notifier", "topic.create", TopicRequest(name="ops"), TopicView, actor=me)
            wanted = SubscriptionRequest(topic="ops", url=inbox.url)
            made = await ask(client, "notifier", "subscription.create", wanted, SubscriptionView, actor=me)
            token = (await inbox.next()).json["data"]["token"]
            question = ConfirmRequest(token=token)
            confirmed = await ask(client, "notifier", "subscription.confirm", question, SubscriptionView)
            inbox.answers = [web.Response(status=500)]

            task_id = await publish_from_an_outbox(url, tmp_path)
            first, second = await inbox.next(), await inbox.next()

        await client.close()

    assert confirmed.state == "confirmed"
    assert first.body == second.body
    assert verify(made.secret, second)["data"]["id"] == task_id
    spans = [span for span in read_trace(tmp_path / "spans.jsonl", TRACE_ID) if span["name"].startswith("webhook POST")]
    assert [span["attributes"]["http.response.status_code"] for span in spans] == [500, 200]
    assert second.headers["traceparent"].split("-")[1:3] == [TRACE_ID, spans[1]["span_id"]]


async def test_a_loopback_webhook_gives_its_coded_error_over_the_bus_and_leaves_nothing_behind(tmp_path: Path):
    with nats_server(tmp_path / "nats") as url:
        client = await nats.connect(url)
        await bus_init(client)
        me = actor(new_id("proj"))
        async with sink_server(Sink()) as sink, running(build(load(NotifierSettings, home=tmp_path, nats_url=url))):
            await ask(client, "notifier", "topic.create", TopicRequest(name="ops"), TopicView, actor=me)

            wanted = SubscriptionRequest(topic="ops", url=sink.url)
            with pytest.raises(InvalidRequest) as refused:
                await ask(client, "notifier", "subscription.create", wanted, SubscriptionView, actor=me)
            left = await ask(client, "notifier", "subscription.list", PageRequest(), SubscriptionPage, actor=me)

            assert sink.heard == []
        await client.close()

    assert refused.value.error_code == "url_not_allowed"
    assert "a loopback address" in refused.value.message
    assert left.data == []
