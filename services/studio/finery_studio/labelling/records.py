"""What labellers look at: records of canonical Parquet as prompts and answers. It reads files that ingest wrote."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from finery_contracts.canonical import COLUMNS, Shown, shown
from finery_contracts.labelling import LabelMode

_BATCH_ROWS = 256


@dataclass(frozen=True)
class Content:
    """The files of a labelling."""

    records: Path
    against: Path | None = None


def read_one(content: Content, place: int, mode: LabelMode) -> Shown:
    """One record, found by the row group it lies in."""
    return shown(_row(content.records, place), _row(content.against, place) if content.against else None, mode)


def read_some(content: Content, places: Iterable[int], mode: LabelMode) -> Iterator[tuple[int, Shown]]:
    """These records, in the order of the file; memory stays flat."""
    wanted = set(places)
    for place, row, other in _rows(content):
        if place in wanted:
            yield place, shown(row, other, mode)


def check(content: Content, mode: LabelMode) -> int:
    """How many records there are, when each of them can be labelled so.

    Raises:
        InvalidRequest: code ``dataset_kind_unfit``, with the first record that cannot.
    """
    count = 0
    for place, row, other in _rows(content):
        shown(row, other, mode, place=place)
        count += 1
    return count


def _rows(content: Content) -> Iterator[tuple[int, dict[str, Any] | None, dict[str, Any] | None]]:
    mine = _all(content.records)
    if content.against is None:
        yield from ((place, row, None) for place, row in enumerate(mine))
        return
    for place, (row, other) in enumerate(zip_longest(mine, _all(content.against))):
        yield place, row, other or {"messages": []}


def _all(path: Path) -> Iterator[dict[str, Any]]:
    with pq.ParquetFile(path) as file:
        for batch in file.iter_batches(_BATCH_ROWS, columns=_present(file)):
            yield from batch.to_pylist()


def _row(path: Path, place: int) -> dict[str, Any] | None:
    with pq.ParquetFile(path) as file:
        before = 0
        for group in range(file.num_row_groups):
            size = file.metadata.row_group(group).num_rows
            if place < before + size:
                batches = file.iter_batches(_BATCH_ROWS, row_groups=[group], columns=_present(file))
                for batch in batches:
                    if place < before + batch.num_rows:
                        return batch.slice(place - before, 1).to_pylist()[0]
                    before += batch.num_rows
            before += size
    return None


def _present(file: pq.ParquetFile) -> list[str]:
    return [name for name in COLUMNS if name in file.schema_arrow.names]
