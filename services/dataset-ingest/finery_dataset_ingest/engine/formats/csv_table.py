"""Tables with exactly the columns conversation_id, human and assistant; rows that share an id are one conversation.

A first pass learns which ids come back after other rows; only those rows wait, on disk, and follow the others. A faulty
row spoils its whole conversation: a conversation with a turn missing would teach something wrong.
"""

from __future__ import annotations

import csv
from array import array
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import groupby
from typing import BinaryIO

import pyarrow as pa
import pyarrow.compute as pc

from finery_dataset_ingest.engine.lines import read_lines
from finery_dataset_ingest.engine.samples import MAX_RECORD, Fault, FileUnreadable, Flawed, Place, Sample, Turn
from finery_dataset_ingest.engine.waiting_room import Row, WaitingRoom

COLUMNS = ("conversation_id", "human", "assistant")
_LARGEST_ID = 2**63 - 1


def read_csv(file: BinaryIO) -> Iterator[Sample | Flawed]:
    """Conversations in the order of the file, those with scattered rows last; raises FileUnreadable."""
    scattered = _scattered_ids(file)
    file.seek(0)
    with WaitingRoom() as waiting:
        for number, rows in groupby(_rows(file), key=_group_key()):
            if number in scattered:
                for row in rows:
                    waiting.add(row)
            else:
                yield _conversation_of(list(rows))
        for _, rows in groupby(waiting.rows(), key=lambda row: row.conversation_id):
            yield _conversation_of(list(rows))


def header_of(line: str) -> list[str] | None:
    """The column names of a first line, or None when it is no CSV."""
    try:
        return [name.strip() for name in next(csv.reader([line], strict=True))]
    except (csv.Error, StopIteration):
        return None


def _group_key() -> Callable[[Row], int]:
    """Rows whose id cannot be read stand alone."""
    alone = 0

    def key(row: Row) -> int:
        nonlocal alone
        if row.conversation_id is None:
            alone -= 1
            return alone
        return row.conversation_id

    return key


def _scattered_ids(file: BinaryIO) -> set[int]:
    """Ids with rows in more than one run; sixteen bytes of memory a run while they are sorted."""
    starts, previous = array("q"), None
    for cells, at, _, _ in _records(file):
        number = _id_of(cells[at[0]]) if len(cells) > at[0] else None
        if number is not None and number != previous:
            starts.append(number)
        previous = number
    ordered = pa.array(starts, pa.int64()).sort()
    again = pc.equal(ordered[1:], ordered[:-1])
    return set(ordered[1:].filter(again).to_pylist())


@dataclass
class _Text:
    """Lines for the csv module; remembers what was wrong with those of the present row, which it does not know."""

    file: BinaryIO
    line: int = 0
    faults: list[Fault] = field(default_factory=list)

    def lines(self) -> Iterator[str]:
        for line in read_lines(self.file):
            self.line = line.number
            if line.fault is not None:
                self.faults.append(line.fault)
            if "\0" not in line.text:
                yield line.text
                continue
            place, remedy = Place(line=line.number), "remove it; a table is text"
            self.faults.append(Fault(place, code="nul_byte", reason="the line holds a NUL byte", remedy=remedy))
            yield line.text.replace("\0", "")


def _rows(file: BinaryIO) -> Iterator[Row]:
    for cells, at, place, fault in _records(file):
        number = _id_of(cells[at[0]]) if len(cells) > at[0] else None
        human, assistant = (cells[index] if len(cells) > index else "" for index in at[1:])
        fault = fault or _fault_of(cells, number, human=human, assistant=assistant, place=place)
        yield Row(place.row or 0, place.line or 0, number, human, assistant, fault)


