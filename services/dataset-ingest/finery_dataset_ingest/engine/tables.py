"""Canonical records as Arrow: read from any number of files, laid on a shelf between steps.

It refuses files of another form.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from finery_contracts.errors import DataInvalid
from finery_dataset_ingest.engine.canonical import SCHEMA

INPUT = "_input"
SHELF_SCHEMA = SCHEMA.append(pa.field(INPUT, pa.int16(), nullable=False))
"""On a shelf a record also knows which of the task's datasets it came from."""
BATCH_RECORDS = 1024
_FETCHED_BYTES = 8_000_000


@dataclass(frozen=True)
class Source:
    """A canonical file, opened; ``holds`` is what its records are."""

    path: Path
    number: int
    dataset: str
    holds: str
    records: int

    def batches(self, size: int = BATCH_RECORDS, *, row_groups: list[int] | None = None) -> Iterator[pa.RecordBatch]:
        """Its records in the shelf's schema; those that name no origin come from this dataset."""
        try:
            with pq.ParquetFile(self.path) as file:
                for batch in file.iter_batches(
                    size, row_groups=row_groups, columns=[n for n in SCHEMA.names if n in file.schema_arrow.names]
                ):
                    yield self._shelved(batch)
        except (pa.ArrowException, OSError) as fault:
            raise _unreadable(self.path, fault) from fault

    def _shelved(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        have = set(batch.schema.names)
        arrays = [
            batch.column(field.name).cast(field.type) if field.name in have else pa.nulls(batch.num_rows, field.type)
            for field in SCHEMA
        ]
        place = SCHEMA.get_field_index("source")
        arrays[place] = pc.fill_null(arrays[place], self.dataset)
        number = pa.array(np.full(batch.num_rows, self.number, np.int16))
        return pa.record_batch([*arrays, number], schema=SHELF_SCHEMA)


def open_source(path: Path, *, number: int, dataset: str) -> Source:
    """A canonical file of version 1 or 2; raises DataInvalid ``canonical_file_unreadable`` for anything else."""
    try:
        with pq.ParquetFile(path) as file:
            said, records = file.schema_arrow.metadata or {}, file.metadata.num_rows
            names = set(file.schema_arrow.names)
    except (pa.ArrowException, OSError) as fault:
        raise _unreadable(path, fault) from fault
    version = said.get(b"finery.canonical", b"1")
    if version not in (b"1", b"2") or not {"messages", "line"} <= names:
        raise _unreadable(path, f"version {version.decode()} with the columns {', '.join(sorted(names))}")
    return Source(path, number, dataset, said.get(b"finery.kind", b"messages").decode(), records)


class Shelf:
    """Records in an Arrow file that is mapped into memory: any row can be looked at, none need be in memory."""

    def __init__(
        self, path: Path, batches: Iterable[pa.RecordBatch], *, pulse: Callable[[], None] = lambda: None
    ) -> None:
        self._path, self._pulse = path, pulse
        with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, SHELF_SCHEMA) as writer:
            starts = [0]
            for batch in batches:
                if batch.num_rows:
                    writer.write_batch(batch)
                    starts.append(starts[-1] + batch.num_rows)
        self._starts = np.array(starts, np.int64)
        self._file = pa.ipc.open_file(pa.memory_map(str(path)))

    @property
    def records(self) -> int:
        """How many lie here."""
        return int(self._starts[-1])

    @property
    def folder(self) -> Path:
        """Where it lies; there is room for what a step has to lay aside."""
        return self._path.parent

    def rows_within(self, size_bytes: int) -> int:
        """About so many records take so many bytes here."""
        return size_bytes * self.records // max(1, self._path.stat().st_size)

    def all(self) -> View:
        """Every record in order."""
        return View(self, np.arange(self.records, dtype=np.int64))

    def take(self, rows: np.ndarray) -> pa.RecordBatch:
        """The records at these places, in the order that was asked for; a place may be named twice."""
        self._pulse()
        order = np.argsort(rows, kind="stable")
        wanted = rows[order]
        pieces = list[pa.RecordBatch]()
        cuts = np.searchsorted(wanted, self._starts)
        for number in np.unique(np.searchsorted(self._starts, wanted, side="right") - 1):
            inside = wanted[cuts[number] : cuts[number + 1]] - self._starts[number]
            batch = self._file.get_batch(int(number))
            whole = len(inside) == batch.num_rows and inside[0] == 0 and bool(np.all(np.diff(inside) == 1))
            pieces.append(batch if whole else batch.take(pa.array(inside)))
        if not pieces:
            return _empty()
        found = pieces[0] if len(pieces) == 1 else pa.concat_batches(pieces)
        if np.array_equal(order, np.arange(len(order))):
            return found
        back = np.empty_like(order)
        back[order] = np.arange(len(order))
        return found.take(pa.array(back))

    def close(self) -> None:
        """Remove it."""
        del self._file
        self._path.unlink(missing_ok=True)


@dataclass(frozen=True)
class View:
    """Some records of a shelf in some order: ``rows`` are places on the shelf, positions in it count from 0."""

    shelf: Shelf
    rows: np.ndarray

    @property
    def records(self) -> int:
        """How many there are."""
        return len(self.rows)

    def batches(self, size: int = BATCH_RECORDS) -> Iterator[pa.RecordBatch]:
        """All of them, in order. Rows from all over the shelf come many at a time: each fetch opens many batches."""
        in_order = len(self.rows) < 2 or bool(np.all(np.diff(self.rows) > 0))
        fetched = size if in_order else max(size, self.shelf.rows_within(_FETCHED_BYTES))
        for start in range(0, len(self.rows), fetched):
            batch = self.shelf.take(self.rows[start : start + fetched])
            for offset in range(0, batch.num_rows, size):
                yield batch if fetched == size else batch.slice(offset, size)

    def at(self, positions: np.ndarray) -> pa.RecordBatch:
        """The records at these positions of the view."""
        return self.shelf.take(self.rows[positions])

    def only(self, positions: np.ndarray) -> View:
        """A view of these positions."""
        return View(self.shelf, self.rows[positions])


def rows_of(batch: pa.RecordBatch) -> list[dict[str, Any]]:
    """Records as Python sees them."""
    return batch.to_pylist()


def _empty() -> pa.RecordBatch:
    return pa.RecordBatch.from_pylist([], schema=SHELF_SCHEMA)


def _unreadable(path: Path, why: object) -> DataInvalid:
    return DataInvalid(
        f"{path.name} cannot be read as canonical Parquet ({why}); ingest the data set again.",
        code="canonical_file_unreadable",
        param=path.name,
    )
