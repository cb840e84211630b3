"""Pages of a dataset's records, out of its canonical file, by row groups: any page of a large file costs the same.

It reads what ingest wrote and nothing that people uploaded.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from finery_contracts.datasets import DataKind, RecordPage, RecordRow
from finery_contracts.preparing import TokenPage, TokenRow

if TYPE_CHECKING:
    from pyarrow.parquet import ParquetFile

MAX_PAGE_CHARACTERS = 4_000_000
"""A page ends early behind the record that crosses it, so that no answer grows beyond reason."""
_BATCH_ROWS = 64


def page_of(path: Path, *, offset: int, limit: int) -> RecordPage:
    """Up to ``limit`` records from the 0-based ``offset``; fewer when they are long."""
    from pyarrow.parquet import ParquetFile  # only who looks at records pays for the reader

    with ParquetFile(path) as file:
        total = file.metadata.num_rows
        kind = DataKind((file.schema_arrow.metadata or {}).get(b"finery.kind", b"messages").decode())
        found, characters = list[RecordRow](), 0
        for row in _rows_from(file, offset):
            if len(found) == limit or characters > MAX_PAGE_CHARACTERS:
                break
            found.append(_record(row))
            characters += len(found[-1].model_dump_json())
    end = offset + len(found)
    return RecordPage(kind=kind, offset=offset, total=total, next=end if found and end < total else None, data=found)


def token_page_of(path: Path, task: str, *, offset: int, limit: int) -> TokenPage:
    """What up to ``limit`` records from the 0-based ``offset`` on take, as a count found it."""
    from pyarrow.parquet import ParquetFile

    with ParquetFile(path) as file:
        total = file.metadata.num_rows
        found = [TokenRow.model_validate(row) for row in islice(_rows_from(file, offset), limit)]
    end = offset + len(found)
    return TokenPage(task=task, offset=offset, total=total, next=end if found and end < total else None, data=found)


def rows_from(path: Path, offset: int = 0) -> Iterator[dict[str, Any]]:
    """Every record from the 0-based ``offset`` on, as the file has it."""
    from pyarrow.parquet import ParquetFile

    with ParquetFile(path) as file:
        yield from _rows_from(file, offset)


def _rows_from(file: ParquetFile, offset: int) -> Iterator[dict[str, Any]]:
    """Rows from an offset on; row groups before it are not read."""
    first = 0
    for group in range(file.metadata.num_row_groups):
        size = file.metadata.row_group(group).num_rows
        if first + size > offset:
            yield from _rows_of_group(file, group, max(0, offset - first))
        first += size


def _rows_of_group(file: ParquetFile, group: int, skipped: int) -> Iterator[dict[str, Any]]:
    at = 0
    for batch in file.iter_batches(_BATCH_ROWS, row_groups=[group], use_threads=False):
        wanted = batch.slice(max(0, skipped - at))
        at += batch.num_rows
        if at > skipped:
            yield from wanted.to_pylist()


def _record(row: dict[str, Any]) -> RecordRow:
    given = {name: value for name, value in row.items() if value is not None}
    for name in ("messages", "chosen", "rejected"):
        if name in given:
            given[name] = [_message(message) for message in given[name]]
    if "tools" in given:
        given["tools"] = json.loads(given["tools"])
    return RecordRow.model_validate(given)


def _message(fields: dict[str, Any]) -> dict[str, Any]:
    said = {name: value for name, value in fields.items() if value is not None}
    if "tool_calls" in said:
        said["tool_calls"] = json.loads(said["tool_calls"])
    return said
