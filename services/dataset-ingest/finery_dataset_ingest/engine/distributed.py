"""Chains on Ray Data, for sets that one machine would take too long for: the same step functions, the same bytes.

Ray is no dependency of Finery: whoever has a cluster brings it (``ray[data]``). Records are judged where they lie.
Steps that must see all records exchange numbers by hash partition; the functions that decide on one machine decide from
them. It refuses mix and shuffle, whose order no partition knows.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from finery_contracts.cleansing import ExactDuplicates, NearDuplicates, Sample, Split
from finery_contracts.datasets import DataKind
from finery_contracts.errors import NotOffered
from finery_dataset_ingest.engine.canonical import CanonicalWriter
from finery_dataset_ingest.engine.steps.chance import sample_of, sides_of, split_keys
from finery_dataset_ingest.engine.steps.duplicates import firsts, keys_of
from finery_dataset_ingest.engine.steps.near_duplicates import bands_of, choose_dissimilar, shingles_of
from finery_dataset_ingest.engine.steps.shingles import Shingler
from finery_dataset_ingest.engine.steps.table import Ground, chooser_of, judge_of
from finery_dataset_ingest.engine.steps.verdicts import Judge
from finery_dataset_ingest.engine.tables import BATCH_RECORDS, SHELF_SCHEMA, Shelf, Source

PLACE, PART = "_place", "_part"
PLACED_SCHEMA = SHELF_SCHEMA.append(pa.field(PLACE, pa.int64(), nullable=False))
"""In the cluster a record also knows its place among all, so that the first of two and the order can be told."""
_SEED_STRIDE = 2**32
_GLOBAL = (ExactDuplicates, NearDuplicates, Sample, Split)


def run_on_ray(
    sources: Sequence[Source], steps: Sequence[Any], ground: Ground, *, out: Path, scratch: Path, partitions: int = 64
) -> dict[str, str]:
    """Write ``records.parquet`` (and ``validation.parquet``) into ``out``; returns the sha256 of each.

    Raises NotOffered ``step_not_distributed`` for mix and shuffle.
    """
    import ray.data

    refuse_what_cannot_be(steps)
    pieces = list(pieces_of(sources))
    records = ray.data.from_items(pieces).map_batches(read_pieces, batch_size=1, batch_format="pyarrow")
    validation = None
    for number, step in enumerate(steps):
        seeded = replace(ground, seed=ground.seed + number * _SEED_STRIDE)
        if not isinstance(step, _GLOBAL):
            records = _mapped(records, JudgeBatch(step, seeded))
            continue
        records = records.materialize()
        kept, aside = _decide(records, step, seeded.seed, scratch=scratch, partitions=partitions)
        validation = None if aside is None else _mapped(records, KeepPlaces(aside))
        records = _mapped(records, KeepPlaces(kept))
    sides = {"records": records} | ({} if validation is None else {"validation": validation})
    return {name: _write(side, out / f"{name}.parquet", holds=sources[0].holds) for name, side in sides.items()}


def refuse_what_cannot_be(steps: Sequence[Any]) -> None:
    """Raises NotOffered ``step_not_distributed``."""
    for place, step in enumerate(steps):
        if chooser_of(step, Ground()) is not None and not isinstance(step, _GLOBAL):
            raise NotOffered(
                f"{step.step} is not offered on a cluster: its order knows no partitions; do it in a task of its own.",
                code="step_not_distributed", param=f"steps.{place}.step",
            )  # fmt: skip


def pieces_of(sources: Sequence[Source]) -> Iterator[dict[str, Any]]:
    """Row groups of the files, each with the place of its first record among all."""
    start = 0
    for source in sources:
        with pq.ParquetFile(source.path) as file:
            for group in range(file.num_row_groups):
                yield {
                    "path": str(source.path), "group": group, "start": start, "number": source.number,
                    "dataset": source.dataset, "holds": source.holds,
                }  # fmt: skip
                start += file.metadata.row_group(group).num_rows


def read_pieces(pieces: pa.Table) -> Iterator[pa.Table]:
    """The records of row groups, batch by batch, each with its place."""
    for piece in pieces.to_pylist():
        place = piece["start"]
        source = Source(Path(piece["path"]), piece["number"], piece["dataset"], piece["holds"], 0)
        for batch in source.batches(row_groups=[piece["group"]]):
            places = pa.array(np.arange(place, place + batch.num_rows))
            place += batch.num_rows
            yield pa.Table.from_batches([pa.record_batch([*batch.columns, places], schema=PLACED_SCHEMA)])


@dataclass
class JudgeBatch:
    """A step that looks at one record at a time, as a cluster calls it; the judge is made where it works."""

    step: Any
    ground: Ground
    _judge: Judge | None = field(default=None, init=False)

    def __call__(self, table: pa.Table) -> pa.Table:
        batch = batch_of(table)
        self._judge = self._judge or judge_of(self.step, self.ground)
        found = self._judge(pa.record_batch(batch.columns[:-1], schema=SHELF_SCHEMA))
        kept = [row for row in range(batch.num_rows) if row not in found.removed]
        whole = pa.record_batch([*found.batch.columns, batch.column(PLACE)], schema=PLACED_SCHEMA)
        return pa.Table.from_batches([whole.take(pa.array(kept, pa.int64()))])

    def __getstate__(self) -> dict[str, Any]:
        return {"step": self.step, "ground": self.ground, "_judge": None}


@dataclass(frozen=True)
class KeepPlaces:
    """Keeps the records of these places; ``places`` ascend."""

    places: np.ndarray

    def __call__(self, table: pa.Table) -> pa.Table:
        found = np.isin(table.column(PLACE).to_numpy(), self.places)
        return table.filter(pa.array(found))


@dataclass(frozen=True)
class KeyRows:
    """Numbers alone: a row for each key of a record, with its place and the partition that compares it."""

    step: ExactDuplicates | NearDuplicates
    partitions: int

    def __call__(self, table: pa.Table) -> pa.Table:
        batch = batch_of(table)
        places = batch.column(PLACE).to_numpy()
        if isinstance(self.step, ExactDuplicates):
            keys = keys_of(batch, self.step.of, normalise=self.step.normalise)
        else:
            shingler = Shingler(self.step.ngram, self.step.unit)
            bands = bands_of(shingles_of(batch, self.step, shingler), self.step)
            numbers = np.repeat(np.arange(len(bands), dtype=np.uint64), bands.shape[1])
            keys, places = np.stack([numbers, bands.ravel()], axis=1), np.tile(places, len(bands))
            keys, places = keys[keys[:, 1] != 0], places[keys[:, 1] != 0]
        part = (keys[:, 1] % np.uint64(self.partitions)).astype(np.int64)
        return pa.table({PLACE: places, PART: part, "high": keys[:, 0], "low": keys[:, 1]})


def repeated(rows: pa.Table) -> pa.Table:
    """Of one partition, the places whose key an earlier place has, and that earlier one."""
    rows = rows.sort_by(PLACE)
    keys = np.stack([rows.column(name).to_numpy() for name in ("high", "low")], axis=1)
    places, first = rows.column(PLACE).to_numpy(), firsts(keys)
    again = np.flatnonzero(first != np.arange(len(first)))
    return pa.table({PLACE: places[again], "first": places[first[again]]})


def batch_of(table: pa.Table) -> pa.RecordBatch:
    """One batch in the shelf's schema with its places, whatever an engine made of the columns on the way."""
    found = table.select(PLACED_SCHEMA.names).cast(PLACED_SCHEMA).combine_chunks().to_batches()
    return found[0] if found else pa.RecordBatch.from_pylist([], schema=PLACED_SCHEMA)


