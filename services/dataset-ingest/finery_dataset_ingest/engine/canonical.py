"""Canonical Parquet, form 2: the same samples give the same bytes, so content addressing finds copies.

Row groups hold 10,000 records or 64 million bytes of text, whichever comes first, so memory stays flat; their borders
depend on the records alone. One group is compressed by a thread while the next is collected.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from finery_contracts.datasets import DataKind
from finery_dataset_ingest.engine.samples import Sample, Turn

_GROUP_RECORDS = 10_000
_GROUP_BYTES = 64_000_000
MESSAGE: pa.StructType = pa.struct(
    [
        pa.field("role", pa.string(), nullable=False),
        pa.field("content", pa.string(), nullable=False),
        pa.field("name", pa.string()),
        pa.field("tool_calls", pa.string()),
        pa.field("tool_call_id", pa.string()),
        pa.field("weight", pa.int32()),
    ]
)
SCHEMA = pa.schema(
    [
        pa.field("messages", pa.list_(MESSAGE), nullable=False),
        pa.field("tools", pa.string()),
        pa.field("chosen", pa.list_(MESSAGE)),
        pa.field("rejected", pa.list_(MESSAGE)),
        pa.field("label", pa.bool_()),
        pa.field("reward", pa.float64()),
        pa.field("answer", pa.string()),
        pa.field("text", pa.string()),
        pa.field("source", pa.string()),
        pa.field("file", pa.string()),
        pa.field("line", pa.int64(), nullable=False),
    ]
)
"""One row a record. ``messages`` is the prompt alone of a preference, and empty of a text; ``source`` is where a record
of a mixture came from; ``file`` and ``line`` are its place in what the user gave."""


def schema_of(kind: DataKind) -> pa.Schema:
    """The schema with the metadata that says its form and what its records are made for."""
    return SCHEMA.with_metadata({"finery.canonical": "2", "finery.kind": str(kind)})


def batch_of(samples: Sequence[Sample], *, file: str | None = None) -> pa.RecordBatch:
    """Samples as columns."""
    columns = {
        "messages": _turns(sample.turns for sample in samples),
        "tools": _column_of([sample.tools for sample in samples], pa.string()),
        "chosen": _some_turns([sample.chosen for sample in samples]),
        "rejected": _some_turns([sample.rejected for sample in samples]),
        "label": _column_of([sample.label for sample in samples], pa.bool_()),
        "answer": _column_of([sample.answer for sample in samples], pa.string()),
        "text": _column_of([sample.text for sample in samples], pa.string()),
        "line": pa.array([sample.place.number for sample in samples], pa.int64()),
    }
    return whole_batch(columns, len(samples), file=file)


def whole_batch(columns: dict[str, pa.Array], rows: int, *, file: str | None = None) -> pa.RecordBatch:
    """The columns that are given, and nothing in all others."""
    given = columns | ({"file": pa.repeat(pa.scalar(file, pa.string()), rows)} if file is not None else {})
    arrays = [given[part.name] if part.name in given else pa.nulls(rows, part.type) for part in SCHEMA]
    return pa.record_batch(arrays, schema=SCHEMA)


class CanonicalWriter:
    """Collects batches and writes them beside ``path``; only ``publish`` makes the file visible."""

    def __init__(self, path: Path, kind: DataKind) -> None:
        self._path, self._beside = path, path.with_name(f".{path.name}.part")
        self._writer = pq.ParquetWriter(
            self._beside, schema_of(kind), compression="zstd", compression_level=1, version="2.6", use_dictionary=False
        )
        self._schema = schema_of(kind)
        self._threads = ThreadPoolExecutor(1, thread_name_prefix="parquet")
        self._pending: Future[None] = self._threads.submit(lambda: None)
        self._parts: list[pa.RecordBatch] = []
        self._rows = self._bytes = 0
        self.records = 0

    def add(self, batch: pa.RecordBatch) -> None:
        """Take records; writes when a row group is full, at the same record however the batches were cut.

        Columns that are not of the canonical form are left out.
        """
        batch = batch.select(SCHEMA.names)
        self.records += batch.num_rows
        while batch.num_rows:
            size = text_bytes_of(batch)
            if self._rows + batch.num_rows < _GROUP_RECORDS and self._bytes + size < _GROUP_BYTES:
                self._take(batch, size)
                return
            count = self._fitting(batch)
            part = batch.slice(0, count)
            self._take(part, text_bytes_of(part))
            self._write_group()
            batch = batch.slice(count)

    def publish(self) -> str:
        """Write the rest, flush to disk, rename; returns the file's sha256."""
        self._write_group()
        self._pending.result()
        self._writer.close()
        with self._beside.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
            os.fsync(file.fileno())
        os.replace(self._beside, self._path)
        return digest

    def discard(self) -> None:
        """Leave nothing behind; after ``publish`` it changes nothing."""
        self._threads.shutdown()
        self._writer.close()
        self._beside.unlink(missing_ok=True)

    def _take(self, batch: pa.RecordBatch, size_bytes: int) -> None:
        self._parts.append(batch)
        self._rows += batch.num_rows
        self._bytes += size_bytes

    def _fitting(self, batch: pa.RecordBatch) -> int:
        """How many records of the batch fill the group: up to the one that crosses a limit, that one included."""
        room = min(_GROUP_RECORDS - self._rows, batch.num_rows)
        if self._bytes + text_bytes_of(batch.slice(0, room)) < _GROUP_BYTES:
            return room
        least, most = 1, room
        while least < most:
            middle = (least + most) // 2
            if self._bytes + text_bytes_of(batch.slice(0, middle)) >= _GROUP_BYTES:
                most = middle
            else:
                least = middle + 1
        return least

    def _write_group(self) -> None:
        if not self._rows:
            return
        parts, self._parts = self._parts, []
        self._rows = self._bytes = 0
        self._pending.result()
        self._pending = self._threads.submit(self._write, parts)

    def _write(self, parts: list[pa.RecordBatch]) -> None:
        """Page borders depend on how arrays are cut, so a group is one array."""
        table = pa.Table.from_batches(parts).combine_chunks()
        self._writer.write_table(table.cast(self._schema), row_group_size=_GROUP_RECORDS)


