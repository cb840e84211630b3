"""Standard Webhooks beyond the first message: rotation, the schedule, time-outs, the log, sending again, giving up."""

import asyncio
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path

import pytest
from aiohttp import web
from notifier_rig import Rig, Sink, notifier_rig, sink_server, succeeded
from standardwebhooks import Webhook, WebhookVerificationError

from finery_contracts.errors import Conflict, NotFound
from finery_contracts.notification_requests import (
    DeliveriesRequest,
    DeliveryCommand,
    RedeliverRequest,
    RotateRequest,
    SubscriptionCommand,
)
from finery_kit.testing import VirtualClock
from finery_notifier.adapters import _retry_after_s
from finery_notifier.domain import Patience
from finery_notifier.settings import STANDARD_SCHEDULE_S


async def log_of(rig: Rig, delivery: str):
    return (await rig.ask("delivery.get", DeliveryCommand(delivery=delivery))).log


async def test_both_secrets_sign_until_the_overlap_is_over(rig: Rig, sink: Sink):
    await rig.topic("ops")
    made = await rig.listener(sink, "ops")

    rotated = await rig.ask("subscription.rotate", RotateRequest(subscription=made.id, overlap_s=3600))
    await rig.hear(succeeded(rig))
    await rig.deliver()
    rig.clock.advance(3601)
    await rig.hear(succeeded(rig))
    await rig.deliver()

    during, after = sink.facts
    assert rotated.secret != made.secret
    assert len(during.headers["webhook-signature"].split(" ")) == 2
    for secret in (made.secret, rotated.secret):
        Webhook(secret).verify(during.body, during.headers)
    assert len(after.headers["webhook-signature"].split(" ")) == 1
    Webhook(rotated.secret).verify(after.body, after.headers)
    with pytest.raises(WebhookVerificationError):
        Webhook(made.secret).verify(after.body, after.headers)


async def test_a_leaked_secret_ends_at_once_and_rotating_without_end_is_refused(rig: Rig, sink: Sink):
    await rig.topic("ops")
    made = await rig.listener(sink, "ops")
    for _ in range(3):
        await rig.ask("subscription.rotate", RotateRequest(subscription=made.id))

    with pytest.raises(Conflict) as refused:
        await rig.ask("subscription.rotate", RotateRequest(subscription=made.id))
    await rig.ask("subscription.rotate", RotateRequest(subscription=made.id, overlap_s=0))
    await rig.hear(succeeded(rig))
    await rig.deliver()

    assert refused.value.error_code == "rotating_too_often"
    assert len(sink.facts[0].headers["webhook-signature"].split(" ")) == 1


async def test_the_standard_schedule_is_kept_to_the_second_with_jitter_on_top(tmp_path: Path, sink: Sink):
    patience = Patience(failing_s=10**9)
    async with notifier_rig(tmp_path, VirtualClock(), schedule_s=STANDARD_SCHEDULE_S, patience=patience) as rig:
        await rig.topic("ops")
        made = await rig.listener(sink, "ops")
        sink.answers = [web.Response(status=500) for _ in range(10)]
        await rig.hear(succeeded(rig))
        await rig.deliver()
        waits = []
        for _ in range(9):
            [waiting] = await rig.deliveries(made.id)
            waits.append((waiting.next_attempt_at - rig.clock.now).total_seconds())
            rig.clock.advance(waits[-1] - 0.01)
            await rig.deliver()
            assert len(sink.facts) == len(waits)
            rig.clock.advance(0.02)
            await rig.deliver()
        [dead] = await rig.deliveries(made.id)

    wanted = (5, 300, 1800, 7200, 18_000, 36_000, 50_400, 72_000, 86_400)
    assert all(least <= wait <= least * 1.1 for least, wait in zip(wanted, waits, strict=True))
    assert (dead.state, dead.attempts, len(sink.facts)) == ("dead", 10, 10)


def test_retry_after_is_seconds_or_a_date_and_anything_else_is_nothing():
    now = datetime(2026, 1, 1, tzinfo=UTC)

    assert _retry_after_s("120", now) == 120
    assert _retry_after_s(format_datetime(now + timedelta(minutes=5), usegmt=True), now) == 300
    assert _retry_after_s(format_datetime(now - timedelta(minutes=5), usegmt=True), now) == 0
    assert [_retry_after_s(text, now) for text in ("-1", "soon", "1e9", "", "99999999999", "٣")] == [None] * 6


