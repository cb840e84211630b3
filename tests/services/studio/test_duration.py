"""How long a tuning would run: the published formula and table, with a range."""

from __future__ import annotations

import pytest

from finery_contracts.errors import InvalidRequest
from finery_contracts.estimates import Duration, EstimateAsked
from finery_studio.models.gallery import load_gallery
from finery_studio.tuning import duration

GALLERY = load_gallery()


def duration_of(asked: EstimateAsked) -> Duration:
    return duration.duration_of(asked, GALLERY)


def test_hours_are_coefficient_times_iterations_by_cards_instances_and_throughput() -> None:
    one = duration_of(EstimateAsked(model="Qwen2-72B", method="full", iterations=1000, tokens_per_sample=512))
    many = duration_of(EstimateAsked(model="Qwen2-72B", method="full", iterations=1000, cards=8, instances=2))

    assert one.seconds == one.low_s == one.high_s == 36 * 1000 / 300 * 3600
    assert many.seconds == one.seconds / 16
    assert (one.tokens, one.basis) == (1000 * 32 * 512, "reference table")


def test_the_range_is_that_of_the_measured_throughput() -> None:
    found = duration_of(EstimateAsked(model="Qwen2-7B", method="lora", iterations=100))

    assert (found.low_s, found.high_s) == (36 * 100 / 3500 * 3600, 36 * 100 / 2600 * 3600)
    assert found.low_s < found.seconds < found.high_s


def test_what_is_stated_is_taken_with_a_margin() -> None:
    assert duration_of(EstimateAsked(seconds=100)).high_s == 125
    assert duration_of(EstimateAsked(iterations=10, throughput=360)).seconds == pytest.approx(3600, rel=0.1)


def test_counted_tokens_take_as_long_as_all_cards_need_for_them() -> None:
    asked = EstimateAsked(model="Qwen2-7B", method="lora", tokens=1_000_000, epochs=3, cards=2, instances=2)
    found = duration_of(asked)

    assert (found.tokens, found.basis) == (3_000_000, "counted tokens, reference table")
    assert (found.low_s, found.high_s) == (3_000_000 / 4 / 3500, 3_000_000 / 4 / 2600)
    stated = duration_of(EstimateAsked(tokens=8_000, throughput=100))
    assert (stated.low_s, stated.high_s) == (8_000 / 125, 8_000 / 75)


@pytest.mark.parametrize("said", [{}, {"tokens": 5}, {"iterations": 5}, {"iterations": 5, "model": "unheard-of"}])
def test_what_cannot_be_known_is_not_guessed(said: dict[str, object]) -> None:
    with pytest.raises(InvalidRequest):
        duration_of(EstimateAsked.model_validate(said))
