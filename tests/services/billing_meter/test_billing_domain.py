"""What a fact costs, to the last decimal."""

from datetime import timedelta
from decimal import Decimal
from fractions import Fraction
from pathlib import Path

import pytest
from billing_rig import AT, PRICES, attempt_ended, call_of, instance_ended, usage_recorded

from finery_billing_meter.adapters import load_prices
from finery_billing_meter.ledger import domain
from finery_billing_meter.ledger.domain import Line
from finery_billing_meter.prices.domain import PriceBook, PriceMissing
from finery_contracts.tasks import EndReason
from finery_kit.settings import SettingsError

BOOK = PriceBook(PRICES)


def charge_of_attempt(event) -> Line | None:
    interval = domain.interval_of_attempt(event, BOOK)
    return None if interval is None else domain.paid_by_use(interval)


def charge_of_instance(event) -> Line | None:
    interval = domain.interval_of_instance(event, BOOK)
    return None if interval is None else domain.paid_by_use(interval)


def amount_of(line: Line) -> Decimal:
    return domain.from_parts(line.amount_parts)


def test_a_task_costs_running_time_times_instances_times_the_price_of_its_flavour():
    charge = charge_of_attempt(attempt_ended(running_s=5400.0, instances=4))

    assert charge is not None
    assert (domain.from_parts(charge.quantity_parts), charge.unit_price, amount_of(charge)) == (
        Decimal(6),
        Decimal("0.12"),
        Decimal("0.72"),
    )
    assert charge.source == "task:task_1:1:1"


def test_an_instance_costs_its_own_time_whatever_the_number_of_its_siblings():
    charge = charge_of_instance(instance_ended(running_s=1800.0, n=2))

    assert charge is not None
    assert amount_of(charge) == Decimal("0.06")
    assert charge.source == "instance:inst_1:2"


@pytest.mark.parametrize("reason", list(EndReason))
def test_an_attempt_costs_something_only_when_its_end_is_billed(reason: EndReason):
    charged = charge_of_attempt(attempt_ended(reason=reason)) is not None

    free = {EndReason.CRASHED, EndReason.LOST, EndReason.STALE, EndReason.HUNG, EndReason.PREEMPTED}
    assert charged == (reason not in free)


def test_what_did_not_run_or_is_not_billed_costs_nothing():
    assert charge_of_attempt(attempt_ended(running_s=0.0)) is None
    assert charge_of_instance(instance_ended(running_s=0.0)) is None
    assert charge_of_instance(instance_ended(billed=False)) is None


@pytest.mark.parametrize(
    ("exact", "amount"),
    [
        (Fraction(1, 2 * 10**9), "0"),
        (Fraction(3, 2 * 10**9), "2E-9"),
        (Fraction(5, 2 * 10**9), "2E-9"),
        (Fraction(1, 3), "0.333333333"),
        (Fraction(2, 3), "0.666666667"),
    ],
)
def test_a_line_is_rounded_once_to_a_billionth_half_to_even(exact: Fraction, amount: str):
    assert domain.from_parts(domain.half_even(exact.numerator * 10**9, exact.denominator)) == Decimal(amount)


def test_the_amount_comes_from_the_exact_time_and_not_from_the_rounded_quantity():
    charge = charge_of_attempt(attempt_ended(running_s=0.1, flavour="gpu", instances=7))

    assert charge is not None
    assert amount_of(charge) == Decimal("0.000583333")
    assert domain.from_parts(charge.quantity_parts) == Decimal("0.000194444")


def test_the_price_is_the_one_that_was_valid_when_the_interval_started():
    before = charge_of_attempt(attempt_ended(flavour="gpu", started_at=AT - timedelta(microseconds=1)))
    after = charge_of_attempt(attempt_ended(flavour="gpu", started_at=AT))

    assert before is not None
    assert after is not None
    assert (amount_of(before), amount_of(after)) == (Decimal("2.4"), Decimal(3))


