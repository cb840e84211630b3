"""The ledger: each fact once, whatever comes in which order how often, and bills that are the sums of their lines."""

from __future__ import annotations

import asyncio
import json
import random
from datetime import timedelta
from decimal import Decimal
from pathlib import Path

import pytest
from billing_rig import AT, PRICES, Rig, attempt_ended, call_of, instance_ended, notifications_metered, usage_recorded
from pydantic import ValidationError

from finery_billing_meter.app import build, refuse_other_currency, routes
from finery_billing_meter.desk import Desk
from finery_billing_meter.ledger import domain
from finery_billing_meter.ledger.usage import used_of
from finery_billing_meter.prices.domain import PriceBook, PriceMissing
from finery_billing_meter.settings import BillingMeterSettings
from finery_contracts.access import Actor, Role
from finery_contracts.billing import Bill, BillRequest, LinePage, LinesRequest
from finery_contracts.envelope import Event
from finery_contracts.ids import new_id
from finery_contracts.prices import PriceList
from finery_contracts.streams import EVENTS, Durable
from finery_contracts.tasks import EndReason
from finery_kit.bus import ask
from finery_kit.bus_init import bus_init
from finery_kit.service import running
from finery_kit.settings import SettingsError
from finery_kit.testing import nats_server

FACTS = [
    attempt_ended(running_s=1234.567),
    instance_ended(running_s=77.7),
    usage_recorded([call_of("dep_1", "key_1", 1000, 10)]),
]


def many_facts(seed: int) -> list[Event]:
    dice = random.Random(seed)
    reasons, facts = list(EndReason), []
    for n in range(40):
        at = AT + timedelta(seconds=dice.uniform(-90_000, 90_000))
        facts.append(
            attempt_ended(
                f"task_{n % 15}", attempt=n // 15 + 1, running_s=dice.uniform(0, 9000), reason=dice.choice(reasons),
                flavour=dice.choice(["cpu", "gpu"]), instances=dice.randint(1, 8), started_at=at,
            )
        )  # fmt: skip
        facts.append(
            instance_ended(f"dep_{n % 4}", instance=f"i_{n % 7}", n=n, running_s=dice.uniform(0, 99), started_at=at)
        )
        calls = [call_of(f"dep_{dice.randint(0, 3)}", f"key_{dice.randint(0, 2)}", dice.randint(0, 9999), 3, at=at)]
        facts.append(usage_recorded(calls * 2, segment=f"seg_{n % 3}", offset=n))
    return facts


def amounts_of(facts: list[Event]) -> dict[str, Decimal]:
    used = used_of(facts, PriceBook(PRICES))
    lines = [*(domain.paid_by_use(interval) for interval in used.intervals.values()), *used.lines.values()]
    return {line.source: domain.from_parts(line.amount_parts) for line in lines}


@pytest.mark.parametrize("event", FACTS, ids=lambda event: event.type)
async def test_the_same_event_twice_changes_nothing_twice(rig: Rig, event: Event):
    assert await rig.hear(event)
    lines, usage, said = await rig.lines(), await rig.ask("usage"), await rig.said()

    assert not await rig.hear(event)
    assert not await rig.hear(event.model_copy(update={"id": new_id("evt")}))

    assert lines
    assert (await rig.lines(), await rig.ask("usage")) == (lines, usage)
    assert len(await rig.said()) == len(said) == 1


@pytest.mark.parametrize("event", FACTS, ids=lambda event: event.type)
async def test_what_slips_past_the_inbox_is_stopped_by_the_key(rig: Rig, event: Event):
    await rig.hear(event)
    lines, usage = await rig.lines(), await rig.ask("usage")

    await rig.hear_past_the_inbox(event)

    assert (await rig.lines(), await rig.ask("usage")) == (lines, usage)
    assert len(await rig.said()) == 1


@pytest.mark.parametrize("seed", range(4))
async def test_any_order_and_any_repetition_gives_the_same_ledger_to_the_last_decimal(rig: Rig, seed: int):
    facts = many_facts(7)
    expected = amounts_of(facts)
    dice = random.Random(seed)
    heard = facts + dice.choices(facts, k=60)
    heard += [fact.model_copy(update={"id": new_id("evt")}) for fact in dice.choices(facts, k=20)]
    dice.shuffle(heard)

    past_the_inbox = {n for n in range(len(heard)) if dice.random() < 0.2}
    for n, fact in enumerate(heard):
        await (rig.hear_past_the_inbox(fact) if n in past_the_inbox else rig.hear(fact))
    bill = await rig.ask("bill.summary")

    assert {line.key: line.amount for line in await rig.lines()} == expected
    assert bill.total == sum(expected.values())


async def test_facts_that_come_all_at_once_are_charged_once(rig: Rig):
    event = attempt_ended()

    answers = await asyncio.gather(*(rig.hear(event) for _ in range(8)), return_exceptions=True)

    assert answers.count(True) == 1  # on Postgres the others may be told to come again
    assert len(await rig.lines()) == 1


