"""Parquet files of other makers: their rows as records, of whichever shape their columns give them.

What the file says about itself is checked before a page is read; a text column alone is pre-training text.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from finery_contracts.errors import DataInvalid, TooLarge
from finery_dataset_ingest.engine.samples import Place
from finery_dataset_ingest.engine.streams import check_ratio

MAX_COLUMNS = 1_000
MAX_ROW_GROUPS = 100_000
MAX_GROUP_BYTES = 2 * 2**30
MAX_CHUNK_RATIO = 1_000
_FREE_CHUNK_BYTES = 64 * 2**20
_FOOTER_BYTES = 16 * 2**20
_MAX_ROWS = 2**31
_FLAT_ROWS, _NESTED_ROWS = 1_024, 16
_PIECE_BYTES = 32 * 2**20


def read_rows(file: BinaryIO, name: str) -> Iterator[tuple[Place, Any]]:
    """Rows as objects without their empty fields; raises DataInvalid ``parquet_damaged``, TooLarge ``parquet_bomb``."""
    number = produced = 0
    size = file.seek(0, 2)
    try:
        with _opened(file, name) as parquet:
            rows = _FLAT_ROWS if _flat_texts(parquet) else _NESTED_ROWS
            for batch in parquet.iter_batches(rows, use_threads=False):
                whole = _inflated_bytes(batch)
                produced += whole
                check_ratio(produced, size, name=name)
                step = max(1, batch.num_rows * _PIECE_BYTES // max(whole, 1))
                for at in range(0, batch.num_rows, step):
                    for row in batch.slice(at, step).to_pylist():
                        number += 1
                        yield Place(record=number), _filled(row)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError, OSError, ValueError, OverflowError) as fault:
        raise _damaged(name, fault) from fault


def _opened(file: BinaryIO, name: str) -> pq.ParquetFile:
    size = file.seek(0, 2)
    file.seek(max(0, size - 8))
    footer = int.from_bytes(file.read(8)[:4], "little")
    if footer > _FOOTER_BYTES:
        raise _bomb(name, f"its directory has {footer} bytes")
    bounds = {"thrift_string_size_limit": _FOOTER_BYTES, "thrift_container_size_limit": 1_000_000}
    try:
        parquet = pq.ParquetFile(file, pre_buffer=False, **bounds)
        _check(parquet.metadata, name)
        return pq.ParquetFile(file, pre_buffer=False, read_dictionary=_flat_texts(parquet), **bounds)
    except (pa.ArrowException, OSError, ValueError) as fault:
        raise _damaged(name, fault) from fault


def _flat_texts(parquet: pq.ParquetFile) -> list[str]:
    """Names of the columns if each is a text: those are read as references, so that one text a million times is one."""
    kinds = {part.name: part.type for part in parquet.schema_arrow}
    texts = [
        name for name, kind in kinds.items()
        if pa.types.is_string(kind) or (pa.types.is_dictionary(kind) and pa.types.is_string(kind.value_type))
    ]  # fmt: skip
    return texts if len(texts) == len(kinds) else []


def _inflated_bytes(batch: pa.RecordBatch) -> int:
    """What the rows take when each has its own copy of its texts."""
    whole = 0
    for column in batch.columns:
        if isinstance(column, pa.DictionaryArray):
            whole += _exact_bytes(column)
        else:
            whole += column.nbytes
    return whole


def _exact_bytes(column: pa.DictionaryArray) -> int:
    lengths = pc.binary_length(column.dictionary)
    return pc.sum(pc.cast(lengths, pa.int64()).take(column.indices)).as_py() or 0


def _check(metadata: pq.FileMetaData, name: str) -> None:
    """Sizes as the file states them."""
    if metadata.num_columns > MAX_COLUMNS:
        raise _bomb(name, f"it has {metadata.num_columns} columns")
    if metadata.num_row_groups > MAX_ROW_GROUPS or not 0 <= metadata.num_rows < _MAX_ROWS:
        raise _bomb(name, f"it has {metadata.num_row_groups} row groups and {metadata.num_rows} rows")
    for group in range(metadata.num_row_groups):
        about = metadata.row_group(group)
        if about.total_byte_size > MAX_GROUP_BYTES:
            raise _bomb(name, f"row group {group + 1} has {about.total_byte_size} bytes")
        for index in range(about.num_columns):
            chunk = about.column(index)
            packed, whole = chunk.total_compressed_size, chunk.total_uncompressed_size
            if whole > _FREE_CHUNK_BYTES and whole > MAX_CHUNK_RATIO * max(packed, 1):
                raise _bomb(name, f"the column {chunk.path_in_schema[:100]} inflates from {packed} to {whole} bytes")


def _filled(value: Any) -> Any:
    """A column that a row leaves empty is like a key that a JSON record lacks."""
    if isinstance(value, dict):
        return {key: _filled(one) for key, one in value.items() if one is not None}
    return [_filled(one) for one in value] if isinstance(value, list) else value


def _bomb(name: str, what: str) -> TooLarge:
    return TooLarge(
        f"{name}: {what}, more than is read; write it in row groups of up to {MAX_GROUP_BYTES} bytes.",
        code="parquet_bomb",
        param=name,
    )


def _damaged(name: str, fault: BaseException) -> DataInvalid:
    return DataInvalid(
        f"{name} cannot be read as Parquet ({str(fault)[:300]}); write it again.", code="parquet_damaged", param=name
    )
