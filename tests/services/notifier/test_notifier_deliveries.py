"""Facts on their way to endpoints: who gets them, signed how, tried how often, and what a crash changes."""

import asyncio
from datetime import timedelta
from pathlib import Path

import pytest
from aiohttp import web
from notifier_rig import LEASE_S, TRACEPARENT, Rig, Sink, fact, notifier_rig, sink_server, verify
from sqlmodel import select

from finery_contracts.deployments import DeploymentRunning
from finery_contracts.envelope import Event
from finery_contracts.models import ModelReady
from finery_contracts.notifications import ConfirmRequest, SubscriptionCommand
from finery_contracts.streams import EVENTS, Durable
from finery_contracts.tasks import NotifyChoice, TaskFailed, TaskSucceeded
from finery_kit.db import Transaction
from finery_kit.testing import VirtualClock
from finery_notifier import store
from finery_notifier.app import ROUTES
from finery_notifier.courier import PER_ENDPOINT, Parcel
from finery_notifier.domain import Outcome, Purpose
from finery_notifier.store import DeliveryRow, SubscriptionRow

OPS = NotifyChoice(topic="ops")


class FakeMail:
    """Says 200 to everything; endpoints in ``hanging`` answer when released."""

    def __init__(self) -> None:
        self.sent: list[Parcel] = []
        self.hanging: set[str] = set()
        self.release = asyncio.Event()

    async def send(self, parcel: Parcel) -> Outcome:
        self.sent.append(parcel)
        if parcel.endpoint in self.hanging:
            await self.release.wait()
        return Outcome(status=200, agreed=parcel.purpose is Purpose.CONFIRMATION)


def succeeded(rig: Rig, notify: NotifyChoice | None = OPS, **more) -> Event:
    return fact(TaskSucceeded, at=rig.clock.now, notify=notify, **more)


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
    heard = {filter_.split(".")[3] for filter_ in consumer.filters}

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


async def test_what_was_stored_before_a_crash_is_delivered_by_the_next_process(tmp_path: Path, sink: Sink):
    clock = VirtualClock()
    async with notifier_rig(tmp_path, clock) as before:
        await before.topic("ops")
        made = await before.listener(sink, "ops")
        await before.hear(succeeded(before))

    async with notifier_rig(tmp_path, clock) as after:
        await after.deliver()

        assert [delivery.state for delivery in await after.deliveries(made.id)] == ["delivered"]
    assert len(sink.facts) == 1


async def test_what_a_killed_replica_had_taken_is_delivered_when_its_lease_ends(tmp_path: Path, sink: Sink):
    clock, mail = VirtualClock(), FakeMail()
    async with notifier_rig(tmp_path, clock, mail=mail) as killed, notifier_rig(tmp_path, clock) as other:
        await other.topic("ops")
        made = await other.listener(sink, "ops")
        mail.hanging = {sink.url.removesuffix("/hook")}
        await killed.hear(succeeded(killed))
        await killed.courier.start_due()

        await other.deliver()
        assert sink.facts == []
        clock.advance(LEASE_S + 1)
        await other.deliver()
        mail.release.set()
        await killed.courier.landed()

        [delivery] = await other.deliveries(made.id)
        assert (delivery.state, delivery.attempts, len(sink.facts)) == ("delivered", 1, 1)


async def test_replicas_share_what_is_due_and_send_nothing_twice(tmp_path: Path, sink: Sink):
    clock, mail = VirtualClock(), FakeMail()
    async with notifier_rig(tmp_path, clock, mail=mail) as one, notifier_rig(tmp_path, clock, mail=mail) as two:
        await one.topic("ops")
        await one.subscribe(sink, "ops")
        await one.deliver()
        for _ in range(40):
            await one.hear(succeeded(one))
        mail.sent.clear()

        while len(mail.sent) < 40:
            await asyncio.gather(one.deliver(), two.deliver())

        assert len({parcel.delivery for parcel in mail.sent}) == len(mail.sent) == 40


async def test_an_endpoint_that_hangs_takes_four_places_and_holds_up_nobody(tmp_path: Path, sink: Sink):
    mail = FakeMail()
    async with notifier_rig(tmp_path, VirtualClock(), mail=mail) as rig, sink_server(Sink()) as lively:
        await rig.topic("slow")
        await rig.topic("ops")
        await rig.subscribe(sink, "slow")
        await rig.subscribe(lively, "ops")
        await rig.deliver()
        mail.sent.clear()
        mail.hanging = {sink.url.removesuffix("/hook")}
        for _ in range(70):
            await rig.hear(succeeded(rig, NotifyChoice(topic="slow")))
        await rig.hear(succeeded(rig))

        await rig.courier.start_due()
        await rig.courier.start_due()
        # One turn of the loop lets the attempts begin.
        await asyncio.sleep(0)

        sent = [parcel.url for parcel in mail.sent]
        assert (sent.count(sink.url), sent.count(lively.url)) == (PER_ENDPOINT, 1)
        mail.release.set()
        await rig.courier.landed()


async def test_a_courier_that_stops_hands_back_what_it_could_not_finish(
    tmp_path: Path, sink: Sink, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("finery_notifier.courier.DRAIN_S", 0.05)
    clock, mail = VirtualClock(), FakeMail()
    async with notifier_rig(tmp_path, clock, mail=mail) as stopping, notifier_rig(tmp_path, clock) as other:
        await other.topic("ops")
        await other.listener(sink, "ops")
        mail.hanging = {sink.url.removesuffix("/hook")}
        await stopping.hear(succeeded(stopping))
        await stopping.courier.start_due()

        await stopping.courier.drain()
        await other.deliver()

        assert len(sink.facts) == 1


async def test_giving_back_what_another_replica_took_since_changes_nothing(rig: Rig, sink: Sink):
    await rig.topic("ops")
    made = await rig.listener(sink, "ops")
    await rig.hear(succeeded(rig))
    seen = (await rig.deliveries(made.id))[0]

    def take_then_give_back(tx: Transaction) -> None:
        [(taken, _)] = store.claim_due(tx, room=1, in_flight={}, per_endpoint=4, lease_s=LEASE_S)
        store.give_back(tx, {taken.id: taken.version - 1})

    await rig.database.write(take_then_give_back)

    after = (await rig.deliveries(made.id))[0]
    assert after.next_attempt_at == seen.next_attempt_at + timedelta(seconds=LEASE_S)


async def test_a_subscription_that_is_deleted_while_an_attempt_is_under_way_leaves_nothing(tmp_path: Path, sink: Sink):
    mail = FakeMail()
    async with notifier_rig(tmp_path, VirtualClock(), mail=mail) as rig:
        await rig.topic("ops")
        made = await rig.subscribe(sink, "ops")
        await rig.deliver()
        mail.hanging = {sink.url.removesuffix("/hook")}
        await rig.hear(succeeded(rig))
        await rig.courier.start_due()

        await rig.ask("subscription.delete", SubscriptionCommand(subscription=made.id))
        mail.release.set()
        await rig.courier.landed()

        assert await rig.database.read(lambda session: list(session.exec(select(DeliveryRow)))) == []


async def test_the_loop_wakes_for_a_retry_by_itself(tmp_path: Path, sink: Sink):
    async with notifier_rig(tmp_path, VirtualClock()) as rig:
        await rig.topic("ops")
        await rig.listener(sink, "ops")
        sink.answers = [web.Response(status=500)]
        await rig.hear(succeeded(rig))
        await rig.deliver()
        rig.clock.advance(4.9)

        wait_s = await rig.courier.start_due()

        assert 0.05 < wait_s <= 0.6
