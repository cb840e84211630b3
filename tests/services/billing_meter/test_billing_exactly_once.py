"""Every fact ten times, in any order, with crashes between: the ledger says what the oracle says, to a billionth."""

from __future__ import annotations

import asyncio
import random
import subprocess
import sys
from collections import defaultdict
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path

import pytest
from billing_oracle import Net, expected
from billing_rig import PRICES, Rig, attempt_ended, call_of, instance_ended, notifications_metered, usage_recorded
from billing_worker import meter

from finery_billing_meter.packages import handlers as packages
from finery_contracts.envelope import Event
from finery_contracts.ids import new_id
from finery_contracts.packages import PackageView
from finery_contracts.prices import HourPrice, PackageOffer
from finery_contracts.tasks import EndReason

FIRST = datetime(2026, 1, 31, 5, tzinfo=UTC)
OFFERS = [
    PackageOffer(name="month", flavour="gpu", hours=Decimal(40), valid_months=1, price=Decimal(17)),
    PackageOffer(
        name="quarter", flavour="gpu", hours=Decimal("25.5"), valid_months=3, reset="month", price=Decimal(99)
    ),
    PackageOffer(name="cpu", flavour="cpu", hours=Decimal(9), valid_days=40, price=Decimal("3.333333333")),
]  # fmt: skip


class Crash(Exception):
    """The process died before the commit."""


def random_facts(dice: random.Random, count: int) -> list[Event]:
    facts: list[Event] = []
    for n in range(count):
        at = FIRST + timedelta(seconds=dice.uniform(0, 100 * 86_400))
        project, flavour = dice.choice(["proj_1", "proj_2"]), dice.choice(["cpu", "gpu"])
        seconds = dice.choice([dice.uniform(0, 200_000), dice.uniform(0, 10), float(dice.randint(1, 50) * 3600), 0.0])
        facts.append(
            attempt_ended(
                f"task_{n}", attempt=dice.randint(1, 3), running_s=seconds, reason=dice.choice(list(EndReason)),
                flavour=flavour, instances=dice.randint(1, 4), started_at=at, project=project,
                pool=dice.choice(["public", "public", "public_2", "pool_own"]),
            )
        )  # fmt: skip
        if n % 3 == 0:
            facts.append(
                instance_ended(
                    f"dep_{n}", instance=f"i_{n}", n=1, running_s=seconds / 2, started_at=at, project=project,
                    billed=dice.random() < 0.8,
                )
            )  # fmt: skip
            channel = dice.choice(["email", "webhook"])
            facts.append(notifications_metered(f"told_{n}", channel=channel, count=dice.randint(0, 10**6), at=at))
            calls = [call_of(f"dep_{n}", f"key_{k}", dice.randint(0, 10**6), dice.randint(0, 999), at=at) for k in "ab"]
            facts.append(usage_recorded(calls * 2, segment=f"seg_{n}", offset=n, project=project))
    return facts


def prices_of(dice: random.Random):
    flavours = {}
    for flavour in ("cpu", "gpu"):
        starts = sorted(FIRST + timedelta(days=dice.randint(1, 100)) for _ in range(3))
        flavours[flavour] = [
            HourPrice(valid_from=start, per_hour=Decimal(dice.randint(1, 10**9)) / 10**8)
            for start in [FIRST - timedelta(days=1), *dict.fromkeys(starts)]
        ]
    tokens = [version.model_copy(update={"valid_from": FIRST}) for version in PRICES.tokens[1:]]
    return PRICES.model_copy(update={"flavours": flavours, "tokens": tokens, "packages": OFFERS})


async def net_of(rig: Rig) -> Net:
    found: dict[tuple[str, str, int], list[Decimal]] = defaultdict(lambda: [Decimal(0), Decimal(0)])
    for line in await rig.lines():
        if line.key.split("#")[0].endswith(":expired"):
            continue
        source = line.key.split("#")[0].split("/")[0]
        sums = found[source, line.package or "", -1 if line.period is None else line.period]
        sums[0] += line.quantity
        sums[1] += line.amount
    return {key: (sums[0], sums[1]) for key, sums in found.items() if any(sums)}


async def deliver(rig: Rig, dice: random.Random, heard: list[Event]) -> None:
    """In batches of any size; some die before their commit and are delivered again later."""
    waiting = list(heard)
    while waiting:
        size = dice.randint(1, 40)
        batch, waiting = waiting[:size], waiting[size:]
        try:
            crash = Crash() if dice.random() < 0.2 else None
            await rig.hear_all(batch, crash=crash, past_the_inbox=dice.random() < 0.2)
        except Crash:
            place = dice.randint(0, len(waiting))
            waiting[place:place] = batch


@pytest.mark.parametrize("seed", range(6))
async def test_whatever_comes_how_often_in_whatever_order_the_ledger_is_the_oracles(rig: Rig, seed: int):
    dice = random.Random(seed)
    rig.prices, facts = prices_of(dice), random_facts(dice, 60)
    heard = [fact.model_copy(update={"id": new_id("evt")}) if dice.random() < 0.1 else fact for fact in facts * 10]
    dice.shuffle(heard)
    bought: list[PackageView] = []
    days = sorted(dice.randint(0, 80) for _ in range(6))

    for part, day in enumerate(days):
        rig.clock.now = FIRST + timedelta(days=day)
        project, offer = dice.choice(["proj_1", "proj_2"]), dice.choice(OFFERS)
        bought.append(await rig.ask("package.buy", offer=offer.name, project=project))
        await deliver(rig, dice, heard[part :: len(days)])
        await rig.database.write(packages.expire)

    wanted = expected(facts, bought, rig.prices)
    assert await net_of(rig) == wanted
    totals = [(await rig.ask("bill.summary", project=project)).total for project in ("proj_1", "proj_2")]
    assert sum(totals) == sum(amount for _, amount in wanted.values())
    for project in ("proj_1", "proj_2"):
        assert (await rig.ask("bill.accounts", project=project)).sum == 0

    rig.clock.now = max(package.ends_at for package in bought)
    await rig.database.write(packages.expire)
    await deliver(rig, dice, [fact.model_copy(update={"id": new_id("evt")}) for fact in facts])
    assert await net_of(rig) == wanted
    for project in ("proj_1", "proj_2"):
        balances = {a.name: a.balance for a in (await rig.ask("bill.accounts", project=project)).data}
        assert balances.get("prepaid", 0) == 0  # whatever was paid in advance is earned, used or not


async def test_a_meter_that_is_killed_again_and_again_charges_each_fact_once(tmp_path: Path):
    dice = random.Random(5)
    facts = random_facts(dice, 60)
    (tmp_path / "facts.jsonl").write_text("".join(f"{fact.model_dump_json()}\n" for fact in facts * 3))

    kills = 0
    while not await asyncio.to_thread(
        run_the_meter, tmp_path, kills, commits=dice.randint(1, 25) if kills < 8 else None
    ):
        kills += 1
        assert kills < 20

    rig = meter(tmp_path)
    rig.database.open()
    try:
        assert kills >= 8
        assert await net_of(rig) == expected(facts, [], PRICES_NOW)
    finally:
        rig.database.close()


def run_the_meter(folder: Path, seed: int, commits: int | None) -> bool:
    """After so many commits the plug is pulled; True when it was let finish."""
    command = [sys.executable, str(Path(__file__).with_name("billing_worker.py")), str(folder), str(seed)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for _ in range(commits or 0):
            process.stdout.readline()
        if commits is not None:
            process.kill()
        process.stdout.read()
    return process.returncode == 0


PRICES_NOW = prices_of(random.Random(1))