@pytest.mark.parametrize("by", ["project", "user", "task", "day", "noun"])
async def test_a_bill_is_the_sum_of_its_lines_however_it_is_grouped(rig: Rig, by: str):
    for event in many_facts(3):
        await rig.hear(event)
    lines = await rig.lines()

    bill = await rig.ask("bill.summary", by=by)

    assert bill.total == sum(line.amount for line in lines) == sum(row.amount for row in bill.rows)
    assert sum(row.quantity for row in bill.rows) == sum(line.quantity for line in lines)
    assert bill.currency == "USD"


async def test_the_rows_of_a_bill_are_named_and_counted_in_their_unit(rig: Rig):
    for event in (*FACTS, attempt_ended("task_2", running_s=3600.0, user="user_9", started_at=AT - timedelta(days=1))):
        await rig.hear(event)

    tasks = {row.key: row for row in (await rig.ask("bill.summary", by="task")).rows if row.unit == "hour"}
    days = [(row.key, row.unit) for row in (await rig.ask("bill.summary", by="day")).rows]
    nouns = {row.key for row in (await rig.ask("bill.summary", by="noun")).rows}
    users = {row.key for row in (await rig.ask("bill.summary", by="user")).rows}

    assert (tasks["task_2"].name, tasks["task_2"].quantity) == ("name of task_2", Decimal(1))
    assert days == [("2026-02-28", "hour"), ("2026-03-01", "hour"), ("2026-03-01", "token")]
    assert nouns == {"task", "deployment", "tokens"}
    assert users == {"user_1", "user_2", "user_9", "key_1"}


async def test_a_bill_is_of_what_started_from_a_moment_on_and_before_another(rig: Rig):
    for n in range(3):
        await rig.hear(attempt_ended(f"task_{n}", started_at=AT.replace(hour=0) + timedelta(days=n)))

    bill = await rig.ask("bill.summary", by="task", since="2026-03-02", until="2026-03-03T00:00:00Z")

    assert [row.key for row in bill.rows] == ["task_1"]
    assert bill.total == Decimal("0.12")
    with pytest.raises(ValidationError, match="timezone"):
        await rig.ask("bill.summary", since="2026-03-02T00:00:00")


@pytest.mark.parametrize(
    ("at", "seen"),
    [
        ("2026-03-02T02:00:00+14:00", True), ("2026-03-02T01:59:59+14:00", False),
        ("2026-03-01T00:00:00-12:00", True), ("2026-02-28T23:59:59-12:00", False),
        ("2026-03-01T17:45:00 05:45", True), ("2026-03-01T17:44:59+0545", False),
        ("2026-03-01", False), ("2026-03-02", True),
    ],
)  # fmt: skip
async def test_a_bill_as_of_a_time_means_that_moment_in_whatever_zone(rig: Rig, at: str, seen: bool):
    rig.clock.now = AT
    await rig.hear(attempt_ended())

    found = await rig.ask("bill.as_of", at=at)

    assert bool(found.rows) is seen


@pytest.mark.parametrize("at", ["0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59-12:00"])
async def test_a_moment_that_utc_does_not_have_is_refused(rig: Rig, at: str):
    with pytest.raises(ValidationError, match="the year 9999"):
        await rig.ask("bill.as_of", at=at)


async def test_nobody_sees_another_projects_lines_cost_or_usage(rig: Rig):
    for event in FACTS:
        await rig.hear(event)

    assert (await rig.ask("bill.summary", project="proj_2")).total == 0
    assert (await rig.ask("bill.lines", project="proj_2")).data == []
    assert (await rig.ask("cost", project="proj_2", noun_id="task_1")).amount == 0
    assert (await rig.ask("usage", project="proj_2")).rows == []


async def test_lines_come_in_pages_oldest_first_and_of_one_noun_when_asked(rig: Rig):
    for n in range(5):
        await rig.hear(attempt_ended(f"task_{n}"))

    first = await rig.ask("bill.lines", limit=3)
    rest = await rig.ask("bill.lines", limit=3, after=first.next)
    of_one = await rig.ask("bill.lines", noun_id="task_3")

    assert (first.has_more, rest.has_more, rest.next) == (True, False, None)
    assert sorted(line.noun_id for line in (*first.data, *rest.data)) == [f"task_{n}" for n in range(5)]
    assert [line.noun_id for line in of_one.data] == ["task_3"]


async def test_the_cost_of_a_task_is_the_sum_of_its_attempts(rig: Rig):
    await rig.hear(attempt_ended(attempt=1, running_s=1800.0))
    await rig.hear(attempt_ended(attempt=2, running_s=900.0, reason=EndReason.LOST))
    await rig.hear(attempt_ended(attempt=3, running_s=1800.0, reason=EndReason.TERMINATED))

    assert (await rig.ask("cost", noun_id="task_1")).amount == Decimal("0.12")
    assert (await rig.ask("cost", noun_id="task_unknown")).amount == 0