async def test_an_answer_that_drips_is_a_failure_when_the_time_is_over(rig: Rig, sink: Sink):
    class Dripping(Sink):
        async def answer(self, request: web.Request) -> web.StreamResponse:
            self.heard.append(None)  # type: ignore[arg-type]
            answer = web.StreamResponse()
            await answer.prepare(request)
            while True:
                await answer.write(b".")
                await asyncio.sleep(0.1)

    await rig.topic("ops")
    made = await rig.listener(sink, "ops")
    async with sink_server(Dripping()) as slow:
        await retarget(rig, made.id, slow.url)
        await rig.hear(succeeded(rig))
        await rig.deliver()

    [delivery] = await rig.deliveries(made.id)
    assert (delivery.state, delivery.last_error) == ("waiting", "no whole answer within 2 s")
    [attempt] = await log_of(rig, delivery.id)
    assert 1900 <= attempt.duration_ms <= 10_000


async def retarget(rig: Rig, subscription: str, url: str) -> None:
    from finery_notifier.tables import SubscriptionRow

    await rig.database.write(lambda tx: setattr(tx.session.get(SubscriptionRow, subscription), "url", url))


async def test_the_log_has_request_answer_and_time_and_no_signature(rig: Rig, sink: Sink):
    await rig.topic("ops")
    made = await rig.listener(sink, "ops")
    sink.answers = [web.Response(status=500, text="x" * 10_000, headers={"Set-Cookie": "a=secret", "X-Why": "tired"})]
    await rig.hear(succeeded(rig))
    await rig.deliver()
    rig.clock.advance(6)
    await rig.deliver()

    [delivery] = await rig.deliveries(made.id)
    first, second = await log_of(rig, delivery.id)

    assert (first.number, first.status, first.answer_body, first.error) == (1, 500, "x" * 4096, None)
    assert first.answer_headers["X-Why"] == "tired"
    assert first.answer_headers["Set-Cookie"] == first.request_headers["webhook-signature"] == "***"
    assert first.request_headers["webhook-id"] == delivery.event
    assert (second.number, second.status) == (2, 200)
    assert first.duration_ms > 0
    with pytest.raises(NotFound):
        await rig.ask("delivery.get", DeliveryCommand(delivery=delivery.id), project="proj_2")


async def test_the_answer_to_the_question_is_not_shown_for_it_may_repeat_the_token(rig: Rig):
    class Echo(Sink):
        async def answer(self, request: web.Request) -> web.StreamResponse:
            return web.Response(status=500, body=await request.read())

    await rig.topic("ops")
    async with sink_server(Echo()) as echo:
        made = await rig.subscribe(echo, "ops")
        await rig.deliver()

    page = await rig.ask("delivery.list", DeliveriesRequest(subscription=made.id))
    [attempt] = await log_of(rig, page.data[0].id)
    assert (attempt.status, attempt.answer_body, attempt.answer_headers) == (500, "", {})


async def test_an_idle_connection_that_was_closed_is_no_failed_attempt(rig: Rig):
    """A server that closes every connection after one answer, without saying so beforehand."""
    answered = 0
    transports = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal answered
        transports.append(writer.transport)
        head = await reader.readuntil(b"\r\n\r\n")
        length = int(next((line.split(b":")[1] for line in head.split(b"\r\n") if b"ength" in line), b"0"))
        await reader.readexactly(length)
        answered += 1
        origin = b"WebHook-Allowed-Origin: *\r\n" if head.startswith(b"OPTIONS") else b""
        writer.write(b"HTTP/1.1 200 OK\r\n" + origin + b"Content-Length: 0\r\n\r\n")
        await writer.drain()
        await reader.read(1)  # the next request begins: that is when it leaves
        writer.transport.abort()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    try:
        await rig.topic("ops")
        made = await rig.subscribe(Sink(url=f"http://127.0.0.1:{port}/"), "ops")
        await rig.deliver()
        for _ in range(3):
            await rig.hear(succeeded(rig))
            await rig.deliver()

        found = await rig.deliveries(made.id)
        assert [(delivery.state, delivery.attempts) for delivery in found] == [("delivered", 1)] * 3
        assert answered == 4
    finally:
        server.close()
        for transport in transports:
            transport.abort()


