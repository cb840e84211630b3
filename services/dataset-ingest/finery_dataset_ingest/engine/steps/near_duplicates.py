"""Near duplicates: MinHash with banding proposes pairs, the true Jaccard similarity of their shingles decides.

In order of the records: one that is similar enough to an earlier one that stays, goes. So no two that stay are known
to be similar, and for each that goes there is one that stays. Nothing goes by an estimate alone.
Broder, "On the resemblance and containment of documents" (1997); Leskovec et al., "Mining of Massive Datasets", ch. 3.
"""

from __future__ import annotations

import tempfile
from collections import Counter, OrderedDict
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import rensa

from finery_contracts.cleansing import NearDuplicates
from finery_dataset_ingest.engine.steps.duplicates import EXAMPLES, places_of
from finery_dataset_ingest.engine.steps.hashes import mixed
from finery_dataset_ingest.engine.steps.shingles import Shingler, Shingles, jaccard
from finery_dataset_ingest.engine.steps.texts import normalised, texts_of
from finery_dataset_ingest.engine.steps.verdicts import Chosen, Why
from finery_dataset_ingest.engine.tables import View

RECALL = 0.99
"""A pair just at the threshold shares a band with at least this probability."""
_SEED = 42
_ROWS_AT_ONCE = 256
_CHECKS = 256
"""So many earlier records one record is compared with; those that share most bands come first."""
_CACHED = 8_000_000
"""Shingles of records that stay, kept for the next comparison (64 MB)."""


def shingles_of(batch: pa.RecordBatch, step: NearDuplicates, shingler: Shingler) -> Shingles:
    """The shingles of a batch's records."""
    return shingler([normalised(text) for text in texts_of(batch, step.of)])


def bands_of(found: Shingles, step: NearDuplicates) -> np.ndarray:
    """One uint64 for each band (rows) of each record (columns); 0 where a record has no shingles at all."""
    bands, rows = banding(step.threshold, step.permutations)
    parts = []
    for start in range(0, len(found.offsets) - 1, _ROWS_AT_ONCE):
        offsets = found.offsets[start : start + _ROWS_AT_ONCE + 1]
        hashes = found.hashes[int(offsets[0]) : int(offsets[-1])]
        matrix = rensa.RMinHash.digest_matrix_from_flat_token_hashes(
            hashes, offsets - offsets[0], step.permutations, _SEED
        )
        digests = np.array(matrix.to_rows(), np.uint32).reshape(len(offsets) - 1, step.permutations)
        parts.append(digests[:, : bands * rows].reshape(-1, bands, rows))
    digests = np.concatenate(parts).astype(np.uint64) if parts else np.empty((0, bands, rows), np.uint64)
    folded = np.zeros(digests.shape[:2], np.uint64)
    for row in range(rows):
        folded = mixed(folded ^ digests[:, :, row])
    folded[np.diff(found.offsets.astype(np.int64)) == 0] = 0
    return folded.T


def banding(threshold: float, permutations: int) -> tuple[int, int]:
    """(bands, rows of one): the longest rows whose banding still finds a pair at the threshold with ``RECALL``."""
    for rows in range(permutations, 0, -1):
        bands = permutations // rows
        if 1 - (1 - threshold**rows) ** bands >= RECALL:
            return bands, rows
    return permutations, 1


def choose_dissimilar(view: View, step: NearDuplicates) -> Chosen:
    """Keep what is like nothing before it; the examples name what a record is like, and how much."""
    shingler = Shingler(step.ngram, step.unit)
    rows, groups = _collisions(view, step, shingler)
    search = _Search(view, step, shingler)
    search.run(rows, groups)
    keep = np.ones(view.records, bool)
    keep[list(search.like)] = False
    gone = sorted(search.like)
    shown = gone[:EXAMPLES]
    names = places_of(view, np.array([search.like[place][0] for place in shown], np.int64))
    return Chosen(
        kept=np.flatnonzero(keep),
        reasons=Counter({"near_duplicate": len(gone)} if gone else {}),
        examples=[
            (place, Why("near_duplicate", f"similarity {search.like[place][1]:.3f} to {name}"))
            for place, name in zip(shown, names, strict=True)
        ],
        notes=search.notes,
    )


