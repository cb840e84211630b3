"""What a crash, a second replica or a hanging endpoint changes for deliveries: nothing that a subscriber sees."""

import asyncio
from datetime import timedelta
from pathlib import Path

import pytest
from aiohttp import web
from notifier_rig import LEASE_S, Rig, Sink, notifier_rig, sink_server, succeeded
from sqlmodel import select

from finery_contracts.notification_requests import SubscriptionCommand
from finery_contracts.tasks import NotifyChoice
from finery_kit.db import Transaction
from finery_kit.testing import VirtualClock
from finery_notifier import deliveries
from finery_notifier.courier import Parcel
from finery_notifier.domain import Outcome, Purpose
from finery_notifier.lanes import FIRST
from finery_notifier.tables import DeliveryRow

OPS = NotifyChoice(topic="ops")

pytestmark = pytest.mark.usefixtures("service_database")


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


async def test_an_endpoint_that_hangs_takes_few_places_and_holds_up_nobody(tmp_path: Path, sink: Sink):
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
        assert sent.count(sink.url) <= FIRST + 1  # it answered quickly once
        assert sent.count(lively.url) == 1
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
        [(taken, _)] = deliveries.claim_due(tx, room=1, in_flight={}, limit=lambda _: 4, closed=(), lease_s=LEASE_S)
        deliveries.give_back(tx, {taken.id: taken.version - 1})

    await rig.database.write(take_then_give_back)

    after = (await rig.deliveries(made.id))[0]
    assert after.next_attempt_at == seen.next_attempt_at + timedelta(seconds=LEASE_S)


async def test_of_large_bodies_fewer_are_taken_at_once_and_none_is_left(
    rig: Rig, sink: Sink, monkeypatch: pytest.MonkeyPatch
):
    await rig.topic("ops")
    await rig.listener(sink, "ops")
    facts = [succeeded(rig) for _ in range(4)]
    for event in facts:
        await rig.hear(event)
    monkeypatch.setattr(deliveries, "TAKEN_BYTES", len(facts[0].model_dump_json()) + 1)

    await rig.deliver()
    first = len(sink.facts)
    await rig.deliver()

    assert (first, len(sink.facts)) == (2, 4)


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