async def test_one_delivery_is_sent_again_under_its_id_with_the_whole_schedule(rig: Rig, sink: Sink):
    await rig.topic("ops")
    made = await rig.listener(sink, "ops")
    sink.answers = [web.Response(status=500) for _ in range(4)]
    await rig.hear(succeeded(rig))
    for wait_s in (0, 6, 340):
        rig.clock.advance(wait_s)
        await rig.deliver()
    [dead] = await rig.deliveries(made.id)

    again = await rig.ask("delivery.redeliver", DeliveryCommand(delivery=dead.id))
    for wait_s in (0, 6):
        rig.clock.advance(wait_s)
        await rig.deliver()

    [delivery] = await rig.deliveries(made.id)
    assert (dead.state, again.state) == ("dead", "waiting")
    assert (delivery.state, delivery.attempts) == ("delivered", 5)
    assert len({heard.headers["webhook-id"] for heard in sink.facts}) == 1
    assert [attempt.number for attempt in await log_of(rig, dead.id)] == [1, 2, 3, 4, 5]


async def test_all_since_a_time_are_sent_again(rig: Rig, sink: Sink):
    await rig.topic("ops")
    made = await rig.listener(sink, "ops")
    await rig.hear(succeeded(rig))
    rig.clock.advance(100)
    since = rig.clock.now
    for _ in range(3):
        await rig.hear(succeeded(rig))
    while len(sink.facts) < 4:
        await rig.deliver()

    none = await rig.ask("subscription.redeliver", RedeliverRequest(subscription=made.id, since=since))
    told = await rig.ask(
        "subscription.redeliver", RedeliverRequest(subscription=made.id, since=since, state="delivered")
    )
    while len(sink.facts) < 7:
        await rig.deliver()

    assert (none.count, told.count) == (0, 3)
    ids = [heard.headers["webhook-id"] for heard in sink.facts]
    assert (len(ids), len(set(ids))) == (7, 4)


async def test_an_endpoint_that_fails_for_long_is_switched_off_its_owner_told_and_enabled_again(
    tmp_path: Path, sink: Sink
):
    async with notifier_rig(tmp_path, VirtualClock(), patience=Patience(failing_s=300)) as rig:
        await rig.topic("ops")
        await rig.topic("all")
        made = await rig.listener(sink, "ops")
        async with sink_server(Sink()) as other:
            told = await rig.listener(other, "all", events=["notification.*"])
            sink.answers = [web.Response(status=500) for _ in range(2)]
            await rig.hear(succeeded(rig))
            await rig.deliver()
            rig.clock.advance(301)
            await rig.deliver()

            await rig.hear_said("subscription_disabled")
            await rig.deliver()
            await rig.hear(succeeded(rig))

            view = await rig.ask("subscription.get", SubscriptionCommand(subscription=made.id))
            assert (view.state, view.created_by) == ("disabled", "user_1")
            assert "every attempt since" in view.why
            [message] = other.facts
            assert message.json["type"] == "io.finery.notification.subscription_disabled.v1"
            assert message.json["data"]["id"] == made.id
            assert (await rig.deliveries(told.id))[0].state == "delivered"

        enabled = await rig.ask("subscription.enable", SubscriptionCommand(subscription=made.id))
        await rig.deliver()
        await rig.hear(succeeded(rig))
        await rig.deliver()
        assert (enabled.state, enabled.why, enabled.failing_since) == ("confirmed", None, None)
        assert len(sink.facts) == 3


async def test_dead_letters_in_a_row_switch_off_and_one_success_begins_again(tmp_path: Path, sink: Sink):
    async with notifier_rig(tmp_path, VirtualClock(), schedule_s=(), patience=Patience(dead_in_row=2)) as rig:
        await rig.topic("ops")
        made = await rig.listener(sink, "ops")
        states = []
        for status in (500, 200, 500, 500):
            sink.answers = [web.Response(status=status)]
            await rig.hear(succeeded(rig))
            await rig.deliver()
            states.append((await rig.ask("subscription.get", SubscriptionCommand(subscription=made.id))).state)

    assert states == ["confirmed", "confirmed", "confirmed", "disabled"]


async def test_who_never_agreed_cannot_be_enabled_or_sent_to_again(rig: Rig, sink: Sink):
    await rig.topic("ops")
    made = await rig.subscribe(sink, "ops")

    for verb, body in (
        ("subscription.enable", SubscriptionCommand(subscription=made.id)),
        ("subscription.redeliver", RedeliverRequest(subscription=made.id, since=rig.clock.now)),
    ):
        with pytest.raises(Conflict):
            await rig.ask(verb, body)
