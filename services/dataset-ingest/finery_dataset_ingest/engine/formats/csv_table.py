"""CSV with exactly the columns of a table: its text, cell by cell, and faults by row and line."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import BinaryIO

from finery_dataset_ingest.engine.lines import read_lines
from finery_dataset_ingest.engine.samples import MAX_RECORD, Fault, FileUnreadable, Flawed, Place, Sample
from finery_dataset_ingest.engine.table import COLUMNS, column_order, conversations, fault_of_row, id_of
from finery_dataset_ingest.engine.waiting_room import Row


def read_csv(open_file: Callable[[], BinaryIO]) -> Iterator[Sample | Flawed]:
    """Conversations in the order of their first rows; raises FileUnreadable."""

    def rows() -> Iterator[Row]:
        with open_file() as file:
            yield from _rows(file)

    return conversations(rows)


def header_of(line: str) -> list[str] | None:
    """The column names of a first line, or None when it is no CSV."""
    try:
        return [name.strip() for name in next(csv.reader([line], strict=True))]
    except (csv.Error, StopIteration):
        return None


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
        named, human, assistant = (cells[index] if len(cells) > index else "" for index in at)
        number = id_of(named)
        fault = fault or _cell_count(cells, place)
        fault = fault or fault_of_row(number, named=named, human=human, assistant=assistant, place=place)
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
            if "field limit" in str(broken):
                raise FileUnreadable(_endless_cell(place)) from broken
            cells, fault = [], _not_csv(place, broken)
        text.faults.clear()
        if cells or fault:
            number += 1
            yield cells, order, place, fault


def _column_order(reader: Iterator[list[str]], text: _Text) -> list[int]:
    """Where each of COLUMNS stands; raises FileUnreadable ``columns_wrong``."""
    try:
        header = [name.strip() for name in next(filter(None, reader), [])]
    except csv.Error as fault:
        raise FileUnreadable(_not_csv(Place(line=1, row=1), fault)) from fault
    if text.faults:
        raise FileUnreadable(text.faults[0])
    return column_order(header, Place(line=text.line or 1, row=1))


def _cell_count(cells: list[str], place: Place) -> Fault | None:
    if len(cells) == len(COLUMNS):
        return None
    reason = f"the row has {len(cells)} cells, the header has {len(COLUMNS)}"
    remedy = "quote cells that hold commas, quotes or line breaks"
    return Fault(place, code="cell_count", reason=reason, remedy=remedy)


def _at_row(fault: Fault, place: Place) -> Fault:
    """The same fault; its own line is nearer than the row's first one."""
    nearer = Place(line=fault.place.line, row=place.row)
    return Fault(nearer, code=fault.code, reason=fault.reason, remedy=fault.remedy, field=fault.field)


def _not_csv(place: Place, fault: csv.Error) -> Fault:
    remedy = "quote cells that hold commas, quotes or line breaks, and double the quotes inside"
    return Fault(place, code="invalid_csv", reason=f"the row is not CSV: {fault}", remedy=remedy)


def _endless_cell(place: Place) -> Fault:
    """Where it ends is not known, so what comes behind could be read as rows that it never was."""
    reason = f"a quote is opened here, and {MAX_RECORD} characters later it is not closed"
    return Fault(place, code="record_too_long", reason=reason, remedy="close the quote, or split the cell")


def _open_quote(place: Place) -> Fault:
    reason, remedy = "a quote is opened here and never closed", "close the quote, or double quotes inside a cell"
    return Fault(place, code="invalid_csv", reason=reason, remedy=remedy)
