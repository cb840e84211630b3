"""Duplicates: what is the same goes, what only looks alike stays; near ones by a brute-force oracle."""

from __future__ import annotations

import random
import unicodedata
from pathlib import Path

import numpy as np
import pytest
from canonical_builders import batch_of, chat, pair, text, turn, view_of

from finery_contracts.cleansing import ExactDuplicates, NearDuplicates
from finery_dataset_ingest.engine.steps.duplicates import choose_distinct
from finery_dataset_ingest.engine.steps.near_duplicates import banding, bands_of, choose_dissimilar, shingles_of
from finery_dataset_ingest.engine.steps.shingles import Shingler

SYLLABLES = [
    "ka",
    "to",
    "mi",
    "re",
    "su",
    "na",
    "lo",
    "ve",
    "pi",
    "dor",
    "gan",
    "fel",
    "wix",
    "bru",
    "tem",
    "jal",
    "ost",
    "ner",
]
HANZI = "天地玄黄宇宙洪荒日月盈昃辰宿列张寒来暑往秋收冬藏闰余成岁律吕调阳云腾致雨露结为霜金生丽水玉出昆冈"


def exact(**said: object) -> ExactDuplicates:
    return ExactDuplicates.model_validate({"step": "exact_duplicates", **said})


def near(**said: object) -> NearDuplicates:
    return NearDuplicates.model_validate({"step": "near_duplicates", **said})


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        (chat("How are you?"), chat("how  are\nYOU?"), True),
        (chat("ＡＢＣ１２３"), chat("abc123"), True),
        (chat("你好"), chat("你好 "), True),
        (chat("你好"), chat("您好"), False),
        (chat("a", "b c"), chat("a b", "c"), False),
        (chat("a", "b"), {"messages": [turn("system", "a"), turn("user", "b")]}, False),
        (chat("a", label=True), chat("a", label=False), False),
        (pair("q", "good", "bad"), pair("q", "bad", "good"), False),
        (text("the same"), text("The same"), True),
        (chat("a", tools="[1]"), chat("A", tools="[1]"), True),
        (chat("a", tools="[1]"), chat("a", tools="[2]"), False),
        (chat("a", tools="[1]"), chat("a"), False),
        (chat("a", "b"), {"messages": [turn("user", "a"), turn("assistant", "b", weight=0)]}, False),
        (chat("a", "b"), {"messages": [turn("user", "a"), turn("assistant", "b", weight=1)]}, True),
        (chat("a", "b"), {"messages": [turn("user", "a", name="ann"), turn("assistant", "b")]}, False),
    ],
)  # fmt: skip
def test_two_records_are_the_same_when_they_say_the_same(tmp_path: Path, one: dict, other: dict, same: bool) -> None:
    chosen = choose_distinct(view_of(tmp_path, one, other), exact())
    assert list(chosen.kept) == ([0] if same else [0, 1])


def test_the_first_stays_and_the_report_names_it(tmp_path: Path) -> None:
    view = view_of(tmp_path, *(chat(said) for said in ("a", "b", "A", "c", "b", "a")), size=2)
    chosen = choose_distinct(view, exact())
    assert list(chosen.kept) == [0, 1, 3]
    assert chosen.reasons == {"exact_duplicate": 3}
    assert [(row, why.detail) for row, why in chosen.examples] == [
        (2, "the same as ds_a, line 1"), (4, "the same as ds_a, line 2"), (5, "the same as ds_a, line 1"),
    ]  # fmt: skip


def test_bytes_count_when_nothing_is_normalised_and_a_prompt_can_be_what_is_compared(tmp_path: Path) -> None:
    view = view_of(tmp_path, chat("Hi", "one"), chat("hi", "one"), chat("Hi", "two"))
    assert list(choose_distinct(view, exact(normalise=False)).kept) == [0, 1, 2]
    assert list(choose_distinct(view, exact(of="prompt")).kept) == [0]
    assert list(choose_distinct(view, exact(of="answer")).kept) == [0, 2]


def variations(dice: random.Random, count: int, *, chinese: bool) -> list[str]:
    """Texts of which many are others with a few places changed."""
    letters = HANZI if chinese else None
    texts = list[str]()
    for _ in range(count):
        if texts and dice.random() < 0.6:
            said = list(dice.choice(texts))
            for _ in range(dice.choice([1, 1, 2, 5, 12])):
                said[dice.randrange(len(said))] = dice.choice(letters or "abcdefghij ")
            texts.append("".join(said))
        else:
            words = [dice.choice(letters or SYLLABLES) for _ in range(dice.randint(40, 120))]
            texts.append(("" if chinese else " ").join(words))
    return texts


