"""A gateway keeps what it said until everybody has heard it, and says it again, once, when the bus has lost it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import nats
import pytest
from gateway_rig import Rig
from test_usage_journal import CHAT, Bus, a_call, a_journal, a_shipper, calls_of

from finery_contracts.access import Actor, Role
from finery_contracts.rebuild import RebuildState
from finery_contracts.streams import EVENTS
from finery_contracts.usage import UsageRecorded
from finery_gateway.shipper import HEARERS, Shipper
from finery_kit.bus import ask, inbox_prefix
from finery_kit.bus_init import bus_init
from finery_kit.nats_server import NatsServer
from finery_kit.ports import free_port
from finery_kit.rebuild import Rebuilder
from finery_kit.service import connected

OPERATOR = Actor(project="prj_1", project_name="p", user="ann", key="key_1", role=Role.OPERATOR)
DAY_S = 86_400


def grow_old(folder: Path, *, days: float) -> None:
    for path in folder.glob("*.jsonl"):
        at = path.stat().st_mtime - days * DAY_S
        os.utime(path, (at, at))


async def hear(rig: Any, durable: str) -> None:
    """Take and acknowledge everything, as the service of that name does."""
    jetstream = rig.client.jetstream()
    subscription = await jetstream.pull_subscribe_bind(durable, EVENTS.name)
    while (await jetstream.consumer_info(EVENTS.name, durable)).num_pending:
        for message in await subscription.fetch(50, timeout=5):
            await message.ack_sync()
    await subscription.unsubscribe()


async def lose_the_stream(rig: Rig) -> None:
    await rig.client.jetstream().delete_stream(EVENTS.name)
    await bus_init(rig.client)


async def call(rig: Rig) -> str:
    async with rig.post(CHAT) as answer:
        await answer.read()
        return answer.headers["X-Request-Id"]


async def test_a_lost_stream_gets_all_usage_again_before_any_new_and_each_call_once(
    rig: Rig, caplog: pytest.LogCaptureFixture
):
    await rig.add_route()
    async with rig.gateway():  # a gateway of earlier: its segment is not the active one any more
        old = [await call(rig) for _ in range(3)]
        await rig.calls(3)
    async with rig.gateway():
        said = [*old, *[await call(rig) for _ in range(3)]]
        await rig.calls(6)
        before = {fact.id: fact for fact in await rig.usage()}
        await rig.client.jetstream().delete_stream(EVENTS.name)
        said.append(await call(rig))
        await rig.until_true(lambda: "usage_waits" in caplog.text)
        await bus_init(rig.client)
        calls = await rig.calls(7)
        facts = await rig.usage()

    assert Counter(one.request_id for one in calls) == Counter(said)
    assert {fact.id: fact for fact in facts if fact.id in before} == before
    for noun in {fact.noun_id for fact in facts}:
        versions = [fact.nounversion for fact in facts if fact.noun_id == noun]
        assert versions == sorted(set(versions))


async def test_an_operator_has_it_compared_and_what_is_there_is_not_said_again(rig: Rig):
    await rig.add_route()
    async with rig.gateway():
        for _ in range(3):
            await call(rig)
        await rig.calls(3)
        facts = await rig.usage()
        await ask(rig.client, "gateway", "rebuild", None, RebuildState, actor=OPERATOR)
        await rig.until_true(lambda: done(rig))
        state = await ask(rig.client, "gateway", "rebuild.state", None, RebuildState, actor=OPERATOR)
        assert (state.checked, state.lost, state.error) == (len(facts), 0, None)
        assert await rig.usage() == facts


async def done(rig: Rig) -> bool:
    return not (await ask(rig.client, "gateway", "rebuild.state", None, RebuildState, actor=OPERATOR)).running


async def test_a_gateway_that_was_away_when_the_stream_was_lost_says_it_when_it_is_back(rig: Rig):
    await rig.add_route()
    async with rig.gateway():
        first = await call(rig)
        await rig.calls(1)
    await lose_the_stream(rig)
    async with rig.gateway():
        assert [one.request_id for one in await rig.calls(1)] == [first]


async def shipped(rig: Any, folder: Path, *, days: int = 31) -> Shipper:
    """A gateway's first segment is on the bus, a second one is active."""
    journal = a_journal(folder)
    await journal.post(a_call(0))
    await journal.post(a_call(1, "proj_b"))
    shipper = Shipper(journal, rig.client.jetstream, 0.01, days)
    await shipper.ship_all()
    await journal.close()
    again = a_journal(folder)
    shipper = Shipper(again, rig.client.jetstream, 0.01, days)
    rebuilder = Rebuilder("gateway", shipper, lambda: rig.client, ())
    shipper.stream = rebuilder
    await rebuilder.look()
    await shipper.ship_all()
    return shipper


async def test_what_was_shipped_goes_after_its_days_and_only_when_everybody_has_heard_it(rig: Rig, tmp_path: Path):
    shipper = await shipped(rig, tmp_path / "usage", days=5)
    journal = shipper.journal
    whole = journal.segments()
    assert (len(whole), sorted(HEARERS)) == (2, ["billing-meter", "studio"])

    for durable in HEARERS:
        await shipper.forget_heard()
        assert journal.segments() == whole
        await hear(rig, durable)
    grow_old(tmp_path / "usage", days=4.9)
    await shipper.forget_heard()
    assert journal.segments() == whole
    grow_old(tmp_path / "usage", days=0.2)
    await shipper.forget_heard()

    assert journal.segments() == [journal.active]
    await journal.post(a_call(2))
    await shipper.ship_all()  # and shipping goes on where it stood
    await journal.close()
    assert [call.request_id for call in await rig.calls(3)] == ["req_0", "req_1", "req_2"]


