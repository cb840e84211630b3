"""Facts on their way to endpoints: who gets them, signed how, tried how often, and what a crash changes."""

from pathlib import Path

import pytest
from aiohttp import web
from notifier_rig import TRACEPARENT, Rig, Sink, fact, notifier_rig, sink_server, succeeded, verify

from finery_contracts.deployments import DeploymentRunning
from finery_contracts.envelope import Event
from finery_contracts.models import ModelReady
from finery_contracts.notification_requests import ConfirmRequest, SubscriptionCommand
from finery_contracts.streams import EVENTS, Durable
from finery_contracts.tasks import NotifyChoice, TaskFailed
from finery_kit.testing import VirtualClock
from finery_notifier.app import ROUTES
from finery_notifier.tables import SubscriptionRow

OPS = NotifyChoice(topic="ops")


@pytest.mark.parametrize("kind", ROUTES, ids=lambda kind: kind.type_name())
async def test_the_same_event_twice_changes_nothing_twice(rig: Rig, sink: Sink, kind: type[Event]):
    await rig.topic("all")
    made = await rig.listener(sink, "all")
    event = fact(kind, at=rig.clock.now)

    first, second = await rig.hear(event), await rig.hear(event)
    await rig.deliver()
    third = await rig.hear(event.model_copy(update={"id": "evt_again"}))
    await rig.deliver()

    assert (first, second, third) == (True, False, False)
    assert len(sink.facts) == len(await rig.deliveries(made.id)) == 1


def test_every_route_is_heard_by_the_notifiers_consumer():
    consumer = next(spec for spec in EVENTS.consumers if spec.durable == Durable.NOTIFIER)
    heard = {filter_.split(".")[3] for filter_ in consumer.filters if filter_.startswith("finery.evt.")}

    assert {kind.NOUN for kind in ROUTES} <= heard


async def test_the_endpoint_gets_the_very_bytes_signed_with_its_secret(rig: Rig, sink: Sink):
    await rig.topic("ops")
    made = await rig.listener(sink, "ops")
    event = succeeded(rig)

    await rig.hear(event)
    await rig.deliver()

    [heard] = sink.facts
    assert heard.body == event.model_dump_json().encode()
    assert verify(made.secret, heard)["data"]["id"] == event.noun_id
    assert heard.headers["webhook-id"] == event.id
    assert heard.headers["Content-Type"] == "application/cloudevents+json"
    assert heard.headers["traceparent"].split("-")[1] == TRACEPARENT.split("-")[1]
    [delivery] = await rig.deliveries(made.id)
    assert (delivery.state, delivery.attempts, delivery.last_status) == ("delivered", 1, 200)


async def test_a_fact_goes_where_its_noun_says_and_to_the_topic_all(rig: Rig):
    topic = await rig.topic("ops")
    await rig.topic("all")
    async with sink_server(Sink()) as ops, sink_server(Sink()) as everything:
        await rig.listener(ops, "ops")
        await rig.listener(everything, "all")

        await rig.hear(succeeded(rig, NotifyChoice(topic="ops", events=["succeeded"])))
        await rig.hear(succeeded(rig, NotifyChoice(topic=topic.id)))
        await rig.hear(succeeded(rig, NotifyChoice(topic="ops", events=["failed"])))
        await rig.hear(fact(DeploymentRunning, at=rig.clock.now, notify=NotifyChoice(topic="ops")))
        await rig.hear(succeeded(rig, notify=None))
        await rig.hear(fact(ModelReady, at=rig.clock.now))
        await rig.deliver()

        assert len(ops.facts) == 3
        while len(everything.facts) < 6:
            await rig.deliver()
        assert len(everything.facts) == 6


async def test_a_subscription_hears_only_what_it_asked_for(rig: Rig, sink: Sink):
    await rig.topic("ops")
    await rig.listener(sink, "ops", events=["task.failed", "deployment.*"])

    await rig.hear(succeeded(rig))
    await rig.hear(fact(TaskFailed, at=rig.clock.now, notify=OPS))
    await rig.hear(fact(DeploymentRunning, at=rig.clock.now, notify=OPS))
    await rig.deliver()

    assert sorted(heard.json["type"] for heard in sink.facts) == [
        "io.finery.deployment.running.v1",
        "io.finery.task.failed.v1",
    ]


async def test_an_unconfirmed_endpoint_gets_nothing_and_later_nothing_from_before(rig: Rig, sink: Sink):
    await rig.topic("ops")
    made = await rig.subscribe(sink, "ops")
    await rig.deliver()
    await rig.hear(succeeded(rig))
    late = succeeded(rig)
    rig.clock.advance(10)

    token = sink.posts[0].json["data"]["token"]
    await rig.ask("subscription.confirm", ConfirmRequest(token=token))
    await rig.hear(late)
    await rig.deliver()

    assert sink.facts == []
    assert await rig.deliveries(made.id) == []


async def test_a_task_cannot_reach_a_topic_of_another_project(rig: Rig, sink: Sink):
    topic = await rig.topic("ops")
    await rig.listener(sink, "ops")

    await rig.hear(succeeded(rig, project="proj_2"))
    await rig.hear(succeeded(rig, NotifyChoice(topic=topic.id), project="proj_2"))
    await rig.deliver()

    assert sink.facts == []


