"""Chains on Ray Data, for sets that one machine would take too long for: the same step functions, the same bytes.

Records are judged where they lie. A step that must see all of them is decided here, by the functions that decide on one
machine, from numbers: a few for each record. So memory here holds numbers, never records.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from finery_contracts.cleansing import ExactDuplicates, Mix, NearDuplicates, Sample, Shuffle, Split
from finery_dataset_ingest.engine.chain import SEED_STRIDE, Made, Tally, judged
from finery_dataset_ingest.engine.cluster import (
    PLACE,
    OnlyPlaces,
    Pulse,
    Records,
    Watch,
    batch_of,
    column_of,
    mapped_by,
    placed,
    without_places,
)
from finery_dataset_ingest.engine.steps.chance import mixture_of, order_of, sample_of, sides_of, split_keys
from finery_dataset_ingest.engine.steps.duplicates import distinct_of, firsts, keys_of
from finery_dataset_ingest.engine.steps.near_duplicates import bands_of, choose_dissimilar, shingles_of
from finery_dataset_ingest.engine.steps.shingles import Shingler
from finery_dataset_ingest.engine.steps.table import Ground, chooser_of, judge_of
from finery_dataset_ingest.engine.steps.verdicts import Chosen, Judge
from finery_dataset_ingest.engine.tables import INPUT, Shelf, Source

PART = "_part"
RECORDS_A_PARTITION = 1_000_000


class Ledger:
    """What steps did to each batch, by its first record: a batch that is done again is counted once."""

    def __init__(self) -> None:
        self._told: dict[tuple[int, int], Tally] = {}
        self._read: dict[int, int] = {}

    def take(self, number: int, first: int, tally: Tally) -> None:
        """Of step ``number``."""
        self._told[number, first] = tally

    def note_read(self, place: int, records: int) -> None:
        """So many records from this place on were read."""
        self._read[place] = records

    def records_read(self) -> int:
        """So far."""
        return sum(self._read.values())

    def of(self, number: int) -> list[Tally]:
        """Of one step, in the order of the records."""
        keys = sorted(key for key in self._told if key[0] == number)
        return [self._told[key] for key in keys]


def run_on_ray(
    sources: Sequence[Source], steps: Sequence[Any], ground: Ground, *, scratch: Path, pulse: Pulse, examples: int = 20
) -> Made:
    """Records in, records out, inside ``cluster.joined()``; the files must lie at the same path on every machine of it.

    ``scratch`` is for near duplicates alone: records that may be alike are compared here.
    """
    import ray

    ledger = ray.remote(num_cpus=0)(Ledger).remote()
    pieces = ray.data.from_items(list(pieces_of(sources)))
    start = pieces.map_batches(ReadPieces(ledger), batch_size=1, batch_format="pyarrow")
    train, validation, tallies = Records(start, Watch(ledger, pulse), 0), None, list[Tally]()
    for number, step in enumerate(steps):
        tally = Tally(number + 1, step, examples)
        seeded = replace(ground, seed=ground.seed + number * SEED_STRIDE)
        tallies.append(tally)
        if chooser_of(step, seeded) is None:
            train = train.mapped(JudgeBatch(number, step, seeded, examples, ledger))
            continue
        there = train.there()
        chosen = _choose(there, step, seeded, scratch=scratch)
        tally.take_choice(there, chosen)
        train = there.only(chosen.kept)
        validation = None if chosen.validation is None else there.only(chosen.validation)
    train, validation = train.ordered(), validation and validation.ordered()
    for number, tally in enumerate(tallies):
        for part in ray.get(ledger.of.remote(number)):
            tally.absorb(part)
    return Made(train, validation, tallies)


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


@dataclass(frozen=True)
class ReadPieces:
    """The records of row groups, batch by batch, each with its place; ``ledger`` is a Ledger somewhere."""

    ledger: Any

    def __call__(self, pieces: pa.Table) -> Iterator[pa.Table]:
        for piece in pieces.to_pylist():
            place = piece["start"]
            source = Source(Path(piece["path"]), piece["number"], piece["dataset"], piece["holds"], 0)
            for batch in source.batches(row_groups=[piece["group"]]):
                places = pa.array(np.arange(place, place + batch.num_rows))
                self.ledger.note_read.remote(place, batch.num_rows)
                place += batch.num_rows
                yield placed(batch, places)


@dataclass
class JudgeBatch:
    """A step that looks at one record at a time, as a cluster calls it; the judge is made where it works."""

    number: int
    step: Any
    ground: Ground
    examples: int
    ledger: Any
    _judge: Judge | None = field(default=None, init=False)

    def __call__(self, table: pa.Table) -> pa.Table:
        import ray

        batch = batch_of(table)
        if not batch.num_rows:
            return table
        places, tally = batch.column(PLACE), Tally(self.number + 1, self.step, self.examples)
        self._judge = self._judge or judge_of(self.step, self.ground)
        found = self._judge(without_places(batch))
        (kept,) = judged([without_places(batch)], lambda _: found, tally)
        ray.get(self.ledger.take.remote(self.number, places[0].as_py(), tally))
        stay = pa.array([row for row in range(batch.num_rows) if row not in found.removed], pa.int64())
        return placed(kept, places.take(stay))

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_judge": None}


@dataclass(frozen=True)
class KeyRows:
    """Numbers alone: a row for each key of a record, with its place and the partition that compares it."""

    step: ExactDuplicates | NearDuplicates
    partitions: int

    def __call__(self, table: pa.Table) -> pa.Table:
        batch = batch_of(table)
        places = batch.column(PLACE).to_numpy()
        if isinstance(self.step, ExactDuplicates):
            keys = keys_of(batch, self.step.of, normalise=self.step.normalise, terms=True)
        else:
            shingler = Shingler(self.step.ngram, self.step.unit)
            bands = bands_of(shingles_of(batch, self.step, shingler), self.step)
            numbers = np.repeat(np.arange(len(bands), dtype=np.uint64), bands.shape[1])
            keys, places = np.stack([numbers, bands.ravel()], axis=1), np.tile(places, len(bands))
            keys, places = keys[keys[:, 1] != 0], places[keys[:, 1] != 0]
        part = (keys[:, 1] % np.uint64(self.partitions)).astype(np.int64)
        return pa.table({PLACE: places, PART: part, "high": keys[:, 0], "low": keys[:, 1]})


@dataclass(frozen=True)
class SplitRows:
    """What a split is decided from."""

    step: Split

    def __call__(self, table: pa.Table) -> pa.Table:
        keys = split_keys(batch_of(table), self.step)
        return pa.table({PLACE: table.column(PLACE), **{f"k{n}": keys[:, n] for n in range(keys.shape[1])}})


def input_rows(table: pa.Table) -> pa.Table:
    """Which dataset each record is of."""
    return table.select([PLACE, INPUT])


def repeated(rows: pa.Table) -> pa.Table:
    """Of one partition, the places whose key an earlier place has, and that earlier one."""
    rows = rows.sort_by(PLACE)
    keys = np.stack([rows.column(name).to_numpy() for name in ("high", "low")], axis=1)
    places, first = rows.column(PLACE).to_numpy(), firsts(keys)
    again = np.flatnonzero(first != np.arange(len(first)))
    return pa.table({PLACE: places[again], "first": places[first[again]]})


def _choose(there: Records, step: Any, ground: Ground, *, scratch: Path) -> Chosen:
    """What the step keeps, as positions in the records' order."""
    if isinstance(step, Sample):
        return sample_of(there.records, step, ground.seed)
    if isinstance(step, Shuffle):
        return order_of(there.records, step, ground.seed)
    if isinstance(step, Mix):
        inputs = there.numbers(input_rows).column(INPUT).to_numpy()
        return mixture_of(inputs, step, ground.seed, ground.inputs)
    if isinstance(step, Split):
        rows = there.numbers(SplitRows(step))
        keys = [rows.column(n).to_numpy() for n in range(1, rows.num_columns)]
        return sides_of(np.stack(keys, axis=1), step, ground.seed)
    if not there.records:
        return Chosen(np.empty(0, np.int64))
    partitions = 1 + there.records // RECORDS_A_PARTITION
    groups = mapped_by(there.data, KeyRows(step, partitions)).groupby(PART, num_partitions=partitions)
    pairs = there.watch.done(groups.map_groups(repeated, batch_format="pyarrow"))
    gone = np.searchsorted(there.places, column_of(pairs, PLACE))
    first = np.searchsorted(there.places, column_of(pairs, "first"))
    if isinstance(step, ExactDuplicates):
        firsts_of_all = np.arange(there.records)
        firsts_of_all[gone] = first
        return distinct_of(there, firsts_of_all)
    return _dissimilar(there, np.union1d(gone, first), step, scratch=scratch)


def _dissimilar(there: Records, alike: np.ndarray, step: NearDuplicates, *, scratch: Path) -> Chosen:
    """Only records that share a bucket can be alike; these few are compared here, as on one machine."""
    some = Records(mapped_by(there.data, OnlyPlaces(there.places[alike])), there.watch, len(alike))
    shelf = Shelf(scratch / "alike.arrow", some.ordered().batches())
    try:
        chosen = choose_dissimilar(shelf.all(), step)
    finally:
        shelf.close()
    kept = np.ones(there.records, bool)
    kept[np.delete(alike, chosen.kept)] = False
    examples = [(int(alike[position]), why) for position, why in chosen.examples]
    return replace(chosen, kept=np.flatnonzero(kept), examples=examples)