async def test_tokens_that_cost_nothing_are_counted_all_the_same(rig: Rig):
    free = [call_of("dep_1", "key_1", 10, 4, at=AT - timedelta(days=1))]
    await rig.hear(usage_recorded(free))
    await rig.hear(usage_recorded([call_of("dep_2", "key_1", 1, 0, at=AT - timedelta(days=1))], offset=9))

    usage, of_one = await rig.ask("usage"), await rig.ask("usage", deployment="dep_2")

    assert await rig.lines() == []
    assert (usage.prompt_tokens, usage.completion_tokens) == (11, 4)
    assert [(row.deployment, row.prompt_tokens, row.completion_tokens) for row in usage.rows] == [
        ("dep_1", 10, 4),
        ("dep_2", 1, 0),
    ]
    assert (of_one.prompt_tokens, of_one.completion_tokens, len(of_one.rows)) == (1, 0, 1)


async def test_notifications_have_a_cost_of_their_own_and_a_channel_without_a_price_is_free(rig: Rig):
    for event in (
        notifications_metered("k1"),
        notifications_metered("k1"),
        notifications_metered("k2", channel="webhook"),
    ):
        await rig.hear(event)

    (line,) = await rig.lines()

    assert (line.noun, line.noun_id, line.unit, line.quantity) == ("notifications", "email", "message", 3)
    assert (line.key, line.amount, line.credit) == (
        "notification:k1",
        Decimal("0.00006"),
        "revenue:notifications:email",
    )


async def test_a_fact_without_a_price_leaves_nothing_behind_and_can_come_again(rig: Rig):
    event = attempt_ended(flavour="tpu")
    with pytest.raises(PriceMissing):
        await rig.hear(event)

    assert await rig.lines() == []
    flavours = {**PRICES.flavours, "tpu": PRICES.flavours["cpu"]}
    assert await Rig(rig.database, PRICES.model_copy(update={"flavours": flavours})).hear(event)
    assert len(await rig.lines()) == 1


async def test_a_change_of_prices_leaves_what_was_written(rig: Rig):
    await rig.hear(attempt_ended())
    dearer = PRICES.model_copy(update={"flavours": {"cpu": PRICES.flavours["gpu"]}})

    await Rig(rig.database, dearer).hear_past_the_inbox(attempt_ended())

    assert [line.amount for line in await rig.lines()] == [Decimal("0.12")]


async def test_another_currency_than_the_ledgers_stops_the_start(rig: Rig):
    euros = PRICES.model_copy(update={"currency": "EUR"})
    await refuse_other_currency(Desk(rig.database, PriceBook(euros)))
    await rig.hear(attempt_ended())

    with pytest.raises(SettingsError, match="EUR, but the ledger has lines in USD"):
        await refuse_other_currency(Desk(rig.database, PriceBook(euros)))


def covers(wide: str, narrow: str) -> bool:
    """Whether every subject of the second pattern is one of the first."""
    parts, wanted = wide.split("."), narrow.split(".")
    if parts[-1] == ">":
        parts, wanted = parts[:-1], wanted[: len(parts) - 1]
    return len(parts) == len(wanted) and all(p in ("*", w) for p, w in zip(parts, wanted, strict=True))


def test_the_durable_hears_all_that_the_routes_name():
    (consumer,) = (spec for spec in EVENTS.consumers if spec.durable == Durable.BILLING_METER)

    heard = routes(PriceBook(PRICES))

    unheard = [kind.__name__ for kind in heard if not any(covers(f, kind.filter_subject()) for f in consumer.filters)]
    assert unheard == []


async def test_a_fact_on_the_bus_becomes_a_line_a_fact_and_a_bill(tmp_path: Path):
    actor = Actor(project="proj_1", project_name="p", user="user_1", key="key_1", role=Role.READ)
    with nats_server(tmp_path / "nats") as url:
        service = build(BillingMeterSettings(nats_url=url, home=tmp_path))
        await service.broker.connect()
        await bus_init(service.client)
        async with running(service):
            client = service.client
            charged = await client.subscribe("finery.evt.*.billing.*.charged")
            event = attempt_ended(running_s=7200.0)
            for _ in range(2):
                await client.jetstream().publish(event.bus_subject, event.model_dump_json().encode())

            said = json.loads((await charged.next_msg(timeout=10)).data)
            bill = await ask(client, "billing-meter", "bill.summary", BillRequest(), Bill, actor=actor)
            page = await ask(client, "billing-meter", "bill.lines", LinesRequest(), LinePage, actor=actor)
            prices = await ask(client, "billing-meter", "prices", None, PriceList, actor=actor)

    (line,) = said["data"]["lines"]
    assert (said["data"]["total"], line["amount"], line["key"]) == ("0.24", "0.24", "task:task_1:1:1")
    assert bill.total == Decimal("0.24")
    assert [line.key for line in page.data] == ["task:task_1:1:1"]
    assert prices.currency == "USD"