async def test_a_failing_endpoint_is_tried_by_the_schedule_then_the_delivery_is_dead(rig: Rig, sink: Sink):
    await rig.topic("ops")
    made = await rig.listener(sink, "ops")
    sink.answers = [web.Response(status=500) for _ in range(3)]
    await rig.hear(succeeded(rig))

    for wait_s in (0, 4, 2, 299, 40):
        rig.clock.advance(wait_s)
        await rig.deliver()

    [delivery] = await rig.deliveries(made.id)
    assert len(sink.facts) == 3
    assert len({heard.headers["webhook-id"] for heard in sink.facts}) == 1
    assert (delivery.state, delivery.attempts, delivery.last_status) == ("dead", 3, 500)
    assert "given up after 3 attempts" in delivery.last_error
    assert (await rig.said())[-1] == "io.finery.notification.delivery_died.v1"


async def test_an_endpoint_that_recovers_gets_the_fact(rig: Rig, sink: Sink):
    await rig.topic("ops")
    made = await rig.listener(sink, "ops")
    sink.answers = [web.Response(status=503, headers={"Retry-After": "60"})]
    await rig.hear(succeeded(rig))
    await rig.deliver()

    rig.clock.advance(30)
    await rig.deliver()
    assert len(sink.facts) == 1
    rig.clock.advance(31)
    await rig.deliver()

    [delivery] = await rig.deliveries(made.id)
    assert (delivery.state, delivery.attempts) == ("delivered", 2)


async def test_a_redirect_is_a_failure_and_is_not_followed(rig: Rig, sink: Sink):
    await rig.topic("ops")
    made = await rig.listener(sink, "ops")
    async with sink_server(Sink()) as elsewhere:
        sink.answers = [web.Response(status=307, headers={"Location": elsewhere.url})]
        await rig.hear(succeeded(rig))

        await rig.deliver()

        [delivery] = await rig.deliveries(made.id)
        assert (delivery.state, delivery.last_status) == ("waiting", 307)
        assert elsewhere.heard == []


async def test_an_endpoint_that_is_gone_is_switched_off_and_what_waits_for_it_dies_unsent(rig: Rig, sink: Sink):
    await rig.topic("ops")
    made = await rig.listener(sink, "ops")
    sink.answers = [web.Response(status=500), web.Response(status=410)]
    await rig.hear(succeeded(rig))
    await rig.deliver()
    await rig.hear(succeeded(rig))

    await rig.deliver()
    await rig.deliver()
    await rig.hear(succeeded(rig))
    await rig.deliver()

    states = [(delivery.state, delivery.attempts) for delivery in await rig.deliveries(made.id)]
    view = await rig.ask("subscription.get", SubscriptionCommand(subscription=made.id))
    assert sorted(states) == [("dead", 1), ("dead", 1)]
    assert view.state == "disabled"
    assert len(sink.facts) == 2
    assert (await rig.said()).count("io.finery.notification.delivery_died.v1") == 2


async def test_a_name_that_turns_to_an_internal_address_after_submit_is_not_connected_to(tmp_path: Path, sink: Sink):
    answers = {"rebound.example": ["127.0.0.1"]}
    async with notifier_rig(tmp_path, VirtualClock(), lookup=lambda host, _: answers[host]) as rig:
        await rig.topic("ops")
        port = sink.url.rsplit(":", 1)[1]
        named = Sink(url=f"http://rebound.example:{port}", heard=sink.heard)
        made = await rig.listener(named, "ops")
        answers["rebound.example"] = ["10.0.0.1"]
        await rig.hear(succeeded(rig))

        await rig.deliver()

        [delivery] = await rig.deliveries(made.id)
        assert delivery.last_error == "not connected: rebound.example stands for 10.0.0.1, a private address"
        assert sink.facts == []


async def test_an_answer_without_end_is_not_read(rig: Rig, sink: Sink):
    await rig.topic("ops")
    made = await rig.listener(sink, "ops")
    written = 0

    async def endless(request: web.Request) -> web.StreamResponse:
        nonlocal written
        answer = web.StreamResponse()
        await answer.prepare(request)
        while True:
            await answer.write(b"x" * 65_536)
            written += 65_536

    class Endless(Sink):
        async def answer(self, request: web.Request) -> web.StreamResponse:
            return await endless(request)

    async with sink_server(Endless()) as other:
        await rig.database.write(lambda tx: setattr(tx.session.get(SubscriptionRow, made.id), "url", other.url))
        await rig.hear(succeeded(rig))

        await rig.deliver()

    [delivery] = await rig.deliveries(made.id)
    assert delivery.state == "delivered"
    assert written < 32 * 2**20


async def test_a_message_over_the_limit_is_dead_from_the_start_and_says_so(rig: Rig, sink: Sink):
    await rig.topic("ops")
    made = await rig.listener(sink, "ops")
    event = succeeded(rig)
    big = event.model_copy(update={"data": event.data.model_copy(update={"description": "x" * 300_000})})

    await rig.hear(big)
    await rig.deliver()

    [delivery] = await rig.deliveries(made.id)
    assert delivery.state == "dead"
    assert "over the limit of 262,144" in delivery.last_error
    assert sink.facts == []
