"""Every answered call reaches the bus exactly once, whatever dies in between."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from gateway_rig import Rig

from finery_contracts.errors import Unavailable
from finery_contracts.usage import CallUsage
from finery_gateway.shipper import Shipper, events_of
from finery_gateway.store import Claim, Journal

CHAT = {"model": "chat", "messages": [{"role": "user", "content": "hi"}]}


def a_call(number: int, project: str = "proj_a") -> CallUsage:
    return CallUsage(
        request_id=f"req_{number}", at=datetime(2026, 1, 1, tzinfo=UTC), project=project, key="key_1",
        deployment="dep_1", model="chat", prompt_tokens=7, completion_tokens=3, duration_ms=1.0, status=200,
    )  # fmt: skip


def a_journal(folder: Path, segment_bytes: int = 1 << 20) -> Journal:
    journal = Journal(folder, segment_bytes=segment_bytes)
    journal.open()
    return journal


class Bus:
    """Remembers what is published, deduplicates as JetStream does, and breaks when told."""

    def __init__(self) -> None:
        self.messages: dict[str, bytes] = {}
        self.published: list[str] = []
        self.breaks_after: int | None = None

    async def publish(self, subject: str, body: bytes, *, stream: str, headers: dict[str, str]) -> None:
        if self.breaks_after is not None and len(self.published) >= self.breaks_after:
            raise ConnectionError("the bus is away")
        self.published.append(headers["Nats-Msg-Id"])
        assert self.messages.setdefault(headers["Nats-Msg-Id"], body) == body, "one id, two messages"


def a_shipper(journal: Journal, bus: Bus) -> Shipper:
    stand_in: Any = bus
    return Shipper(journal, lambda: stand_in, 0.01)


def calls_of(bus: Bus) -> list[str]:
    return [line.split('"')[0] for body in bus.messages.values() for line in body.decode().split('"request_id":"')[1:]]


async def test_calls_are_counted_and_nothing_that_was_said_is_kept(rig: Rig):
    await rig.add_route()
    async with rig.gateway():
        async with rig.post({**CHAT, "messages": [{"role": "user", "content": "my secret"}]}) as answer:
            await answer.read()
        async with rig.post({**CHAT, "stream": True}) as answer:
            await answer.read()
        calls = await rig.calls(2)
        (fact, *_) = await rig.usage()
    assert [(call.prompt_tokens, call.completion_tokens, call.status) for call in calls] == [(7, 3, 200), (7, 2, 200)]
    assert {(call.project, call.key, call.deployment, call.model) for call in calls} == {
        ("proj_a", "key_fk-good", "dep_chat", "chat")
    }
    assert fact.bus_subject == f"finery.evt.proj_a.usage.{fact.data.segment}-proj_a.recorded"
    assert "my secret" not in "".join(path.read_text() for path in (rig.home / "gateway").rglob("*.jsonl"))


async def test_a_call_is_on_disk_before_the_last_byte_of_its_answer(rig: Rig):
    await rig.add_route()
    async with rig.gateway(gateway_ship_interval_s=3600):
        for ask in (CHAT, {**CHAT, "stream": True}):
            async with rig.post(ask) as answer:
                await answer.read()
                lines = "".join(path.read_text() for path in (rig.home / "gateway").rglob("*.jsonl"))
                assert answer.headers["X-Request-Id"] in lines


async def test_projects_are_told_apart_in_messages_of_their_own(rig: Rig):
    await rig.add_route()
    await rig.add_route("chat", project="proj_b", deployment="dep_b")
    await rig.add_key("fk-b", project="proj_b")
    async with rig.gateway(gateway_ship_interval_s=0.5):
        for key in ("fk-good", "fk-b", "fk-good"):
            async with rig.post(CHAT, key=key) as answer:
                await answer.read()
        await rig.calls(3)
        facts = await rig.usage()
    for fact in facts:
        assert {call.project for call in fact.data.calls} == {fact.project}
    assert len({(fact.noun_id, fact.nounversion) for fact in facts}) == len(facts)


async def test_what_a_gateway_left_on_disk_the_next_one_ships(rig: Rig):
    # given: a gateway that died after it had answered, before it had shipped
    journal = a_journal(rig.home / "gateway" / "usage")
    for number in range(3):
        await journal.post(a_call(number))
    await journal.close()

    # when
    async with rig.gateway():
        calls = await rig.calls(3)
    async with rig.gateway():
        pass

    # then
    assert sorted(call.request_id for call in calls) == ["req_0", "req_1", "req_2"]
    assert len(await rig.calls(3)) == 3


async def test_a_crash_between_claim_and_acknowledgement_sends_the_same_messages_again(tmp_path: Path):
    # given: two projects, and a bus that breaks after the first one's message
    journal, bus = a_journal(tmp_path), Bus()
    await asyncio.gather(journal.post(a_call(0)), journal.post(a_call(1, "proj_b")))
    bus.breaks_after = 1
    with pytest.raises(ConnectionError):
        await a_shipper(journal, bus).ship_all()
    await journal.post(a_call(2))
    await journal.close()

    # when: the next gateway finds more lines than the batch had
    bus.breaks_after = None
    again = a_journal(tmp_path)
    await a_shipper(again, bus).ship_all()
    await again.close()

    # then
    assert sorted(calls_of(bus)) == ["req_0", "req_1", "req_2"]
    assert len(bus.published) == len(set(bus.published)) + 1


async def test_a_crash_after_acknowledgement_doubles_nothing(tmp_path: Path):
    journal, bus = a_journal(tmp_path), Bus()
    await journal.post(a_call(0))
    await a_shipper(journal, bus).ship_all()
    await a_shipper(journal, bus).ship_all()  # a new shipper knows only the cursor
    await journal.post(a_call(1))
    await a_shipper(journal, bus).ship_all()
    await journal.close()
    assert sorted(calls_of(bus)) == ["req_0", "req_1"]


async def test_a_line_that_was_torn_by_a_crash_is_dropped_and_the_ones_before_it_are_not(tmp_path: Path):
    journal, bus = a_journal(tmp_path), Bus()
    await journal.post(a_call(0))
    segment = tmp_path / f"{journal.active}.jsonl"
    await journal.close()
    with segment.open("ab") as file:
        file.write(b'{"request_id":"req_torn", "at"')
    again = a_journal(tmp_path)
    await a_shipper(again, bus).ship_all()
    await again.close()
    assert calls_of(bus) == ["req_0"]


async def test_segments_roll_and_stay_when_they_are_shipped(tmp_path: Path):
    journal, bus = a_journal(tmp_path, segment_bytes=1024), Bus()
    for number in range(20):
        await journal.post(a_call(number))
    before = journal.segments()
    await a_shipper(journal, bus).ship_all()
    assert len(before) > 3
    assert journal.segments() == before
    assert sorted(calls_of(bus)) == sorted(f"req_{number}" for number in range(20))
    assert journal.active > before[0]
    await journal.close()


async def test_segment_names_are_never_used_again(tmp_path: Path):
    journal, bus = a_journal(tmp_path), Bus()
    await journal.post(a_call(0))
    await a_shipper(journal, bus).ship_all()
    first = journal.active
    await journal.close()
    (tmp_path / f"{first}.jsonl").unlink()
    again = a_journal(tmp_path)
    assert int(again.active.split("-")[0]) > int(first.split("-")[0])
    await again.close()


async def test_a_folder_has_one_gateway(tmp_path: Path):
    journal = a_journal(tmp_path)
    with pytest.raises(Unavailable) as taken:
        a_journal(tmp_path)
    await journal.close()
    assert taken.value.error_code == "journal_taken"


async def test_a_call_that_cannot_be_written_down_is_not_answered(rig: Rig, monkeypatch: pytest.MonkeyPatch):
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    await rig.add_route()
    async with rig.gateway():
        monkeypatch.setattr("finery_gateway.store.os.fsync", full)
        status, code, _ = await rig.refusal(CHAT)
        async with rig.post({**CHAT, "stream": True}) as streamed:
            got = await streamed.read()
        monkeypatch.undo()
        async with rig.post(CHAT) as answer:
            assert answer.status == 200
        (call,) = await rig.calls(1)
    assert (status, code) == (503, "usage_journal_failed")
    assert b"usage_journal_failed" in got
    assert b"[DONE]" not in got
    assert call.request_id == answer.headers["X-Request-Id"]


def test_the_same_bytes_always_make_the_same_facts():
    claim = Claim(segment="00000001-x", start=128, end=900)
    data = b"".join(a_call(n, f"proj_{n % 2}").model_dump_json().encode() + b"\n" for n in range(4)) + b"garbage\n"
    one, other = events_of(claim, data), events_of(claim, data)
    assert one == other
    assert [(fact.project, fact.nounversion, len(fact.data.calls)) for fact in one] == [
        ("proj_0", 128, 2),
        ("proj_1", 128, 2),
    ]