def _decide(
    records: Any, step: Any, seed: int, *, scratch: Path, partitions: int
) -> tuple[np.ndarray, np.ndarray | None]:
    """The places that stay, and those laid aside."""
    places = np.sort(_column(records, PLACE))
    if isinstance(step, Sample):
        return places[sample_of(len(places), step, seed).kept], None
    if isinstance(step, Split):
        keys = _mapped(records, SplitRows(step)).sort(PLACE)
        table = pa.concat_tables(list(keys.iter_batches(batch_size=None, batch_format="pyarrow")))
        numbers = np.stack([table.column(f"k{n}").to_numpy() for n in range(5)], axis=1)
        chosen = sides_of(numbers, step, seed)
        assert chosen.validation is not None
        return places[chosen.kept], places[chosen.validation]
    pairs = _mapped(records, KeyRows(step, partitions)).groupby(PART).map_groups(repeated, batch_format="pyarrow")
    pairs = pairs.materialize()
    gone = np.unique(_column(pairs, PLACE))
    if isinstance(step, NearDuplicates) and len(gone):
        alike = np.union1d(gone, _column(pairs, "first"))
        gone = _verified(_mapped(records, KeepPlaces(alike)).sort(PLACE), alike, step, scratch=scratch)
    return np.setdiff1d(places, gone), None


def _verified(records: Any, places: np.ndarray, step: NearDuplicates, *, scratch: Path) -> np.ndarray:
    """Only records that share a bucket can be alike; these few are compared here, as on one machine."""
    tables = records.iter_batches(batch_size=BATCH_RECORDS, batch_format="pyarrow")
    batches = (pa.record_batch(batch_of(table).columns[:-1], schema=SHELF_SCHEMA) for table in tables)
    shelf = Shelf(scratch / "alike.arrow", batches)
    try:
        chosen = choose_dissimilar(shelf.all(), step)
    finally:
        shelf.close()
    return np.delete(places, chosen.kept)


@dataclass(frozen=True)
class SplitRows:
    """What a split is decided from."""

    step: Split

    def __call__(self, table: pa.Table) -> pa.Table:
        batch = batch_of(table)
        keys = split_keys(batch, self.step)
        return pa.table({PLACE: batch.column(PLACE), **{f"k{n}": keys[:, n] for n in range(keys.shape[1])}})


def _mapped(records: Any, work: Any) -> Any:
    """Ray looks at functions; an instance is called through one."""
    return records.map_batches(lambda table: work(table), batch_size=BATCH_RECORDS, batch_format="pyarrow")


def _column(records: Any, name: str) -> np.ndarray:
    parts = [
        batch.column(name).to_numpy()
        for batch in records.select_columns([name]).iter_batches(batch_size=None, batch_format="pyarrow")
        if batch.num_rows
    ]
    return np.concatenate(parts) if parts else np.empty(0, np.int64)


def _write(records: Any, path: Path, *, holds: str) -> str:
    writer = CanonicalWriter(path, DataKind(holds))
    try:
        for table in records.sort(PLACE).iter_batches(batch_size=BATCH_RECORDS, batch_format="pyarrow"):
            writer.add(batch_of(table))
        return writer.publish()
    finally:
        writer.discard()
