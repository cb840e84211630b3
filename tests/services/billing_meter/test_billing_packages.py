"""Packages: whose hours are used when, what remains is paid by use, and what is said of them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest
from billing_rig import PRICES, Rig, attempt_ended

from finery_billing_meter.ledger import domain as ledger
from finery_billing_meter.packages import domain
from finery_billing_meter.packages import handlers as package_handlers
from finery_billing_meter.packages.domain import Package
from finery_billing_meter.prices.domain import PriceBook
from finery_contracts.errors import FineryError, InvalidRequest
from finery_contracts.prices import PackageOffer

OFFERS = [
    PackageOffer(name="small", flavour="gpu", hours=Decimal(10), valid_months=1, price=Decimal(20)),
    PackageOffer(name="year", flavour="gpu", hours=Decimal(10), valid_months=12, reset="month", price=Decimal(200)),
    PackageOffer(name="odd", flavour="gpu", hours=Decimal(3), valid_days=7, price=Decimal(10), low_percent=50),
]
BOOK = PriceBook(PRICES)


def day(month: int, number: int, hour: int = 0) -> datetime:
    return datetime(2026, month, number, hour, tzinfo=UTC)


def package(offer: str, starts_at: datetime, *, bought_at: datetime | None = None, name: str = "") -> Package:
    chosen = next(known for known in OFFERS if known.name == offer)
    return Package(
        name or f"pkg_{offer}", "proj_1", offer, chosen.flavour, ledger.parts_of(chosen.hours), chosen.reset, starts_at,
        domain.end_of(chosen, starts_at), ledger.parts_of(chosen.price), "USD", chosen.low_percent,
        bought_at or starts_at, "user_1", "evt",
    )  # fmt: skip


def ran(start: datetime, hours: float, name: str = "task_1", *, instances: int = 1, pool: str = "public"):
    event = attempt_ended(name, running_s=hours * 3600, flavour="gpu", instances=instances, started_at=start)
    interval = ledger.interval_of_attempt(event, BOOK)
    assert interval is not None
    return interval._replace(pool=pool)


def taken(lines) -> list[tuple[str, int, Decimal]]:
    return [(line.package, line.period, ledger.from_parts(line.quantity_parts)) for line in lines]


def test_a_yearly_package_that_resets_and_a_monthly_one_are_used_by_whose_period_ends_sooner():
    yearly, monthly = package("year", day(10, 10)), package("small", day(10, 12))
    work = [
        ran(day(10, 11), 2, "a"), ran(day(10, 15), 6, "b"), ran(day(10, 20), 5, "c"), ran(day(11, 9), 2, "d"),
        ran(day(11, 10), 4, "e"), ran(day(11, 11), 3, "f"), ran(day(11, 12), 3, "g"), ran(day(12, 9), 5, "h"),
    ]  # fmt: skip

    lines = list(domain.lines_of(work, [monthly, yearly], {}))

    assert taken(lines) == [
        ("pkg_year", 0, Decimal(2)), ("pkg_year", 0, Decimal(6)),
        ("pkg_year", 0, Decimal(2)), ("pkg_small", 0, Decimal(3)),  # the first is used up, its period ends 10 November
        ("pkg_small", 0, Decimal(2)),
        ("pkg_small", 0, Decimal(4)),  # from 10 November on the second ends sooner than the first's next period
        ("pkg_small", 0, Decimal(1)), ("pkg_year", 1, Decimal(2)),
        ("pkg_year", 1, Decimal(3)), ("pkg_year", 1, Decimal(5)),  # the second is over
    ]  # fmt: skip
    assert all(line.amount_parts == 0 for line in lines)


def test_an_interval_is_cut_where_a_period_begins_and_where_a_package_ends():
    yearly = package("year", day(10, 10))

    lines = list(domain.lines_of([ran(day(11, 9, 16), 16, instances=2)], [yearly], {}))

    # Sixteen flavour-hours before the reset, sixteen after it, ten of each covered; the rest is one line by use.
    assert taken(lines) == [("pkg_year", 0, Decimal(10)), ("pkg_year", 1, Decimal(10)), ("", -1, Decimal(12))]
    assert ledger.from_parts(lines[-1].amount_parts) == 12 * Decimal(3)


@pytest.mark.parametrize("seconds", [36_000.000001, 100_000 / 3, 35_999.9999999, 0.0000001, 12_345.6789012345])
def test_the_hours_of_an_interval_are_the_sum_of_its_lines_to_the_last_decimal(seconds: float):
    interval = ran(day(10, 11), seconds / 3600)

    lines = list(domain.lines_of([interval], [package("small", day(10, 10))], {}))
    alone = ledger.paid_by_use(interval)

    assert sum(line.quantity_parts for line in lines) == alone.quantity_parts
    assert sum(line.amount_parts for line in lines) <= alone.amount_parts


def test_of_two_that_end_together_the_one_that_was_bought_first_is_used():
    late = package("small", day(10, 10), bought_at=day(10, 9), name="pkg_a")
    early = package("small", day(10, 10), bought_at=day(10, 8), name="pkg_b")

    lines = list(domain.lines_of([ran(day(10, 11), 12)], [late, early], {}))

    assert taken(lines) == [("pkg_b", 0, Decimal(10)), ("pkg_a", 0, Decimal(2))]


def test_only_public_pools_and_the_own_flavour_within_the_validity_are_covered():
    mine = package("small", day(10, 10))

    for interval in (
        ran(day(10, 11), 1, pool="ours"), ran(day(10, 9), 1), ran(day(11, 10), 1),
        ran(day(10, 11), 1)._replace(flavour="cpu"),
    ):  # fmt: skip
        assert taken(domain.lines_of([interval], [mine], {})) == [("", -1, Decimal(1))]


@pytest.mark.parametrize("pool", ["public", "public_01m7yxqt22"])
def test_every_pool_that_all_projects_share_is_covered(pool: str):
    lines = domain.lines_of([ran(day(10, 11), 1, pool=pool)], [package("small", day(10, 10))], {})

    assert taken(lines) == [("pkg_small", 0, Decimal(1))]


def test_a_period_begins_on_the_same_day_or_on_the_last_of_a_shorter_month():
    yearly = package("year", datetime(2027, 10, 31, 7, tzinfo=UTC))

    starts = [window.start for window in yearly.windows]

    assert [(start.month, start.day) for start in starts[:8]] == [
        (10, 31), (11, 30), (12, 31), (1, 31), (2, 29), (3, 31), (4, 30), (5, 31),
    ]  # fmt: skip
    assert {start.hour for start in starts} == {7}
    assert len(starts) == 12
    assert yearly.windows[-1].end == datetime(2028, 10, 31, 7, tzinfo=UTC)


def test_every_hour_of_a_package_earns_its_share_and_never_more_than_its_price():
    bought = package("year", day(1, 1))
    work = [ran(day(month, 2), 10 / 3, f"t{month}{n}") for month in range(1, 13) for n in range(3)]

    lines = list(domain.lines_of(work, [bought], {}))
    earned = sum(line.posted_parts for line in lines)
    rest = domain.expiry(bought, earned)

    assert 0 <= bought.price_parts - earned < 1000
    assert earned + (rest.posted_parts if rest else 0) == bought.price_parts


# --- the service ------------------------------------------------------------------------------------------------------


@pytest.fixture
def shop(rig: Rig) -> Rig:
    rig.prices = PRICES.model_copy(update={"packages": OFFERS})
    rig.clock.now = day(10, 10)
    return rig


async def test_a_package_is_charged_at_once_and_its_hours_cost_nothing_more(shop: Rig):
    bought = await shop.ask("package.buy", offer="small")
    await shop.hear(attempt_ended(running_s=4 * 3600.0, flavour="gpu", started_at=day(10, 10, 1)))
    await shop.hear(attempt_ended("task_2", running_s=8 * 3600.0, flavour="gpu", started_at=day(10, 10, 6)))

    bill = await shop.ask("bill.summary", by="noun")
    (now,) = (await shop.ask("package.list")).data
    accounts = await shop.ask("bill.accounts")

    assert {row.key: row.amount for row in bill.rows} == {"package": Decimal(20), "task": Decimal(6)}
    assert [(row.quantity, row.from_packages) for row in bill.rows if row.key == "task"] == [(12, 10)]
    assert (now.id, now.used_hours, now.left_hours, now.state) == (bought.id, 10, 0, "used_up")
    assert {account.name: account.balance for account in accounts.data} == {
        "receivable": Decimal(26), "prepaid": 0, "revenue:hours:gpu": Decimal(-26),
    }  # fmt: skip
    assert accounts.sum == 0
    assert await shop.facts("package") == ["bought", "low", "used_up"]


async def test_little_left_is_told_once_a_period(shop: Rig):
    await shop.ask("package.buy", offer="year")
    for number, hours in enumerate((7.0, 1.5, 0.5, 1.0)):
        shop.clock.now = day(10, 11 + number)
        await shop.hear(attempt_ended(f"t{number}", running_s=hours * 3600, flavour="gpu", started_at=shop.clock.now))
    shop.clock.now = day(11, 12)
    await shop.hear(attempt_ended("t9", running_s=9 * 3600.0, flavour="gpu", started_at=shop.clock.now))

    assert await shop.facts("package") == ["bought", "low", "used_up", "low"]


async def test_a_late_interval_takes_its_place_and_the_ledger_is_corrected_without_changing_a_line(shop: Rig):
    await shop.ask("package.buy", offer="small")
    later = attempt_ended("late", running_s=8 * 3600.0, flavour="gpu", started_at=day(10, 12))
    earlier = attempt_ended("early", running_s=8 * 3600.0, flavour="gpu", started_at=day(10, 11))
    await shop.hear(later)
    before = await shop.lines()

    await shop.hear(earlier)
    after = await shop.lines()

    assert [line for line in after if line.id in {known.id for known in before}] == before
    costs = {name: (await shop.ask("cost", noun_id=name)).amount for name in ("early", "late")}
    assert costs == {"early": 0, "late": 6 * Decimal(3)}
    assert sum(line.quantity for line in after if line.noun == "task") == 16
    corrected = [line for line in after if line.corrects]
    assert [line.cause for line in corrected] == [earlier.id]


async def test_an_expired_package_is_told_its_rest_is_earned_and_a_late_fact_still_counts(shop: Rig):
    await shop.ask("package.buy", offer="small")
    shop.clock.now = day(11, 10)
    await shop.database.write(package_handlers.expire)
    await shop.database.write(package_handlers.expire)
    unused = {a.name: a.balance for a in (await shop.ask("bill.accounts")).data}

    await shop.hear(attempt_ended(running_s=5 * 3600.0, flavour="gpu", started_at=day(10, 12)))
    used = {a.name: a.balance for a in (await shop.ask("bill.accounts")).data}

    assert unused == {"receivable": Decimal(20), "prepaid": 0, "revenue:unused": Decimal(-20)}
    assert used == {
        "receivable": Decimal(20), "prepaid": 0, "revenue:unused": Decimal(-10), "revenue:hours:gpu": Decimal(-10),
    }  # fmt: skip
    assert await shop.facts("package") == ["bought", "expired"]
    assert (await shop.ask("package.list")).data[0].state == "expired"


async def test_a_package_is_of_one_project(shop: Rig):
    await shop.ask("package.buy", offer="small")
    await shop.hear(attempt_ended(running_s=3600.0, flavour="gpu", started_at=day(10, 12), project="proj_2"))

    assert (await shop.ask("bill.summary", project="proj_2")).total == Decimal(3)
    assert (await shop.ask("package.list", project="proj_2")).data == []


async def test_what_is_not_on_offer_or_would_begin_in_the_past_is_refused(shop: Rig):
    with pytest.raises(FineryError, match=r"no package huge; on offer: small, year, odd"):
        await shop.ask("package.buy", offer="huge")
    with pytest.raises(InvalidRequest, match="cannot begin in the past"):
        await shop.ask("package.buy", offer="small", starts_at=(day(10, 10) - timedelta(seconds=1)).isoformat())
    with pytest.raises(InvalidRequest, match="begins within"):
        await shop.ask("package.buy", offer="year", starts_at="9999-06-01")

    assert await shop.lines() == []


async def test_what_ran_before_a_package_was_bought_is_never_covered_by_it(shop: Rig):
    await shop.hear(attempt_ended(running_s=3600.0, flavour="gpu", started_at=day(10, 9)))

    await shop.ask("package.buy", offer="small")

    assert (await shop.ask("bill.summary")).total == Decimal("3.0") + 20
