"""Steps that the seed decides: sample, shuffle, mixture, split."""

from __future__ import annotations

from collections import Counter
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from canonical_builders import chat, text, view_of

from finery_contracts.cleansing import Mix, Sample, Shuffle, Split
from finery_contracts.errors import DataInvalid
from finery_dataset_ingest.engine.steps.chance import (
    choose_mixture,
    choose_order,
    choose_sample,
    choose_sides,
    shares,
)
from finery_dataset_ingest.engine.steps.hashes import mixed
from finery_dataset_ingest.engine.tables import View


def mix(*weights: float, **said: Any) -> Mix:
    return Mix.model_validate({"step": "mix", "weights": list(weights), **said})


def split(**said: Any) -> Split:
    return Split.model_validate({"step": "split", **said})


def many(folder: Path, count: int) -> View:
    return view_of(folder, *(text(f"record {n}") for n in range(count)))


def test_the_mixing_function_is_the_published_one() -> None:
    # SplitMix64 from the seed 1234567: the first outputs of the reference implementation.
    gamma, mask = 0x9E3779B97F4A7C15, 2**64 - 1
    states = np.array([(1234567 + n * gamma) & mask for n in range(3)], np.uint64)
    assert mixed(states).tolist() == [6457827717110365317, 3203168211198807973, 9817491932198370423]


def test_a_sample_is_as_large_as_was_asked_for_in_order_and_without_repeats(tmp_path: Path) -> None:
    view = many(tmp_path, 100)
    for said, size in (({"records": 10}, 10), ({"share": 0.25}, 25), ({"records": 1000}, 100)):
        kept = choose_sample(view, Sample.model_validate({"step": "sample", **said}), 7).kept
        assert len(kept) == size
        assert list(kept) == sorted(set(kept))


def test_the_seed_decides_and_nothing_is_favoured(tmp_path: Path) -> None:
    view, step = many(tmp_path, 40), Sample(step="sample", records=10)
    assert list(choose_sample(view, step, 1).kept) == list(choose_sample(view, step, 1).kept)
    assert list(choose_sample(view, step, 1).kept) != list(choose_sample(view, step, 2).kept)
    taken = Counter(int(row) for seed in range(400) for row in choose_sample(view, step, seed).kept)
    # Each is in a quarter of the samples: 100 of 400, six standard deviations are 52.
    assert set(taken) == set(range(40))
    assert all(48 < count < 152 for count in taken.values())


def test_a_shuffle_keeps_every_record_once(tmp_path: Path) -> None:
    kept = choose_order(many(tmp_path, 50), Shuffle(step="shuffle"), 3).kept
    assert sorted(kept) == list(range(50))
    assert list(kept) != list(range(50))


@pytest.mark.parametrize(
    ("sizes", "step", "wanted"),
    [
        ([10, 100], mix(1, 3), [10, 30]),
        ([100, 30], mix(1, 3), [10, 30]),
        ([10, 100], mix(1, 3, when_short="repeat"), [33, 100]),
        ([10, 90], mix(1, 3, when_short="repeat"), [30, 90]),
        ([10, 100], mix(1, 3, records=8), [2, 6]),
        ([10, 100], mix(1, 3, records=80), [10, 30]),
        ([10, 100], mix(1, 3, records=80, when_short="repeat"), [20, 60]),
        ([5, 5, 5], mix(1, 1, 1, records=10), [4, 3, 3]),
        ([7], mix(2), [7]),
        ([3, 1000], mix(0.001, 1), [1, 1000]),
        ([1000, 1000], mix(0.7, 0.3, records=100), [70, 30]),
    ],
)  # fmt: skip
def test_shares_follow_the_weights(sizes: list[int], step: Mix, wanted: list[int]) -> None:
    found = shares(sizes, step)
    assert found == wanted
    total, weights = sum(found), [Fraction(weight) for weight in step.weights]
    for share, weight in zip(found, weights, strict=True):
        assert abs(share - total * weight / sum(weights)) < 1