def text_bytes_of(batch: pa.RecordBatch) -> int:
    """Bytes of the long texts of a batch."""
    size = _length(batch.column("text")) + _length(batch.column("answer")) + _length(batch.column("tools"))
    for name in ("messages", "chosen", "rejected"):
        size += _content_bytes(batch.column(name))
    return size


def _length(texts: pa.Array) -> int:
    if texts.null_count == len(texts):
        return 0
    return pc.sum(pc.binary_length(texts)).as_py() or 0


def _content_bytes(turns: pa.ListArray) -> int:
    """Straight from the offsets: between the first and the last message of the batch all texts lie side by side."""
    if turns.null_count == len(turns):
        return 0
    messages = turns.flatten()
    return _length(messages.field("content")) + _length(messages.field("tool_calls"))


def _column_of(values: Sequence[object], kind: pa.DataType) -> pa.Array:
    """Most columns hold nothing, and nothing need not be converted value by value."""
    return pa.nulls(len(values), kind) if values.count(None) == len(values) else pa.array(values, kind)


def _some_turns(values: Sequence[tuple[Turn, ...] | None]) -> pa.Array:
    if values.count(None) == len(values):
        return pa.nulls(len(values), pa.list_(MESSAGE))
    return _turns([value or () for value in values])


def _turns(values: Iterable[tuple[Turn, ...]]) -> pa.ListArray:
    flat: list[Turn] = []
    offsets = [0]
    for turns in values:
        flat.extend(turns)
        offsets.append(len(flat))
    by_field = zip(*flat, strict=True) if flat else ((),) * len(MESSAGE)
    columns = [_column_of(column, part.type) for part, column in zip(MESSAGE, by_field, strict=True)]
    return pa.ListArray.from_arrays(
        pa.array(offsets, pa.int32()), pa.StructArray.from_arrays(columns, fields=list(MESSAGE))
    )
