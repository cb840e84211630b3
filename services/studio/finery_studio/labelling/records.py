"""What labellers look at: records of canonical Parquet as prompts and answers. It reads files that ingest wrote."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Any

from finery_contracts.canonical import Shown, shown
from finery_contracts.labelling import LabelMode
from finery_studio.datasets.preview import rows_from


@dataclass(frozen=True)
class Content:
    """The files of a labelling."""

    records: Path
    against: Path | None = None


def read_one(content: Content, place: int, mode: LabelMode) -> Shown:
    """One record, found by the row group it lies in."""
    other = next(rows_from(content.against, place), None) if content.against else None
    return shown(next(rows_from(content.records, place), None), other, mode)


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
    mine = rows_from(content.records)
    if content.against is None:
        yield from ((place, row, None) for place, row in enumerate(mine))
        return
    for place, (row, other) in enumerate(zip_longest(mine, rows_from(content.against))):
        yield place, row, other or {"messages": []}
