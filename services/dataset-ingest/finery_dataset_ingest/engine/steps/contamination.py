"""Contamination: records that an evaluation set holds as well, whole or in large pieces.

Three ways to be caught: the whole record, or its prompt, or something that its user says is what an evaluation record
says or asks, but for case, width, white space and the mark at the end; or at least a share of the n-grams of an
evaluation record, or of its prompt alone, stands in the record, in any order and with anything around them. What the
system says does not count: data that is made for one task shares it without sharing questions.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from finery_contracts.cleansing import Contamination
from finery_dataset_ingest.engine.steps.shingles import Shingler
from finery_dataset_ingest.engine.steps.texts import WORDS, normalised, texts_of, without_system
from finery_dataset_ingest.engine.steps.verdicts import Judge, Judged, Why

_TOO_SHORT = 3
"""A prompt of fewer words is no question of its own: hello, yes, 继续."""
_COMMON = 10
"""Pieces that more evaluation records than this have are their form and say nothing of any of them; so many did Brown
et al., "Language Models are Few-Shot Learners" (2020), appendix C, allow."""
_ENDS = " .?!:。…"


class _Evaluated(NamedTuple):
    """An evaluation record, or what it asks: its set's name and its line."""

    name: str
    line: int
    is_prompt: bool = False

    def __str__(self) -> str:
        return f"{'the prompt of ' * self.is_prompt}{self.name}, line {self.line}"


@dataclass(frozen=True)
class EvaluationIndex:
    """Every evaluation record by its texts and its n-grams."""

    records: list[_Evaluated]
    prompts: dict[str, int]
    wholes: dict[str, int]
    grams: np.ndarray
    """Hashes, ascending; ``owners`` says whose each is, ``sizes`` how many distinct ones a record has."""
    owners: np.ndarray
    sizes: np.ndarray


def build_index(sets: Iterable[tuple[str, Iterable[pa.RecordBatch]]], step: Contamination) -> EvaluationIndex:
    """Of sets with their names; they are small against what is cleansed, and kept in memory."""
    growing = _Growing(step)
    for name, batches in sets:
        for batch in batches:
            growing.add(name, batch)
    return growing.index()


def contamination_judge(step: Contamination, index: EvaluationIndex) -> Judge:
    """Removes what the index knows, and names the evaluation set and record."""
    shingler = Shingler(step.ngram, "words")

    def judge(batch: pa.RecordBatch) -> Judged:
        said = without_system(batch)
        texts = [normalised(text) for text in texts_of(said)]
        found = shingler(texts)
        removed = dict[int, Why]()
        for row, (text, asked) in enumerate(zip(texts, _questions(said), strict=True)):
            known = index.wholes.get(text)
            if known is not None and text:
                removed[row] = Why("contaminated_exact", f"the same as {index.records[known]}")
                continue
            known = next((index.prompts[question] for question in asked if question in index.prompts), None)
            if known is not None:
                removed[row] = Why("contaminated_prompt", f"the prompt of {index.records[known]}")
                continue
            overlap, owner = _largest_overlap(found.of(row), index)
            if overlap >= step.overlap:
                removed[row] = Why("contaminated_overlap", f"{overlap:.0%} of the pieces of {index.records[owner]}")
        return Judged(batch, removed)

    return judge


@dataclass
class _Growing:
    """An index in the making."""

    step: Contamination
    records: list[_Evaluated] = field(default_factory=list[_Evaluated])
    prompts: dict[str, int] = field(default_factory=dict[str, int])
    wholes: dict[str, int] = field(default_factory=dict[str, int])
    grams: list[np.ndarray] = field(default_factory=list[np.ndarray])
    """Of each of ``records``."""

    def add(self, name: str, batch: pa.RecordBatch) -> None:
        shingler = Shingler(self.step.ngram, "words")
        said = without_system(batch)
        texts = [normalised(text) for text in texts_of(said)]
        asked = [normalised(text) for text in texts_of(said, "prompt")]
        pieces, pieces_asked = shingler(texts), shingler(asked)
        for row, line in enumerate(batch.column("line").to_pylist()):
            number = len(self.records)
            self.wholes.setdefault(texts[row], number)
            if _units(asked[row]) >= _TOO_SHORT:
                self.prompts.setdefault(_without_end(asked[row]), number)
            self._own(_Evaluated(name, line), texts[row], pieces.of(row))
            if asked[row] != texts[row]:
                self._own(_Evaluated(name, line, is_prompt=True), asked[row], pieces_asked.of(row))

    def index(self) -> EvaluationIndex:
        sizes = np.array([len(own) for own in self.grams], np.int64)
        every = np.concatenate(self.grams) if self.grams else np.empty(0, np.uint64)
        owners = np.repeat(np.arange(len(sizes)), sizes)
        kept = self._telling(every, owners, sizes)
        every, owners = every[kept], owners[kept]
        order = np.argsort(every, kind="stable")
        left = np.bincount(owners, minlength=len(sizes))
        return EvaluationIndex(self.records, self.prompts, self.wholes, every[order], owners[order], left)

    def _own(self, evaluated: _Evaluated, text: str, pieces: np.ndarray) -> None:
        self.records.append(evaluated)
        self.grams.append(pieces if _units(text) >= self.step.ngram else np.empty(0, np.uint64))

    def _telling(self, every: np.ndarray, owners: np.ndarray, sizes: np.ndarray) -> np.ndarray:
        """Which pieces tell whose they are. A record that lost some and has fewer left than an n-gram has words keeps
        none: those hold more of the form than of what is its own."""
        whole = ~np.array([record.is_prompt for record in self.records], bool)
        pieces, counts = np.unique(every[whole[owners]], return_counts=True)
        kept = ~np.isin(every, pieces[counts > _COMMON])
        left = np.bincount(owners[kept], minlength=len(sizes))
        return kept & ((left == sizes) | (left >= self.step.ngram))[owners]


def _questions(batch: pa.RecordBatch) -> Iterator[list[str]]:
    """The prompt of each record, and each thing that its user says."""
    for prompt, turns in zip(texts_of(batch, "prompt"), batch.column("messages").to_pylist(), strict=True):
        said = [turn["content"] for turn in turns if turn["role"] == "user"]
        yield [_without_end(normalised(text)) for text in dict.fromkeys([prompt, *said])]


def _without_end(question: str) -> str:
    return question.rstrip(_ENDS)


def _largest_overlap(grams: np.ndarray, index: EvaluationIndex) -> tuple[float, int]:
    """(share of an evaluation record's n-grams that are among these, which record)."""
    starts, ends = (np.searchsorted(index.grams, grams, side=side) for side in ("left", "right"))
    lengths = ends - starts
    total = int(lengths.sum())
    if not total:
        return 0.0, -1
    places = np.repeat(starts - np.cumsum(lengths) + lengths, lengths) + np.arange(total)
    owners, counts = np.unique(index.owners[places], return_counts=True)
    overlaps = counts / index.sizes[owners]
    best = int(np.argmax(overlaps))
    return float(overlaps[best]), int(owners[best])


def _units(text: str) -> int:
    return len(WORDS.findall(text))