def _collisions(view: View, step: NearDuplicates, shingler: Shingler) -> tuple[np.ndarray, np.ndarray]:
    """(position, bucket) of each record in a bucket that others are in, too; by position. Bands lie in a file."""
    bands, _ = banding(step.threshold, step.permutations)
    rows, buckets, known = [np.empty(0, np.int64)], [np.empty(0, np.int64)], 0
    with tempfile.TemporaryFile(dir=view.shelf.folder) as file:
        if not view.records:
            return rows[0], buckets[0]
        table = np.memmap(file, np.uint64, "w+", shape=(bands, view.records))
        start = 0
        for batch in view.batches():
            table[:, start : start + batch.num_rows] = bands_of(shingles_of(batch, step, shingler), step)
            start += batch.num_rows
        for band in range(bands):
            keys = np.array(table[band])
            order = np.argsort(keys, kind="stable")
            ranked = keys[order]
            same = (ranked[1:] == ranked[:-1]) & (ranked[1:] != 0)
            shared = np.concatenate([[False], same]) | np.concatenate([same, [False]])
            begins = np.concatenate([[True], ~same])
            rows.append(order[shared])
            buckets.append(known + np.cumsum(begins)[shared])
            known += len(keys)
    row, bucket = np.concatenate(rows), np.concatenate(buckets)
    order = np.argsort(row, kind="stable")
    return row[order], bucket[order]


@dataclass
class _Search:
    """Goes through the records that share a bucket with another, in order."""

    view: View
    step: NearDuplicates
    shingler: Shingler
    like: dict[int, tuple[int, float]] = field(default_factory=dict[int, "tuple[int, float]"])
    """Which earlier record a record is like, and how much."""
    unchecked: int = 0
    _stay: dict[int, list[int]] = field(default_factory=dict[int, "list[int]"])
    _cache: OrderedDict[int, np.ndarray] = field(default_factory=OrderedDict[int, np.ndarray])
    _cached: int = 0

    @property
    def notes(self) -> list[str]:
        """What a reader of the report should know."""
        if not self.unchecked:
            return []
        return [
            f"{self.unchecked} records shared buckets with more than {_CHECKS} others; the likeliest were compared."
        ]

    def run(self, rows: np.ndarray, buckets: np.ndarray) -> None:
        """``rows`` ascend; ``buckets`` says which bucket each stands in."""
        positions, starts = np.unique(rows, return_index=True)
        ends = np.append(starts[1:], len(rows))
        for first in range(0, len(positions), 1024):
            chunk = positions[first : first + 1024]
            found = shingles_of(self.view.at(chunk), self.step, self.shingler)
            for place, position in enumerate(chunk.tolist()):
                span = slice(starts[first + place], ends[first + place])
                self._look(position, buckets[span].tolist(), found.of(place))

    def _look(self, position: int, buckets: list[int], shingles: np.ndarray) -> None:
        votes = Counter(earlier for bucket in buckets for earlier in self._stay.get(bucket, ()))
        ranked = sorted(votes, key=lambda earlier: (-votes[earlier], earlier))
        self.unchecked += len(ranked) > _CHECKS
        for earlier in ranked[:_CHECKS]:
            similarity = jaccard(shingles, self._shingles(earlier))
            if similarity >= self.step.threshold:
                self.like[position] = (earlier, similarity)
                return
        for bucket in buckets:
            self._stay.setdefault(bucket, []).append(position)
        self._remember(position, shingles)

    def _shingles(self, position: int) -> np.ndarray:
        if position not in self._cache:
            batch = self.view.at(np.array([position]))
            self._remember(position, shingles_of(batch, self.step, self.shingler).of(0))
        self._cache.move_to_end(position)
        return self._cache[position]

    def _remember(self, position: int, shingles: np.ndarray) -> None:
        self._cache[position] = shingles
        self._cached += len(shingles)
        while self._cached > _CACHED and len(self._cache) > 1:
            _, gone = self._cache.popitem(last=False)
            self._cached -= len(gone)