def test_a_mixture_takes_from_each_source_and_tells_what_it_repeated(tmp_path: Path) -> None:
    inputs = [0] * 5 + [1] * 45
    view = view_of(tmp_path, *(text(f"r{n}") for n in range(50)), inputs=inputs)
    even = choose_mixture(view, mix(1, 3), 1, ["industry", "general"])
    assert Counter(inputs[row] for row in even.kept) == {0: 5, 1: 15}
    assert len(set(even.kept.tolist())) == 20
    assert even.reasons == {"not_in_the_mixture": 30}
    assert list(even.kept) != sorted(even.kept)
    again = choose_mixture(view, mix(1, 3, when_short="repeat", shuffle=False), 1, ["industry", "general"])
    times = Counter(again.kept.tolist())
    assert [times[row] for row in range(5)] == [3] * 5
    assert all(times[row] == 1 for row in range(5, 50))
    assert "industry: 15 of 5 records, each 3 times" in again.notes
    assert "10 records are repetitions of others in their source." in again.notes


def test_a_source_that_cleansing_emptied_is_named(tmp_path: Path) -> None:
    view = view_of(tmp_path, text("a"), inputs=[1])
    with pytest.raises(DataInvalid, match="industry has no records left") as fault:
        choose_mixture(view, mix(1, 1), 1, ["industry", "general"])
    assert fault.value.error_code == "source_empty"


def test_a_split_lays_aside_its_share_and_what_is_the_same_stays_together(tmp_path: Path) -> None:
    said = [f"record {n % 60}" for n in range(100)]
    chosen = choose_sides(view_of(tmp_path, *map(text, said)), split(validation=0.2), 5)
    assert chosen.validation is not None
    assert sorted([*chosen.kept, *chosen.validation]) == list(range(100))
    assert {said[row] for row in chosen.kept} & {said[row] for row in chosen.validation} == set()
    assert abs(len(chosen.validation) - 20) <= 1


def test_a_record_goes_to_the_side_that_it_says_wherever_it_stands(tmp_path: Path) -> None:
    said = [f"record {n}" for n in range(80)]
    sides = []
    for texts in (said, said[::-1]):
        chosen = choose_sides(view_of(tmp_path, *map(text, texts)), split(), 5)
        assert chosen.validation is not None
        sides.append({texts[row] for row in chosen.validation})
    assert sides[0] == sides[1]


def test_a_prompt_can_be_what_stays_together(tmp_path: Path) -> None:
    talks = [chat(f"question {n % 20}", f"answer {n}") for n in range(100)]
    chosen = choose_sides(view_of(tmp_path, *talks), split(group="prompt"), 5)
    assert chosen.validation is not None
    assert {row % 20 for row in chosen.kept} & {row % 20 for row in chosen.validation} == set()
    assert len(chosen.validation) == 10


def test_a_stratified_split_keeps_the_share_within_each_answer(tmp_path: Path) -> None:
    answers = ["yes"] * 100 + ["no"] * 40 + ["perhaps"] * 20
    talks = [chat(f"question {n}", answer) for n, answer in enumerate(answers)]
    chosen = choose_sides(view_of(tmp_path, *talks), split(stratify="answer"), 5)
    assert chosen.validation is not None
    assert Counter(answers[row] for row in chosen.validation) == {"yes": 10, "no": 4, "perhaps": 2}
    labelled = [chat(f"question {n}", "a", label=n < 30) for n in range(60)]
    chosen = choose_sides(view_of(tmp_path, *labelled), split(stratify="label"), 5)
    assert chosen.validation is not None
    assert Counter(row < 30 for row in chosen.validation.tolist()) == {True: 3, False: 3}


def test_many_answers_that_occur_once_still_give_the_share(tmp_path: Path) -> None:
    talks = [chat(f"question {n}", f"answer {n}") for n in range(100)]
    chosen = choose_sides(view_of(tmp_path, *talks), split(stratify="answer"), 5)
    assert chosen.validation is not None
    assert len(chosen.validation) == 10


def test_a_side_that_would_be_empty_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataInvalid) as fault:
        choose_sides(view_of(tmp_path, *[text("the same")] * 30), split(), 5)
    assert fault.value.error_code == "split_empty"
