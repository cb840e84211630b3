"""Counts what a data set holds while its batches stream by, in memory that does not grow with it; charts as data."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import xxhash

from finery_contracts.datasets import AnswerCount, DataKind, DatasetStatistics, LengthBucket, TurnCount
from finery_dataset_ingest.engine.languages import language_of

_LABEL_CHARACTERS = 64
_LABELS_KEPT = 10_000
_KEYS_KEPT = 50
_TOP = 20
_DIGESTS_KEPT = 2**24
"""128 MB of digests; beyond so many records those that are kept are thinned out by their own value, and duplicates
estimated from them."""
_LANGUAGE_SAMPLE = 500
_MIX, _STEP = np.uint64(0x9E3779B97F4A7C15), np.uint64(0xBF58476D1CE4E5B9)


@dataclass
class Tally:
    """The running counts."""

    records: int = 0
    turns: int = 0
    characters: Counter[str] = field(default_factory=Counter)
    messages: Counter[str] = field(default_factory=Counter)
    ignored_keys: Counter[str] = field(default_factory=Counter)
    _lengths: Counter[int] = field(default_factory=Counter)
    _turns: Counter[int] = field(default_factory=Counter)
    _answers: Counter[str] = field(default_factory=Counter)
    _labels: Counter[str] = field(default_factory=Counter)
    _languages: Counter[str] = field(default_factory=Counter)
    _digests: list[np.ndarray] = field(default_factory=list)
    _digests_held: int = 0
    _every: int = 1

    def add(self, batch: pa.RecordBatch) -> None:
        """Count records."""
        self.records += batch.num_rows
        lengths = np.zeros(batch.num_rows, np.int64)
        digests = np.zeros(batch.num_rows, np.uint64)
        for name in ("messages", "chosen", "rejected"):
            turns = batch.column(name)
            if turns.null_count < len(turns):
                lengths += self._add_turns(turns, name)
                digests = _mixed(digests, _digests_of_turns(turns))
        for name in ("text", "answer", "tools"):
            texts = batch.column(name)
            if texts.null_count < len(texts):
                digests = _mixed(digests, _digests_of_texts(texts))
                if name != "tools":
                    lengths += self._add_texts(texts, name)
        labels = batch.column("label")
        if labels.null_count < len(labels):
            digests = _mixed(digests, np.array(labels.fill_null(False), dtype=np.uint64))
            self._labels["like"] += pc.sum(labels).as_py() or 0
            self._labels["dislike"] += len(labels) - (pc.sum(labels).as_py() or 0)
        buckets = np.bincount(np.frexp(np.maximum(lengths - 1, 0).astype(np.float64))[1])
        self._lengths.update({bits: int(count) for bits, count in enumerate(buckets) if count})
        self._keep(digests)
        self._sample_languages(batch)

    def ignore(self, keys: Iterable[str]) -> None:
        """Count names that a record carried and no one reads."""
        for key in keys:
            if key in self.ignored_keys or len(self.ignored_keys) < _KEYS_KEPT:
                self.ignored_keys[key] += 1

    def as_statistics(self, kind: DataKind) -> DatasetStatistics:
        """The counts as they are written; buckets end at powers of two, equal counts are ordered by text."""
        top = sorted(self._answers.items(), key=lambda entry: (-entry[1], entry[0]))[:_TOP]
        sampled = self._languages.total() or 1
        return DatasetStatistics(
            kind=kind,
            records=self.records,
            turns=self.turns,
            characters=dict(sorted(self.characters.items())),
            messages=dict(sorted(self.messages.items())),
            lengths=[LengthBucket(up_to_characters=2**bits, records=n) for bits, n in sorted(self._lengths.items())],
            turns_per_record=[TurnCount(turns=turns, records=n) for turns, n in sorted(self._turns.items())],
            languages={name: round(count / sampled, 4) for name, count in self._languages.most_common()},
            labels=dict(sorted(self._labels.items())),
            duplicates=self._duplicates(),
            duplicates_exact=self._every == 1,
            distinct_short_answers=len(self._answers),
            top_answers=[AnswerCount(answer=answer, records=count) for answer, count in top],
        )

    def _add_turns(self, turns: pa.ListArray, name: str) -> np.ndarray:
        """Characters a record."""
        counts = np.array(turns.value_lengths().fill_null(0))
        messages = turns.flatten()
        lengths = pc.utf8_length(messages.field("content"))
        self.turns += len(messages)
        roles = messages.field("role")
        for role in pc.unique(roles).to_pylist():
            mask = pc.equal(roles, role)
            self.messages[role] += pc.sum(mask).as_py()
            self.characters[role] += pc.sum(lengths.filter(mask)).as_py()
        if name == "messages":
            for value, count in enumerate(np.bincount(np.minimum(counts, 2_048))):
                if count:
                    self._turns[value] += int(count)
        ends = np.cumsum(counts)
        totals = np.concatenate(([0], np.cumsum(np.array(lengths, dtype=np.int64))))
        if len(messages) and name in ("messages", "chosen"):
            last = pa.array(ends[counts > 0] - 1)
            is_answer = pc.equal(roles.take(last), "assistant")
            short = pc.and_(is_answer, pc.less_equal(lengths.take(last), _LABEL_CHARACTERS))
            self._count_answers(messages.field("content").take(last.filter(short)))
        return totals[ends] - totals[ends - counts]

    def _add_texts(self, texts: pa.StringArray, name: str) -> np.ndarray:
        lengths = np.array(pc.utf8_length(texts).fill_null(0), dtype=np.int64)
        self.characters[name] += int(lengths.sum())
        if name == "answer":
            self._count_answers(texts.filter(pc.less_equal(pc.utf8_length(texts), _LABEL_CHARACTERS)))
        return lengths

    def _count_answers(self, answers: pa.StringArray) -> None:
        """Short ones alone are given."""
        found = pc.value_counts(answers)
        for answer, count in zip(found.field(0).to_pylist(), found.field(1).to_pylist(), strict=True):
            if answer in self._answers or len(self._answers) < _LABELS_KEPT:
                self._answers[answer] += count

    def _keep(self, digests: np.ndarray) -> None:
        if self._every > 1:
            digests = digests[digests % np.uint64(self._every) == 0]
        self._digests.append(digests)
        self._digests_held += len(digests)
        while self._digests_held > _DIGESTS_KEPT:
            self._every *= 2
            whole = np.concatenate(self._digests)
            self._digests = [whole[whole % np.uint64(self._every) == 0]]
            self._digests_held = len(self._digests[0])

    def _duplicates(self) -> int:
        """Records whose content came before; exact until digests are thinned out."""
        if not self._digests:
            return 0
        whole = np.concatenate(self._digests)
        whole.sort()
        return int((whole[1:] == whole[:-1]).sum()) * self._every

    def _sample_languages(self, batch: pa.RecordBatch) -> None:
        """Some records of each batch, fewer the more there were before."""
        room = _LANGUAGE_SAMPLE - self._languages.total()
        if room <= 0:
            return
        few = batch.slice(0, min(batch.num_rows, max(room // 8, 20), room))
        for messages, text in zip(few.column("messages").to_pylist(), few.column("text").to_pylist(), strict=True):
            self._languages[language_of([text] if text else [turn["content"] for turn in messages])] += 1


def _mixed(digests: np.ndarray, more: np.ndarray) -> np.ndarray:
    return (digests ^ more) * _MIX + (digests >> np.uint64(29)) + _STEP


def _digests_of_texts(texts: pa.StringArray) -> np.ndarray:
    texts = texts.fill_null("")
    offsets, data = _raw(texts)
    return _digests_between(data, offsets[:-1], offsets[1:])


def _digests_of_turns(turns: pa.ListArray) -> np.ndarray:
    """Of all that is said in a record, by whom, and where one message ends and the next begins."""
    counts = np.array(turns.value_lengths().fill_null(0))
    messages = turns.flatten()
    ends = np.cumsum(counts)
    starts = ends - counts
    whole = np.zeros(len(turns), np.uint64)
    for name in ("content", "role", "tool_calls"):
        column = messages.field(name)
        if column.null_count < len(column):
            offsets, data = _raw(column.fill_null(""))
            whole = _mixed(whole, _digests_between(data, offsets[starts], offsets[ends]))
            lengths = (offsets[1:] - offsets[:-1]).astype(np.uint64)
            places = np.arange(len(messages), dtype=np.uint64) - np.repeat(starts, counts).astype(np.uint64)
            borders = np.concatenate((np.zeros(1, np.uint64), np.cumsum((lengths + _STEP) * (places * _MIX + _STEP))))
            whole = _mixed(whole, borders[ends] - borders[starts])
    return whole


def _raw(texts: pa.StringArray) -> tuple[np.ndarray, memoryview]:
    """Offsets and bytes of an array of texts."""
    _, offsets, data = texts.buffers()
    found = np.frombuffer(offsets, np.int32)[texts.offset : texts.offset + len(texts) + 1]
    return found.astype(np.int64), memoryview(data) if data is not None else memoryview(b"")


def _digests_between(data: memoryview, starts: np.ndarray, ends: np.ndarray) -> np.ndarray:
    digest = xxhash.xxh3_64_intdigest
    pairs = zip(starts.tolist(), ends.tolist(), strict=True)
    return np.fromiter((digest(data[start:end]) for start, end in pairs), np.uint64, len(starts))
