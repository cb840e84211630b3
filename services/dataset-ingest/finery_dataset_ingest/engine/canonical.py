"""Writes canonical Parquet: the same samples give the same bytes, so content addressing finds copies.

Row groups hold 10,000 records or 64 million characters, whichever comes first, so memory stays flat. One group
is compressed by a thread while the next is collected.
"""

from __future__ import annotations

import hashlib
import os
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from finery_dataset_ingest.engine.samples import Sample, Turn

_GROUP_RECORDS = 10_000
_GROUP_CHARACTERS = 64_000_000
_MESSAGE: pa.StructType = pa.struct(
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
        pa.field("messages", pa.list_(_MESSAGE), nullable=False),
        pa.field("tools", pa.string()),
        pa.field("line", pa.int64(), nullable=False),
    ],
    metadata={"finery.canonical": "1"},
)
"""One row a record; ``line`` is its place in the user's file."""


class CanonicalWriter:
    """Collects samples and writes them beside ``path``; only ``publish`` makes the file visible."""

    def __init__(self, path: Path) -> None:
        self._path, self._beside = path, path.with_name(f".{path.name}.part")
        self._writer = pq.ParquetWriter(
            self._beside, SCHEMA, compression="zstd", compression_level=3, version="2.6", use_dictionary=False
        )
        self._threads = ThreadPoolExecutor(1, thread_name_prefix="parquet")
        self._pending: Future[None] = self._threads.submit(lambda: None)
        self._start_group()

    def add(self, sample: Sample) -> None:
        """Take one sample; writes when a row group is full."""
        self._turns.extend(sample.turns)
        self._offsets.append(len(self._turns))
        self._tools.append(sample.tools)
        self._lines.append(sample.place.number)
        for turn in sample.turns:
            self._characters += len(turn.content)
        if len(self._lines) >= _GROUP_RECORDS or self._characters >= _GROUP_CHARACTERS:
            self._write_group()

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

    def _start_group(self) -> None:
        self._turns: list[Turn] = []
        self._offsets: list[int] = [0]
        self._tools: list[str | None] = []
        self._lines: list[int] = []
        self._characters = 0

    def _write_group(self) -> None:
        if not self._lines:
            return
        by_field = zip(*self._turns, strict=True)
        columns = [_column_of(column, part.type) for part, column in zip(_MESSAGE, by_field, strict=True)]
        messages = pa.ListArray.from_arrays(
            pa.array(self._offsets, pa.int32()), pa.StructArray.from_arrays(columns, fields=list(_MESSAGE))
        )
        arrays = [messages, pa.array(self._tools, pa.string()), pa.array(self._lines, pa.int64())]
        self._pending.result()
        self._pending = self._threads.submit(self._writer.write_batch, pa.record_batch(arrays, schema=SCHEMA))
        self._start_group()


def _column_of(values: tuple[object, ...], kind: pa.DataType) -> pa.Array:
    """Most columns hold nothing, and nothing need not be converted value by value."""
    return pa.nulls(len(values), kind) if values.count(None) == len(values) else pa.array(values, kind)
