"""Topics and subscriptions: made, confirmed by who owns the endpoint, seen by their project only."""

import logging

import pytest
from aiohttp import web
from notifier_rig import Rig, Sink, fact, verify
from sqlmodel import select

from finery_contracts.errors import Conflict, InvalidRequest, NotFound, Unprocessable
from finery_contracts.notification_requests import (
    ConfirmRequest,
    PageRequest,
    SubscriptionCommand,
    SubscriptionRequest,
    TopicCommand,
    TopicRequest,
)
from finery_contracts.notifications import SubscriptionState
from finery_contracts.tasks import NotifyChoice, TaskSucceeded
from finery_kit.delivery_tables import IdempotencyRow
from finery_notifier.tables import DeliveryRow, SubscriptionRow, TopicRow


async def rows(rig: Rig, table: type) -> list:
    return await rig.database.read(lambda session: list(session.exec(select(table))))


async def state_of(rig: Rig, subscription: str) -> SubscriptionState:
    return (await rig.ask("subscription.get", SubscriptionCommand(subscription=subscription))).state


async def test_the_endpoint_is_asked_with_a_signed_message_and_confirms_by_its_token(rig: Rig, sink: Sink):
    await rig.topic("ops")
    made = await rig.subscribe(sink, "ops")

    await rig.deliver()

    handshake, question = sink.heard
    assert (handshake.method, handshake.headers["WebHook-Request-Origin"]) == ("OPTIONS", "finery")
    message = verify(made.secret, question)
    assert message["type"] == "io.finery.subscription.confirmation.v1"
    assert message["data"]["subscription"] == made.id
    assert message["data"]["confirm_url"] == f"https://finery.example/confirm/{message['data']['token']}"
    assert await state_of(rig, made.id) == "pending"

    confirmed = await rig.ask("subscription.confirm", ConfirmRequest(token=message["data"]["token"]))
    again = await rig.ask("subscription.confirm", ConfirmRequest(token=message["data"]["token"]))

    assert (confirmed.state, confirmed.secret) == ("confirmed", None)
    assert again == confirmed
    assert await rig.said() == ["io.finery.notification.subscription_confirmed.v1"]


@pytest.mark.parametrize("origin", ["*", "finery"])
async def test_an_endpoint_that_speaks_the_handshake_is_confirmed_at_once(rig: Rig, sink: Sink, origin: str):
    sink.handshake = {"WebHook-Allowed-Origin": origin}
    await rig.topic("ops")

    made = await rig.subscribe(sink, "ops")
    await rig.deliver()

    assert await state_of(rig, made.id) == "confirmed"
    assert sink.posts == []
    assert await rig.said() == ["io.finery.notification.subscription_confirmed.v1"]


async def test_a_handshake_for_somebody_else_confirms_nothing(rig: Rig, sink: Sink):
    sink.handshake = {"WebHook-Allowed-Origin": "other.example"}
    await rig.topic("ops")

    made = await rig.subscribe(sink, "ops")
    await rig.deliver()

    assert await state_of(rig, made.id) == "pending"
    assert len(sink.posts) == 1


async def test_a_confirmation_that_fails_is_asked_again_until_its_time_is_over(rig: Rig, sink: Sink):
    sink.answers = [web.Response(status=500), web.Response(status=500)]
    await rig.topic("ops")
    made = await rig.subscribe(sink, "ops")
    await rig.deliver()
    rig.clock.advance(6)
    await rig.deliver()
    token = sink.posts[-1].json["data"]["token"]

    rig.clock.advance(86_400)
    await rig.deliver()

    assert len(sink.posts) == 2
    with pytest.raises(Conflict) as expired:
        await rig.ask("subscription.confirm", ConfirmRequest(token=token))
    assert expired.value.error_code == "confirmation_expired"
    assert await state_of(rig, made.id) == "pending"


async def test_an_unknown_token_confirms_nothing(rig: Rig):
    with pytest.raises(NotFound) as unknown:
        await rig.ask("subscription.confirm", ConfirmRequest(token="guess"))

    assert unknown.value.error_code == "confirmation_unknown"


@pytest.mark.parametrize("url", ["http://[::1]:9/", "http://10.0.0.1/", "http://169.254.169.254/", "ftp://x.example/"])
async def test_an_internal_url_is_refused_at_submit_and_leaves_nothing_behind(rig: Rig, url: str):
    await rig.topic("ops")

    with pytest.raises(InvalidRequest) as refused:
        await rig.ask("subscription.create", SubscriptionRequest(topic="ops", url=url), key="k")

    assert refused.value.error_code == "url_not_allowed"
    assert [await rows(rig, table) for table in (SubscriptionRow, DeliveryRow, IdempotencyRow)] == [[], [], []]