@pytest.mark.parametrize("fact", [attempt_ended(flavour="tpu"), attempt_ended(started_at=AT - timedelta(days=400))])
def test_a_flavour_without_a_price_is_an_error_that_names_it_and_the_remedy(fact):
    with pytest.raises(PriceMissing, match=r"no price for flavour .*FINERY_PRICES_FILE.*replay") as caught:
        charge_of_attempt(fact)

    assert caught.value.error_code == "price_missing"


def test_tokens_are_counted_for_each_deployment_kind_and_key():
    calls = [call_of("dep_1", "key_1", 10, 1), call_of("dep_1", "key_1", 5, 0), call_of("dep_2", "key_2", 7, 0)]

    counts = domain.counts_of(usage_recorded(calls, offset=64))

    assert {count.source: count.tokens for count in counts} == {
        "usage:seg_1:64:dep_1:prompt:key_1": 15,
        "usage:seg_1:64:dep_1:completion:key_1": 1,
        "usage:seg_1:64:dep_2:prompt:key_2": 7,
    }


def test_a_token_that_costs_nothing_makes_no_line_and_one_that_does_is_exact():
    (free,) = domain.counts_of(usage_recorded([call_of("d", "k", 3, 0, at=AT - timedelta(days=1))]))
    (priced,) = domain.counts_of(usage_recorded([call_of("d", "k", 3, 0)]))

    charge = domain.line_of_tokens(priced, BOOK)

    assert domain.line_of_tokens(free, BOOK) is None
    assert charge is not None
    assert amount_of(charge) == Decimal("0.0000006").quantize(Decimal("1e-9"))


def test_the_price_list_that_is_shipped_is_valid_and_prices_the_cpu():
    prices = load_prices(None)

    assert prices.currency == "USD"
    assert prices.flavours["cpu"][0].per_hour == Decimal("0.12")
    assert (prices.tokens[0].prompt, prices.tokens[0].completion) == (0, 0)


GOOD = """
currency: USD
flavours:
  cpu:
    - {valid_from: 2026-01-01, per_hour: 0.12}
    - {valid_from: 2026-02-01T00:00:00Z, per_hour: "0.15"}
tokens:
  - {valid_from: 2026-01-01, prompt: 0, completion: 0}
"""


def test_an_operator_gives_another_list_and_its_numbers_stay_what_was_written(tmp_path: Path):
    file = tmp_path / "prices.yaml"
    file.write_text(GOOD)

    assert [price.per_hour for price in load_prices(file).flavours["cpu"]] == [Decimal("0.12"), Decimal("0.15")]


@pytest.mark.parametrize(
    ("right", "wrong", "place"),
    [
        ("per_hour: 0.12", "per_hour: -1", "flavours.cpu.0.per_hour"),
        ("per_hour: 0.12", "per_hour: cheap", "flavours.cpu.0.per_hour"),
        ("per_hour: 0.12", "per_hours: 0.12", "flavours.cpu.0.per_hours"),
        ("currency: USD", "currency: dollars", "currency"),
        ("2026-02-01T00:00:00Z", "2025-02-01T00:00:00Z", "flavours.cpu.1.valid_from"),
        ("2026-02-01T00:00:00Z", "2026-02-01T00:00:00", "flavours.cpu.1.valid_from"),
        ("prompt: 0", "prompt: .nan", "tokens.0.prompt"),
        ("currency: USD", "currency: [", "cannot be read"),
        ("cpu:", "cpu: []\n  gpu:", "flavours.cpu"),
    ],
)
def test_a_wrong_price_list_stops_the_start_and_the_place_is_named(tmp_path: Path, right: str, wrong: str, place: str):
    file = tmp_path / "prices.yaml"
    file.write_text(GOOD.replace(right, wrong))

    with pytest.raises(SettingsError) as caught:
        load_prices(file)

    assert place in str(caught.value)
    assert "FINERY_PRICES_FILE" in str(caught.value)


def test_a_price_list_that_is_not_there_stops_the_start(tmp_path: Path):
    with pytest.raises(SettingsError, match="cannot be read"):
        load_prices(tmp_path / "none.yaml")