async def test_unheard_usage_stays_however_old_and_a_new_stream_that_lacks_it_deletes_nothing(rig: Rig, tmp_path: Path):
    shipper = await shipped(rig, tmp_path / "usage", days=5)
    whole = shipper.journal.segments()
    grow_old(tmp_path / "usage", days=400)
    await hear(rig, HEARERS[0])
    await shipper.forget_heard()
    assert shipper.journal.segments() == whole

    await lose_the_stream(rig)
    await shipper.forget_heard()  # the new stream has nothing of it, and nobody knows that yet
    assert shipper.journal.segments() == whole
    assert shipper.stream is not None
    await shipper.stream.look()
    await shipper.forget_heard()
    assert shipper.journal.segments() == whole
    for durable in HEARERS:
        await hear(rig, durable)
    await shipper.forget_heard()
    assert shipper.journal.segments() == [shipper.journal.active]
    await shipper.journal.close()


async def test_the_gateways_own_credential_is_enough_for_all_of_it(tmp_path: Path):
    server = NatsServer(tmp_path, bytes(32), port=free_port())
    await server.start()
    await make_streams(server)
    url, faults = server.url("gateway"), list[str]()

    async def note(fault: Exception) -> None:
        faults.append(repr(fault))

    gateway = await nats.connect(
        url, inbox_prefix=inbox_prefix(url), error_cb=note, max_reconnect_attempts=-1, reconnect_time_wait=0.05
    )
    shipper = await shipped(SimpleNamespace(client=gateway), tmp_path / "usage", days=5)
    assert shipper.stream is not None

    await server.stop()
    shutil.rmtree(server.folder / "jetstream")
    await server.start()
    await make_streams(server)
    await shipper.journal.post(a_call(2))
    async with asyncio.timeout(20):
        while len(await usage_on(server)) < 3:
            with contextlib.suppress(Exception):
                await shipper.ship_all()
            await asyncio.sleep(0.05)
    said = await usage_on(server)
    for durable in HEARERS:
        async with connected(server.url(durable)) as hearer:
            await hear(SimpleNamespace(client=hearer), durable)
    grow_old(tmp_path / "usage", days=6)
    await shipper.forget_heard()
    left = shipper.journal.segments()

    await shipper.journal.close()
    await gateway.close()
    await server.stop()
    assert sorted(said) == ["req_0", "req_1", "req_2"]
    assert left == [shipper.journal.active]
    assert [fault for fault in faults if "permissions" in fault.lower()] == []


async def make_streams(server: NatsServer) -> None:
    async with connected(server.url("init")) as client:
        await bus_init(client)


async def usage_on(server: NatsServer) -> list[str]:
    """Every call that is on the bus."""
    async with connected(server.url("studio")) as client:
        jetstream = client.jetstream()
        last = (await jetstream.stream_info(EVENTS.name)).state.last_seq
        found = [await jetstream.get_msg(EVENTS.name, seq, direct=True) for seq in range(1, last + 1)]
    facts = [UsageRecorded.model_validate_json(message.data or b"") for message in found]
    return [call.request_id for fact in facts for call in fact.data.calls]


async def test_a_batch_that_was_written_down_by_half_was_not_sent_and_is_made_anew(tmp_path: Path):
    journal, bus = a_journal(tmp_path), Bus()
    await journal.post(a_call(0))
    await a_shipper(journal, bus).ship_all()
    await journal.post(a_call(1))
    claims = tmp_path / f"{journal.active}.claims"
    await journal.close()
    with claims.open("ab") as file:
        file.write(b'{"segment":"0000')

    again = a_journal(tmp_path)
    await a_shipper(again, bus).ship_all()
    await again.post(a_call(2))
    await a_shipper(again, bus).ship_all()
    await again.close()

    assert sorted(calls_of(bus)) == ["req_0", "req_1", "req_2"]


async def test_a_full_disk_cannot_tear_what_is_known_of_batches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    journal, bus = a_journal(tmp_path), Bus()
    await journal.post(a_call(0))
    shipper = a_shipper(journal, bus)
    monkeypatch.setattr("finery_gateway.store.os.fsync", full)
    with pytest.raises(OSError, match="No space"):
        await shipper.ship_all()
    assert bus.published == []
    monkeypatch.undo()
    await journal.post(a_call(1))
    await shipper.ship_all()
    assert [claim.start for claim in journal.claims()] == [0]
    await journal.close()
    assert sorted(calls_of(bus)) == ["req_0", "req_1"]


async def test_the_last_batch_of_an_older_home_is_sent_again_and_shipping_goes_on_behind_it(tmp_path: Path):
    journal, bus = a_journal(tmp_path), Bus()
    await journal.post(a_call(0))
    await a_shipper(journal, bus).ship_all()
    (claim,) = journal.claims()
    (tmp_path / f"{claim.segment}.claims").unlink()
    (tmp_path / "cursor.json").write_text(claim.model_dump_json())
    await journal.post(a_call(1))

    await a_shipper(journal, bus).ship_all()

    await journal.close()
    assert sorted(calls_of(bus)) == ["req_0", "req_1"]
    assert bus.published.count(bus.published[0]) == 2
