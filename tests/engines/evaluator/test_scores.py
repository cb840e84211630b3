"""What counts as the same answer, and the table by class."""

from __future__ import annotations

import pytest

from finery_evaluator.engine.scores import Answer, class_scores, metrics_of, normalise


@pytest.mark.parametrize(
    ("written", "kept"),
    [
        (" Yes. ", "yes"),
        ("yes", "yes"),
        ("ÜBER\n  All", "über all"),
        ("no!?", "no"),
        ("?", "?"),
        ("a.b", "a.b"),
        ("", ""),
    ],
)
def test_case_white_space_and_trailing_punctuation_do_not_count(written: str, kept: str) -> None:
    assert normalise(written) == kept


def test_exact_match_forgives_white_space_around_and_nothing_else() -> None:
    answers = [Answer("refund", " refund\n"), Answer("refund", "Refund"), Answer("refund", "return")]
    metrics = metrics_of(answers)
    assert metrics["exact_match"] == pytest.approx(1 / 3)
    assert metrics["accuracy"] == pytest.approx(2 / 3)


def test_the_table_by_class_has_the_textbook_figures() -> None:
    # given: a is expected 4 times and said 4 times, 3 of them rightly; b once wrongly for a; "none" is no class
    pairs = [("a", "a"), ("a", "a"), ("a", "a"), ("a", "b"), ("b", "b"), ("b", "a"), ("b", "none")]
    # when
    first, second = class_scores([Answer(expected, answer) for expected, answer in pairs])
    # then
    assert (first.label, first.support, first.precision, first.recall) == ("a", 4, 0.75, 0.75)
    assert (second.label, second.support, second.precision) == ("b", 3, 0.5)
    assert second.recall == pytest.approx(1 / 3)
    assert second.f1 == pytest.approx(0.4)
    assert metrics_of([Answer(*pair) for pair in pairs])["macro_f1"] == pytest.approx((0.75 + 0.4) / 2)


def test_a_class_that_is_never_said_scores_nothing() -> None:
    scores = class_scores([Answer("a", "b"), Answer("a", "b"), Answer("b", "b"), Answer("b", "b")])
    assert (scores[0].precision, scores[0].recall, scores[0].f1) == (0.0, 0.0, 0.0)


@pytest.mark.parametrize(
    "expected",
    [[f"text {n}" for n in range(40)], [f"label {n % 51}" for n in range(200)], ["only one"] * 9],
    ids=["free text", "more than fifty", "a single one"],
)
def test_there_is_no_table_without_a_small_closed_set(expected: list[str]) -> None:
    answers = [Answer(text, text) for text in expected]
    assert class_scores(answers) == []
    assert "macro_f1" not in metrics_of(answers)