def _records(file: BinaryIO) -> Iterator[tuple[list[str], list[int], Place, Fault | None]]:
    """Cells, where each of COLUMNS stands in them, the place, what is wrong with the text; without the header."""
    csv.field_size_limit(MAX_RECORD)
    text = _Text(file)
    reader = csv.reader(text.lines(), strict=True)
    order, number = _column_order(reader, text), 1
    while True:
        place = Place(line=text.line + 1, row=number + 1)
        try:
            cells = next(reader)
            fault = _at_row(text.faults[0], place) if text.faults else None
        except StopIteration:
            return
        except csv.Error as broken:
            if "end of data" in str(broken):
                raise FileUnreadable(_open_quote(place)) from broken
            cells, fault = [], _not_csv(place, broken)
        text.faults.clear()
        if cells or fault:
            number += 1
            yield cells, order, place, fault


def _column_order(reader: Iterator[list[str]], text: _Text) -> list[int]:
    """Where each of COLUMNS stands; raises FileUnreadable ``columns_wrong``."""
    try:
        header = [name.strip() for name in next(reader, [])]
    except csv.Error as fault:
        raise FileUnreadable(_not_csv(Place(line=1, row=1), fault)) from fault
    if text.faults:
        raise FileUnreadable(text.faults[0])
    missing = [name for name in COLUMNS if name not in header]
    surplus = [name for name in header if name not in COLUMNS]
    twice = [name for name in COLUMNS if header.count(name) > 1]
    for names, what in ((missing, "is missing"), (surplus, "is not known"), (twice, "stands twice")):
        if names:
            raise FileUnreadable(
                Fault(
                    Place(line=1, row=1),
                    code="columns_wrong",
                    field=names[0][:100],
                    reason=f"the column {names[0][:100]!r} {what}",
                    remedy="use exactly the columns conversation_id, human and assistant",
                )
            )
    return [header.index(name) for name in COLUMNS]


def _fault_of(cells: list[str], number: int | None, *, human: str, assistant: str, place: Place) -> Fault | None:
    if len(cells) != len(COLUMNS):
        reason = f"the row has {len(cells)} cells, the header has {len(COLUMNS)}"
        remedy = "quote cells that hold commas, quotes or line breaks"
        return Fault(place, code="cell_count", reason=reason, remedy=remedy)
    if number is None:
        reason = "conversation_id is not a positive whole number"
        return Fault(place, code="conversation_id_invalid", field=COLUMNS[0], reason=reason, remedy="use 1, 2, 3 …")
    for name, cell in (("human", human), ("assistant", assistant)):
        if not cell or cell.isspace():
            remedy = "write a text or remove the row"
            return Fault(place, code="content_empty", field=name, reason=f"{name} is empty", remedy=remedy)
    return None


def _id_of(cell: str) -> int | None:
    cell = cell.strip()
    if not (cell.isascii() and cell.isdigit() and len(cell) <= 19):
        return None
    return int(cell) if 0 < int(cell) <= _LARGEST_ID else None


def _conversation_of(rows: list[Row]) -> Sample | Flawed:
    faults = tuple(row.fault for row in rows if row.fault is not None)
    if faults:
        return Flawed(faults)
    turns = [turn for row in rows for turn in (Turn("user", row.human), Turn("assistant", row.assistant))]
    return Sample(Place(line=rows[0].line, row=rows[0].number), tuple(turns))


def _at_row(fault: Fault, place: Place) -> Fault:
    """The same fault; its own line is nearer than the row's first one."""
    nearer = Place(line=fault.place.line, row=place.row)
    return Fault(nearer, code=fault.code, reason=fault.reason, remedy=fault.remedy, field=fault.field)


def _not_csv(place: Place, fault: csv.Error) -> Fault:
    remedy = "quote cells that hold commas, quotes or line breaks, and double the quotes inside"
    return Fault(place, code="invalid_csv", reason=f"the row is not CSV: {fault}", remedy=remedy)


def _open_quote(place: Place) -> Fault:
    reason, remedy = "a quote is opened here and never closed", "close the quote, or double quotes inside a cell"
    return Fault(place, code="invalid_csv", reason=reason, remedy=remedy)
