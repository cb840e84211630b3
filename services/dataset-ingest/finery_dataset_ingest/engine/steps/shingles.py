"""Shingles of many texts at once, as numbers: pieces of n characters or words, hashed in a few passes over one array.

A text shorter than one shingle is its own single shingle; an empty one has none.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from finery_dataset_ingest.engine.steps.hashes import fingerprints, mixed
from finery_dataset_ingest.engine.steps.texts import WORDS

_BASE = np.uint64(0x9E3779B97F4A7C15 | 1)
_WORDS_KNOWN = 1_000_000


@dataclass(frozen=True)
class Shingles:
    """The shingles of text i are ``hashes[offsets[i]:offsets[i + 1]]``, in the order of the text, repeats included."""

    hashes: np.ndarray
    offsets: np.ndarray

    def of(self, place: int) -> np.ndarray:
        """The set of one text's shingles, sorted."""
        found = np.sort(self.hashes[int(self.offsets[place]) : int(self.offsets[place + 1])])
        return found[np.concatenate([[True], found[1:] != found[:-1]])] if len(found) else found


@dataclass
class Shingler:
    """Makes shingles of ``ngram`` units."""

    ngram: int
    unit: Literal["characters", "words"] = "characters"
    _words: dict[str, int] = field(default_factory=dict[str, int])

    def __call__(self, texts: list[str]) -> Shingles:
        """Of texts as they are: whoever calls has normalised them."""
        codes, lengths = self._characters(texts) if self.unit == "characters" else self._tokens(texts)
        ends = np.cumsum(lengths)
        counts = np.where(lengths >= self.ngram, lengths - self.ngram + 1, np.minimum(lengths, 1))
        offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.uint64)
        begins = np.ones(len(codes), bool)
        for back in range(1, self.ngram):  # no shingle begins where the text ends before it
            begins[(ends - back)[lengths >= self.ngram]] = False
        short = np.flatnonzero((lengths > 0) & (lengths < self.ngram))
        for text in short:
            begins[ends[text] - lengths[text] + 1 : ends[text]] = False
        hashes = mixed(self._windows(codes)[begins])
        for text in short:
            span = codes[ends[text] - lengths[text] : ends[text]]
            hashes[int(offsets[text])] = fingerprints([f"short {span.tolist()}"])[0, 0]
        return Shingles(hashes, offsets)

    def _windows(self, codes: np.ndarray) -> np.ndarray:
        """At each place the polynomial hash of the ``ngram`` codes from there on."""
        padded = np.concatenate([codes, np.zeros(self.ngram, np.uint64)])
        total = np.zeros(len(codes), np.uint64)
        with np.errstate(over="ignore"):
            for step in range(self.ngram):
                total *= _BASE
                total += padded[step : step + len(codes)]
        return total

    def _characters(self, texts: list[str]) -> tuple[np.ndarray, np.ndarray]:
        codes = np.frombuffer("".join(texts).encode("utf-32-le"), "<u4").astype(np.uint64)
        return codes, np.fromiter(map(len, texts), np.int64, len(texts))

    def _tokens(self, texts: list[str]) -> tuple[np.ndarray, np.ndarray]:
        found = [WORDS.findall(text) for text in texts]
        if len(self._words) > _WORDS_KNOWN:
            self._words.clear()
        new = list({word for words in found for word in words} - self._words.keys())
        if new:
            self._words.update(zip(new, fingerprints(new)[:, 0].tolist(), strict=True))
        known = self._words
        codes = np.array([known[word] for words in found for word in words], np.uint64)
        return codes, np.fromiter(map(len, found), np.int64, len(found))


def jaccard(one: np.ndarray, other: np.ndarray) -> float:
    """|A ∩ B| / |A ∪ B| of two sorted sets; 0 when both are empty."""
    both = np.concatenate([one, other])
    both.sort()
    common = int(np.count_nonzero(both[1:] == both[:-1]))
    union = len(one) + len(other) - common
    return common / union if union else 0.0
