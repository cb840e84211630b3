"""The rules of labelling, against hand-made values and brute force."""

from __future__ import annotations

from itertools import product

import pytest

from finery_contracts.errors import InvalidRequest
from finery_contracts.labelling import LabelMode, Verdict, VerdictRequest
from finery_studio.labelling.domain import Said, agreement, alpha, decided, is_flipped, place_of, shown, verdict_of

LIKE, DISLIKE, FIRST, SECOND, TIE = (
    Verdict.LIKE, Verdict.DISLIKE, Verdict.FIRST, Verdict.SECOND, Verdict.TIE,
)  # fmt: skip


@pytest.mark.parametrize("total", [1, 2, 3, 4, 9, 10, 97, 100, 1024])
@pytest.mark.parametrize("seed", [0, 1, 77])
def test_every_record_comes_once_in_an_order_that_the_seed_decides(total: int, seed: int) -> None:
    order = [place_of(turn, records=total, total=total, seed=seed) for turn in range(total)]
    assert sorted(order) == list(range(total))
    assert order == [place_of(turn, records=total, total=total, seed=seed) for turn in range(total)]


def test_a_sample_is_the_beginning_of_the_order_and_another_seed_gives_another_one() -> None:
    whole = [place_of(turn, records=50, total=1000, seed=5) for turn in range(50)]
    assert len(set(whole)) == 50
    assert whole != [place_of(turn, records=50, total=1000, seed=6) for turn in range(50)]
    assert whole != sorted(whole)


def test_a_turn_behind_the_last_record_is_refused() -> None:
    with pytest.raises(ValueError, match="turn 3"):
        place_of(3, records=3, total=5, seed=0)


def test_letters_are_even_and_one_labeller_sees_a_record_always_alike() -> None:
    flips = [is_flipped("lbl_1", record, "mia") for record in range(2000)]
    assert flips == [is_flipped("lbl_1", record, "mia") for record in range(2000)]
    assert 900 < sum(flips) < 1100


@pytest.mark.parametrize("flipped", [False, True])
def test_what_is_said_in_letters_is_kept_in_the_order_of_the_dataset_and_shown_in_letters_again(flipped: bool) -> None:
    kept = {letter: verdict_of(VerdictRequest(verdict=letter), LabelMode.PAIR, flipped=flipped) for letter in "ab"}
    assert kept == ({"a": SECOND, "b": FIRST} if flipped else {"a": FIRST, "b": SECOND})
    assert {letter: shown(verdict, flipped=flipped) for letter, verdict in kept.items()} == {"a": "a", "b": "b"}
    assert verdict_of(VerdictRequest(verdict="tie"), LabelMode.PAIR, flipped=flipped) is TIE


@pytest.mark.parametrize(
    ("said", "mode"),
    [
        ({"verdict": "a"}, LabelMode.LIKE), ({"verdict": "like"}, LabelMode.PAIR), ({"text": "x"}, LabelMode.LIKE),
        ({"verdict": "like"}, LabelMode.WRITE), ({"text": "  "}, LabelMode.WRITE), ({}, LabelMode.LIKE),
        ({"verdict": "like", "skip": True}, LabelMode.LIKE), ({"verdict": "like", "text": "x"}, LabelMode.LIKE),
        ({"verdict": "tie"}, LabelMode.LIKE),
    ],
)  # fmt: skip
def test_a_verdict_of_another_mode_is_refused_with_the_ones_that_are_taken(said: dict, mode: LabelMode) -> None:
    with pytest.raises(InvalidRequest) as refused:
        verdict_of(VerdictRequest(**said), mode, flipped=False)
    assert refused.value.body.code == "verdict_invalid"


@pytest.mark.parametrize(
    ("verdicts", "minimum", "majority", "together"),
    [
        ([LIKE], 1, 0.5, LIKE), ([LIKE], 2, 0.5, None), ([], 1, 0.5, None),
        ([LIKE, DISLIKE], 1, 0.5, None), ([LIKE, LIKE, DISLIKE], 1, 0.5, LIKE),
        ([LIKE, LIKE, DISLIKE], 1, 0.7, None), ([LIKE, LIKE, LIKE], 1, 1.0, LIKE),
        ([LIKE, LIKE, DISLIKE], 1, 1.0, None), ([TIE, TIE, FIRST], 1, 0.5, None),
        ([FIRST, TIE, SECOND], 1, 0.5, None),
    ],
)  # fmt: skip
def test_what_verdicts_say_together(
    verdicts: list[Verdict], minimum: int, majority: float, together: Verdict | None
) -> None:
    assert decided(verdicts, minimum=minimum, majority=majority) is together


def test_alpha_is_that_of_krippendorffs_own_example() -> None:
    # Computing Krippendorff's Alpha-Reliability (2011), section B: two observers, ten units, binary data: 0.095.
    word = {"1": LIKE, "0": DISLIKE}
    units = [[word[a], word[b]] for a, b in zip("0100000010", "1110010000", strict=True)]
    assert alpha(units) == pytest.approx(0.095, abs=0.0005)


def test_alpha_is_one_when_all_agree_below_zero_when_none_does_and_nothing_where_it_says_nothing() -> None:
    assert alpha([[LIKE, LIKE], [DISLIKE, DISLIKE]]) == 1
    assert alpha([[LIKE, DISLIKE]] * 4) < 0  # pyright: ignore[reportOptionalOperand]
    assert alpha([]) is None
    assert alpha([[LIKE, LIKE], [LIKE, LIKE]]) is None


def test_alpha_equals_its_definition_by_pairs() -> None:
    units = [[LIKE, LIKE, TIE], [TIE, DISLIKE], [LIKE, DISLIKE, DISLIKE, LIKE], [TIE, TIE]]
    values = [value for unit in units for value in unit]
    total = len(values)
    observed = sum(
        sum(a is not b for (i, a), (j, b) in product(enumerate(unit), repeat=2) if i != j) / (len(unit) - 1)
        for unit in units
    ) / total  # fmt: skip
    pairs = [(a, b) for (i, a), (j, b) in product(enumerate(values), repeat=2) if i != j]
    expected = sum(a is not b for a, b in pairs) / len(pairs)
    assert alpha(units) == pytest.approx(1 - observed / expected)


def test_agreement_names_each_labellers_part() -> None:
    said = [
        Said(0, "mia", False, LIKE), Said(0, "tom", False, LIKE), Said(0, "eva", False, DISLIKE),
        Said(1, "mia", False, DISLIKE), Said(1, "judge", True, DISLIKE), Said(2, "tom", False, LIKE),
    ]  # fmt: skip
    found = agreement(said, {"eva": 2}, records=5, per_record=2)
    assert (found.judged, found.complete, found.overlapping) == (3, 1, 2)
    assert found.observed == 2 / 4
    assert found.verdicts == {"dislike": 3, "like": 3}
    shares = {share.labeller: share for share in found.labellers}
    assert (shares["mia"].judgements, shares["mia"].with_majority) == (2, 1.0)  # on record 0 the others are split
    assert (shares["eva"].judgements, shares["eva"].skipped, shares["eva"].with_majority) == (1, 2, 0.0)
    assert shares["judge"].judge


def test_of_written_answers_no_agreement_is_told() -> None:
    said = [Said(0, name, False, Verdict.WRITTEN) for name in ("mia", "tom")]
    found = agreement(said, {}, records=1, per_record=2)
    assert (found.judged, found.complete, found.overlapping) == (1, 1, 1)
    assert (found.observed, found.alpha) == (None, None)
    assert [(share.judgements, share.with_majority) for share in found.labellers] == [(1, None), (1, None)]
