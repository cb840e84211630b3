"""Contamination: records that an evaluation set holds as well, whole or in large pieces.

Two ways to be caught: the prompt or the whole record is the same but for case, width and white space; or at least a
share of an evaluation record's n-grams stands in the record, in any order and with anything around them.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from finery_contracts.cleansing import Contamination
from finery_dataset_ingest.engine.steps.shingles import Shingler
from finery_dataset_ingest.engine.steps.texts import WORDS, normalised, texts_of
from finery_dataset_ingest.engine.steps.verdicts import Judge, Judged, Why

_TOO_SHORT = 3
"""A prompt of fewer words is no question of its own: hello, yes, 继续."""


class _Evaluated(NamedTuple):
    """An evaluation record: its set's name and its line."""

    name: str
    line: int

    def __str__(self) -> str:
        return f"{self.name}, line {self.line}"


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
    shingler = Shingler(step.ngram, "words")
    records, prompts, wholes = list[_Evaluated](), dict[str, int](), dict[str, int]()
    grams, owners, sizes = list[np.ndarray](), list[np.ndarray](), list[int]()
    for name, batches in sets:
        for batch in batches:
            texts = [normalised(text) for text in texts_of(batch)]
            asked = [normalised(text) for text in texts_of(batch, "prompt")]
            found = shingler(texts)
            for row, line in enumerate(batch.column("line").to_pylist()):
                number = len(records)
                records.append(_Evaluated(name, line))
                wholes.setdefault(texts[row], number)
                if _is_a_question(asked[row]):
                    prompts.setdefault(asked[row], number)
                own = found.of(row) if _units(texts[row]) >= step.ngram else np.empty(0, np.uint64)
                grams.append(own)
                owners.append(np.full(len(own), number, np.int64))
                sizes.append(len(own))
    every = np.concatenate(grams) if grams else np.empty(0, np.uint64)
    whose = np.concatenate(owners) if owners else np.empty(0, np.int64)
    order = np.argsort(every, kind="stable")
    return EvaluationIndex(records, prompts, wholes, every[order], whose[order], np.array(sizes, np.int64))


def contamination_judge(step: Contamination, index: EvaluationIndex) -> Judge:
    """Removes what the index knows, and names the evaluation set and record."""
    shingler = Shingler(step.ngram, "words")

    def judge(batch: pa.RecordBatch) -> Judged:
        texts = [normalised(text) for text in texts_of(batch)]
        asked = [normalised(text) for text in texts_of(batch, "prompt")]
        found = shingler(texts)
        removed = dict[int, Why]()
        for row, text in enumerate(texts):
            known = index.wholes.get(text)
            if known is not None and text:
                removed[row] = Why("contaminated_exact", f"the same as {index.records[known]}")
                continue
            known = index.prompts.get(asked[row])
            if known is not None:
                removed[row] = Why("contaminated_prompt", f"the prompt of {index.records[known]}")
                continue
            overlap, owner = _largest_overlap(found.of(row), index)
            if overlap >= step.overlap:
                removed[row] = Why("contaminated_overlap", f"{overlap:.0%} of the pieces of {index.records[owner]}")
        return Judged(batch, removed)

    return judge


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


def _is_a_question(prompt: str) -> bool:
    return _units(prompt) >= _TOO_SHORT
