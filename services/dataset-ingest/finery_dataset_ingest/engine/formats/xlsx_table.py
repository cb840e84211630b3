"""Workbooks with exactly the columns of a table on their one sheet: cells as a person sees them, or a fault by row.

What a cell shows must be what it holds: formulas, errors, dates, truth values and merged cells are refused.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Callable, Iterator
from typing import BinaryIO

from finery_dataset_ingest.engine.samples import Fault, FileUnreadable, Flawed, Place, Sample
from finery_dataset_ingest.engine.streams import check_ratio
from finery_dataset_ingest.engine.table import COLUMNS, column_order, conversations, fault_of_row, id_of
from finery_dataset_ingest.engine.waiting_room import Row
from finery_dataset_ingest.engine.workbook import Cell, Sheet, open_sheet

_REFUSED = {
    "formula": ("cell_formula", "holds a formula", "paste its value instead"),
    "error": ("cell_error", "holds an error", "correct or remove it"),
    "date": ("cell_date", "holds a date or time", "write it as text"),
    "boolean": ("cell_boolean", "holds a truth value", "write it as text"),
    "other": ("cell_format", "holds a number that is shown as something else", "write it as text"),
}
_LARGEST_EXACT = 2**53
_PLAIN_NUMBER = re.compile(r"\s*[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?\s*")


def read_xlsx(open_file: Callable[[], BinaryIO], name: str) -> Iterator[Sample | Flawed]:
    """Conversations in the order of their first rows.

    Raises FileUnreadable, DataInvalid or TooLarge (see ``open_sheet``).
    """
    with open_file() as file:
        size = file.seek(0, 2)
        sheet = open_sheet(file, name)
        yield from conversations(lambda: _rows(sheet, size))


class _Spans:
    """Rows that merged cells touch."""

    def __init__(self, spans: list[tuple[int, int]]) -> None:
        self._starts: list[int] = []
        self._ends: list[int] = []
        for start, end in sorted(spans):
            if self._ends and start <= self._ends[-1]:
                self._ends[-1] = max(self._ends[-1], end)
            else:
                self._starts.append(start)
                self._ends.append(end)

    def __contains__(self, row: int) -> bool:
        at = bisect_right(self._starts, row) - 1
        return at >= 0 and row <= self._ends[at]


def _rows(sheet: Sheet, size_bytes: int) -> Iterator[Row]:
    """Merges stand behind the rows in the file: the first pass, which asks for ids alone, finds them for the second."""
    merged = _Spans(sheet.merged.copy())
    order: list[int] | None = None
    produced = 0
    for number, cells in sheet.rows():
        if order is None:
            order = _header(cells, Place(row=number))
            continue
        produced += sum(len(cell.text) for cell in cells)
        check_ratio(produced, size_bytes, name=sheet.name)
        yield _row(number, {cell.column: cell for cell in cells}, order, is_merged=number in merged)
    if order is None:
        raise FileUnreadable(_wrong_header(Place(row=1), "the sheet is empty"))


def _header(cells: list[Cell], place: Place) -> list[int]:
    """The sheet's column of each of COLUMNS; raises FileUnreadable ``columns_wrong``."""
    for cell in cells:
        if cell.kind != "text" and cell.kind != "number":
            raise FileUnreadable(_wrong_header(place, f"a cell of the first row {_REFUSED[cell.kind][1]}"))
    named = [cell for cell in cells if cell.text.strip()]
    order = column_order([cell.text.strip() for cell in named], place)
    return [named[index].column for index in order]


def _row(number: int, cells: dict[int, Cell], order: list[int], *, is_merged: bool) -> Row:
    place = Place(row=number)
    found = [cells.pop(column, None) for column in order]
    conversation = _id(found[0])
    human, assistant = (_shown(cell) for cell in found[1:])
    fault = _fault_of_cells(found, list(cells.values()), place, is_merged=is_merged)
    named = found[0].text if found[0] is not None else ""
    fault = fault or fault_of_row(conversation, named=named, human=human, assistant=assistant, place=place)
    return Row(number, 0, conversation, human, assistant, fault)


def _fault_of_cells(found: list[Cell | None], others: list[Cell], place: Place, *, is_merged: bool) -> Fault | None:
    if is_merged:
        remedy = "separate them, and write each value in its own cell"
        return Fault(place, code="cells_merged", reason="cells of the row are merged", remedy=remedy)
    for name, cell in zip(COLUMNS, found, strict=True):
        if cell is None or cell.kind not in _REFUSED or (cell.kind == "other" and name == COLUMNS[0]):
            continue
        code, what, remedy = _REFUSED[cell.kind]
        return Fault(place, code=code, field=name, reason=f"{name} {what}", remedy=remedy)
    if any(cell.text.strip() or cell.kind == "formula" for cell in others):
        reason, remedy = "the row has a cell beside the columns", "clear it; only the three columns are read"
        return Fault(place, code="cell_surplus", reason=reason, remedy=remedy)
    return None


def _id(cell: Cell | None) -> int | None:
    """A number stored as 1.0 is 1, a text "1" is 1."""
    if cell is None or cell.kind not in ("text", "number", "other"):
        return None
    if cell.kind == "text":
        return id_of(cell.text)
    number = _number(cell.text)
    return int(number) if number is not None and number.is_integer() and 0 < number < _LARGEST_EXACT else None


def _shown(cell: Cell | None) -> str:
    """The text; a number as a person typed it."""
    if cell is None or cell.kind not in ("text", "number"):
        return ""
    if cell.kind == "text":
        return cell.text
    number = _number(cell.text)
    if number is None:
        return ""
    return str(int(number)) if number.is_integer() and abs(number) < _LARGEST_EXACT else repr(number)


def _number(text: str) -> float | None:
    """As the format writes one; Python itself would also read 1_0."""
    number = float(text) if _PLAIN_NUMBER.fullmatch(text) else float("inf")
    return number if abs(number) < float("inf") else None


def _wrong_header(place: Place, reason: str) -> Fault:
    remedy = "write conversation_id, human and assistant into the first row"
    return Fault(place, code="columns_wrong", reason=reason, remedy=remedy)
