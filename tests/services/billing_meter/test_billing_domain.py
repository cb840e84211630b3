"""What a fact costs, to the last decimal."""

from datetime import timedelta
from decimal import Decimal
from fractions import Fraction
from pathlib import Path

import pytest
from billing_rig import AT, PRICES, attempt_ended, call_of, instance_ended, usage_recorded

from finery_billing_meter import domain
from finery_billing_meter.adapters import load_prices
from finery_billing_meter.domain import PriceMissing
from finery_contracts.tasks import EndReason
from finery_kit.settings import SettingsError


def test_a_task_costs_running_time_times_instances_times_the_price_of_its_flavour():
    charge = domain.charge_of_attempt(attempt_ended(running_s=5400.0, instances=4), PRICES)

    assert charge is not None
    assert (charge.quantity, charge.unit_price, charge.amount) == (Decimal(6), Decimal("0.12"), Decimal("0.72"))
    assert charge.key == "task:task_1:1:1"


def test_an_instance_costs_its_own_time_whatever_the_number_of_its_siblings():
    charge = domain.charge_of_instance(instance_ended(running_s=1800.0, n=2), PRICES)

    assert charge is not None
    assert charge.amount == Decimal("0.06")
    assert charge.key == "instance:inst_1:2"


@pytest.mark.parametrize("reason", list(EndReason))
def test_an_attempt_costs_something_only_when_its_end_is_billed(reason: EndReason):
    charged = domain.charge_of_attempt(attempt_ended(reason=reason), PRICES) is not None

    free = {EndReason.CRASHED, EndReason.LOST, EndReason.STALE, EndReason.HUNG, EndReason.PREEMPTED}
    assert charged == (reason not in free)


def test_what_did_not_run_or_is_not_billed_costs_nothing():
    assert domain.charge_of_attempt(attempt_ended(running_s=0.0), PRICES) is None
    assert domain.charge_of_instance(instance_ended(running_s=0.0), PRICES) is None
    assert domain.charge_of_instance(instance_ended(billed=False), PRICES) is None


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
    assert domain.rounded(exact) == Decimal(amount)


def test_the_amount_comes_from_the_exact_time_and_not_from_the_rounded_quantity():
    charge = domain.charge_of_attempt(attempt_ended(running_s=0.1, flavour="gpu", instances=7), PRICES)

    assert charge is not None
    assert charge.amount == Decimal("0.000583333")
    assert charge.quantity == Decimal("0.000194444")


def test_the_price_is_the_one_that_was_valid_when_the_interval_started():
    before = domain.charge_of_attempt(attempt_ended(flavour="gpu", started_at=AT - timedelta(microseconds=1)), PRICES)
    after = domain.charge_of_attempt(attempt_ended(flavour="gpu", started_at=AT), PRICES)

    assert before is not None
    assert after is not None
    assert (before.amount, after.amount) == (Decimal("2.4"), Decimal(3))


@pytest.mark.parametrize("fact", [attempt_ended(flavour="tpu"), attempt_ended(started_at=AT - timedelta(days=400))])
def test_a_flavour_without_a_price_is_an_error_that_names_it_and_the_remedy(fact):
    with pytest.raises(PriceMissing, match=r"no price for flavour .*FINERY_PRICES_FILE.*replay") as caught:
        domain.charge_of_attempt(fact, PRICES)

    assert caught.value.error_code == "price_missing"


def test_tokens_are_counted_for_each_deployment_kind_and_key():
    calls = [call_of("dep_1", "key_1", 10, 1), call_of("dep_1", "key_1", 5, 0), call_of("dep_2", "key_2", 7, 0)]

    counts = domain.counts_of(usage_recorded(calls, offset=64))

    assert {count.key: count.tokens for count in counts} == {
        "usage:seg_1:64:dep_1:prompt:key_1": 15,
        "usage:seg_1:64:dep_1:completion:key_1": 1,
        "usage:seg_1:64:dep_2:prompt:key_2": 7,
    }


def test_a_token_that_costs_nothing_makes_no_line_and_one_that_does_is_exact():
    (free,) = domain.counts_of(usage_recorded([call_of("d", "k", 3, 0, at=AT - timedelta(days=1))]))
    (priced,) = domain.counts_of(usage_recorded([call_of("d", "k", 3, 0)]))

    charge = domain.charge_of_tokens(priced, PRICES)

    assert domain.charge_of_tokens(free, PRICES) is None
    assert charge is not None
    assert charge.amount == Decimal("0.0000006").quantize(Decimal("1e-9"))


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