def shingles(said: str, n: int) -> set[str]:
    plain = " ".join(unicodedata.normalize("NFKC", said).casefold().split())
    return {plain[i : i + n] for i in range(max(1, len(plain) - n + 1))}


def oracle(texts: list[str], *, n: int, threshold: float) -> list[int]:
    """Greedy by the definition: sets of strings, every pair."""
    sets = [shingles(said, n) for said in texts]
    kept = list[int]()
    for place, own in enumerate(sets):
        if all(len(own & sets[k]) / len(own | sets[k]) < threshold for k in kept):
            kept.append(place)
    return kept


@pytest.mark.parametrize(
    ("chinese", "n", "threshold"), [(False, 5, 0.8), (True, 3, 0.7), (True, 5, 0.5), (False, 3, 0.9)]
)
def test_near_duplicates_are_those_that_comparing_every_pair_finds(
    tmp_path: Path, chinese: bool, n: int, threshold: float
) -> None:
    texts = variations(random.Random(n), 300, chinese=chinese)
    wanted = oracle(texts, n=n, threshold=threshold)
    chosen = choose_dissimilar(view_of(tmp_path, *map(text, texts)), near(ngram=n, threshold=threshold))
    assert len(wanted) < 250, "the case must hold duplicates"
    # Banding may miss a pair near the threshold; a record that is kept by mistake can shield nothing else wrongly.
    assert len(set(chosen.kept) ^ set(wanted)) <= 3
    sets = [shingles(said, n) for said in texts]
    for place, why in chosen.examples:
        said, name = why.detail.split(" to ds_a, line ")
        other = int(name) - 1
        real = len(sets[place] & sets[other]) / len(sets[place] | sets[other])
        assert real >= threshold
        assert float(said.removeprefix("similarity ")) == pytest.approx(real, abs=0.001)


def test_what_is_unlike_stays_however_much_it_shares_by_estimate(tmp_path: Path) -> None:
    frame = "Please answer the following question of our customer in a friendly way and in no more than one sentence: "
    asked = ("why was it sent twice?", "bitte wann kommt es an?", "quantos dias leva isso?", "may my uncle fetch it?")
    questions = [f"{frame}{said}" for said in asked]
    chosen = choose_dissimilar(view_of(tmp_path, *map(chat, questions)), near())
    assert list(chosen.kept) == [0, 1, 2, 3]


def test_texts_shorter_than_a_shingle_and_empty_ones_are_told_apart(tmp_path: Path) -> None:
    view = view_of(tmp_path, text("ab"), text("ac"), text(""), text("AB"), text(""))
    assert list(choose_dissimilar(view, near()).kept) == [0, 1, 2, 4]


def test_words_can_be_what_a_shingle_is_made_of_and_a_chinese_character_is_one(tmp_path: Path) -> None:
    view = view_of(
        tmp_path,
        text("one two three four"),
        text("one, two; three... four!"),
        text("我们 今天 去"),
        text("我们今天去。"),
    )
    assert list(choose_dissimilar(view, near(unit="words", ngram=2)).kept) == [0, 2]


def test_batches_of_any_size_choose_the_same(tmp_path: Path) -> None:
    texts = variations(random.Random(9), 120, chinese=False)
    kept = [choose_dissimilar(view_of(tmp_path, *map(text, texts), size=size), near()).kept for size in (1, 17, 120)]
    assert np.array_equal(kept[0], kept[1])
    assert np.array_equal(kept[0], kept[2])


def test_banding_finds_a_pair_at_the_threshold_with_near_certainty() -> None:
    for threshold in (0.3, 0.5, 0.7, 0.8, 0.9, 0.95):
        bands, rows = banding(threshold, 128)
        assert bands * rows <= 128
        assert 1 - (1 - threshold**rows) ** bands >= 0.99


def test_equal_texts_have_equal_bands_and_other_texts_others() -> None:
    batch = batch_of(text("a text of some length"), text("A text of  some length"), text("quite another one"))
    bands = bands_of(shingles_of(batch, near(), Shingler(5)), near())
    assert np.array_equal(bands[:, 0], bands[:, 1])
    assert not (bands[:, 0] == bands[:, 2]).any()
