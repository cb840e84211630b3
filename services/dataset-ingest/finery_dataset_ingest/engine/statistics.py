"""Counts what a data set holds while it streams by, in memory that does not grow with it."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from finery_contracts.model import Record
from finery_dataset_ingest.engine.samples import Sample

_LABEL_CHARACTERS = 64
_LABELS_KEPT = 10_000
_KEYS_KEPT = 50
_TOP = 20


class AnswerCount(Record):
    """How often a short last answer occurs."""

    answer: str
    records: int


class LengthBucket(Record):
    """Records of up to so many characters, and more than the bucket before."""

    up_to_characters: int
    records: int


class Statistics(Record):
    """stats.json."""

    records: int
    turns: int
    characters: dict[str, int]
    lengths: list[LengthBucket]
    distinct_short_answers: int
    top_answers: list[AnswerCount]


@dataclass
class Tally:
    """The running counts."""

    records: int = 0
    turns: int = 0
    characters: Counter[str] = field(default_factory=Counter)
    ignored_keys: Counter[str] = field(default_factory=Counter)
    _lengths: Counter[int] = field(default_factory=Counter)
    _answers: Counter[str] = field(default_factory=Counter)

    def add(self, sample: Sample) -> None:
        """Count one sample."""
        self.records += 1
        self.turns += len(sample.turns)
        for key in sample.ignored_keys:
            if key in self.ignored_keys or len(self.ignored_keys) < _KEYS_KEPT:
                self.ignored_keys[key] += 1
        length = 0
        for turn in sample.turns:
            self.characters[turn.role] += len(turn.content)
            length += len(turn.content)
        self._lengths[max(length - 1, 0).bit_length()] += 1
        answer = sample.turns[-1].content
        if len(answer) <= _LABEL_CHARACTERS and (answer in self._answers or len(self._answers) < _LABELS_KEPT):
            self._answers[answer] += 1

    def as_statistics(self) -> Statistics:
        """The counts as they are written; buckets end at powers of two, equal counts are ordered by text."""
        top = sorted(self._answers.items(), key=lambda entry: (-entry[1], entry[0]))[:_TOP]
        return Statistics(
            records=self.records,
            turns=self.turns,
            characters=dict(sorted(self.characters.items())),
            lengths=[LengthBucket(up_to_characters=2**bits, records=n) for bits, n in sorted(self._lengths.items())],
            distinct_short_answers=len(self._answers),
            top_answers=[AnswerCount(answer=answer, records=count) for answer, count in top],
        )