async def test_an_unknown_event_is_refused_at_submit(rig: Rig, sink: Sink):
    await rig.topic("ops")

    with pytest.raises(InvalidRequest, match=r"task\.succeeded"):
        await rig.subscribe(sink, "ops", events=["task.succeded"])

    assert await rows(rig, SubscriptionRow) == []


async def test_a_topic_name_is_taken_once_in_a_project_and_free_in_another(rig: Rig):
    await rig.topic("ops")

    with pytest.raises(Conflict) as taken:
        await rig.topic("ops")
    other = await rig.topic("ops", project="proj_2")

    assert taken.value.error_code == "name_taken"
    assert other.project == "proj_2"


async def test_the_same_request_under_one_key_is_carried_out_once(rig: Rig, sink: Sink):
    first = await rig.ask("topic.create", TopicRequest(name="ops"), key="k1")
    again = await rig.ask("topic.create", TopicRequest(name="ops"), key="k1")
    wanted = SubscriptionRequest(topic="ops", url=sink.url)
    one = await rig.ask("subscription.create", wanted, key="k2")
    two = await rig.ask("subscription.create", wanted, key="k2")

    assert (first, one) == (again, two)
    assert len(await rows(rig, DeliveryRow)) == 1
    with pytest.raises(Unprocessable) as reused:
        await rig.ask("topic.create", TopicRequest(name="dev"), key="k1")
    assert reused.value.error_code == "idempotency_key_reused"


async def test_lists_are_pages(rig: Rig):
    names = [f"t{n}" for n in range(5)]
    for name in names:
        await rig.topic(name)

    first = await rig.ask("topic.list", PageRequest(limit=3))
    rest = await rig.ask("topic.list", PageRequest(limit=3, after=first.next))

    assert (first.has_more, rest.has_more, rest.next) == (True, False, None)
    assert sorted(topic.name for topic in first.data + rest.data) == names


async def test_another_project_sees_and_changes_nothing(rig: Rig, sink: Sink):
    topic = await rig.topic("ops")
    made = await rig.listener(sink, "ops")

    for verb, body in (
        ("subscription.get", SubscriptionCommand(subscription=made.id)),
        ("subscription.delete", SubscriptionCommand(subscription=made.id)),
        ("topic.delete", TopicCommand(topic=topic.id)),
        ("topic.delete", TopicCommand(topic="ops")),
        ("subscription.create", SubscriptionRequest(topic=topic.id, url=sink.url)),
    ):
        with pytest.raises(NotFound):
            await rig.ask(verb, body, project="proj_2")
    assert (await rig.ask("subscription.list", PageRequest(), project="proj_2")).data == []
    assert await state_of(rig, made.id) == "confirmed"


async def test_a_deleted_topic_takes_its_subscriptions_and_what_waits_along(rig: Rig, sink: Sink):
    topic = await rig.topic("ops")
    await rig.listener(sink, "ops")
    await rig.hear(fact(TaskSucceeded, at=rig.clock.now, notify=NotifyChoice(topic="ops")))

    await rig.ask("topic.delete", TopicCommand(topic=topic.id))
    await rig.deliver()

    assert [await rows(rig, table) for table in (TopicRow, SubscriptionRow, DeliveryRow)] == [[], [], []]
    assert sink.facts == []


async def test_the_secret_and_the_token_are_shown_where_they_belong_and_nowhere_else(
    rig: Rig, sink: Sink, caplog: pytest.LogCaptureFixture
):
    caplog.set_level(logging.DEBUG, logger="finery")
    await rig.topic("ops")
    made = await rig.listener(sink, "ops")
    await rig.hear(fact(TaskSucceeded, at=rig.clock.now, notify=NotifyChoice(topic="ops")))
    await rig.deliver()

    token = sink.posts[0].json["data"]["token"]
    listed = await rig.ask("subscription.list", PageRequest())
    logged = "".join(str(record.__dict__) for record in caplog.records)

    assert made.secret.startswith("whsec_")
    assert listed.data[0].secret is None
    assert "delivery_attempt" in logged
    assert made.secret not in logged
    assert token not in logged
