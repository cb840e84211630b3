"""Compares answers with what was expected: accuracy, exact match, and precision, recall and F1 of each class.

Pure; it refuses to guess classes where the expected answers are free text.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from finery_contracts.jobs import ClassScore

_MOST_CLASSES = 50
_TRAILING = ".,;:!?。！？…\"'`"


@dataclass(frozen=True, slots=True)
class Answer:
    """One answered record; ``expected`` and ``answer`` are as written."""

    expected: str
    answer: str

    @property
    def exact(self) -> bool:
        """Equal but for white space around."""
        return self.answer.strip() == self.expected.strip()

    @property
    def accurate(self) -> bool:
        """Equal after ``normalise``."""
        return normalise(self.answer) == normalise(self.expected)


def normalise(text: str) -> str:
    """Without case, runs of white space, and punctuation at the end: ``" Yes. "`` and ``"yes"`` are the same answer.

    A text of punctuation alone stays, so that it equals nothing but itself.
    """
    folded = " ".join(text.casefold().split())
    return folded.rstrip(_TRAILING + " ") or folded


def metrics_of(answers: Sequence[Answer]) -> dict[str, float]:
    """Shares from 0 to 1, and how many were answered; ``macro_f1`` where there are classes."""
    metrics = {
        "accuracy": sum(answer.accurate for answer in answers) / len(answers),
        "exact_match": sum(answer.exact for answer in answers) / len(answers),
        "samples": float(len(answers)),
    }
    classes = class_scores(answers)
    if classes:
        metrics["macro_f1"] = sum(score.f1 for score in classes) / len(classes)
    return metrics


def class_scores(answers: Sequence[Answer]) -> list[ClassScore]:
    """One row a class, by label; none unless the expected answers are a closed set.

    Closed means at most 50 distinct labels that come up twice each on average. An answer that is no label counts
    against the recall of what was expected and against nobody's precision.
    """
    expected = [normalise(answer.expected) for answer in answers]
    given = [normalise(answer.answer) for answer in answers]
    support = Counter(expected)
    if not 1 < len(support) <= _MOST_CLASSES or 2 * len(support) > len(answers):
        return []
    hits = Counter(wanted for wanted, got in zip(expected, given, strict=True) if wanted == got)
    said = Counter(given)
    return [_score(label, support=support[label], hits=hits[label], said=said[label]) for label in sorted(support)]


def _score(label: str, *, support: int, hits: int, said: int) -> ClassScore:
    precision = hits / said if said else 0.0
    recall = hits / support
    f1 = 2 * precision * recall / (precision + recall) if hits else 0.0
    return ClassScore(label=label, support=support, precision=precision, recall=recall, f1=f1)
