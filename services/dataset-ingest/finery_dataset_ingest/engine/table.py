"""Rows of a table as conversations: columns conversation_id, human and assistant; rows of one id belong together.

A first pass learns which ids come back after other rows; only those rows wait, on disk, and stand where their first row
stood. A faulty row spoils its whole conversation: a conversation with a turn missing would teach something wrong.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterator
from itertools import groupby

import pyarrow as pa
import pyarrow.compute as pc

from finery_dataset_ingest.engine.messages import MAX_MESSAGES
from finery_dataset_ingest.engine.samples import MAX_RECORD, Fault, FileUnreadable, Flawed, Place, Sample, Turn
from finery_dataset_ingest.engine.waiting_room import Row, WaitingRoom

COLUMNS = ("conversation_id", "human", "assistant")
_LARGEST_ID = 2**63 - 1
_SAFE_DIGITS = 15
_MAX_ROWS = MAX_MESSAGES // 2
_MAX_FAULTS = 20


def conversations(rows: Callable[[], Iterator[Row]]) -> Iterator[Sample | Flawed]:
    """Conversations in the order of their first rows; the rows are read twice, or thrice when ids are scattered."""
    scattered = _scattered_ids(rows())
    with WaitingRoom() as waiting:
        for row in rows() if scattered else ():
            if row.conversation_id in scattered:
                waiting.add(row)
        whole = groupby(waiting.rows(), key=lambda row: row.conversation_id)
        upcoming, waited = next(whole, (None, iter(())))
        for number, together in groupby(rows(), key=_group_key()):
            if number not in scattered:
                yield _conversation_of(together)
            elif number == upcoming:
                yield _conversation_of(waited)
                upcoming, waited = next(whole, (None, iter(())))


def column_order(header: list[str], place: Place) -> list[int]:
    """Where each of COLUMNS stands; raises FileUnreadable ``columns_wrong``."""
    missing = [name for name in COLUMNS if name not in header]
    surplus = [name for name in header if name not in COLUMNS]
    twice = [name for name in COLUMNS if header.count(name) > 1]
    for names, what in ((missing, "is missing"), (surplus, "is not known"), (twice, "stands twice")):
        if names:
            raise FileUnreadable(
                Fault(
                    place,
                    code="columns_wrong",
                    field=names[0][:100],
                    reason=f"the column {names[0][:100]!r} {what}",
                    remedy="use exactly the columns conversation_id, human and assistant",
                )
            )
    return [header.index(name) for name in COLUMNS]


def fault_of_row(number: int | None, *, named: str, human: str, assistant: str, place: Place) -> Fault | None:
    """What is wrong with the values of a row; ``named`` is the id's cell as it stands there."""
    if number is None:
        reason = f"conversation_id {_unlike_an_id(named.strip())}"
        return Fault(place, code="conversation_id_invalid", field=COLUMNS[0], reason=reason, remedy="use 1, 2, 3 …")
    for name, cell in (("human", human), ("assistant", assistant)):
        if not cell or cell.isspace():
            remedy = "write a text or remove the row"
            return Fault(place, code="content_empty", field=name, reason=f"{name} is empty", remedy=remedy)
    return None


def _unlike_an_id(cell: str) -> str:
    if not cell:
        return "is empty, not a positive whole number"
    if cell.isdecimal() and len(cell) > _SAFE_DIGITS:
        return f"has {len(cell)} digits, more than can be told apart"
    return f"is {cell[:40]!r}, not a positive whole number"


def id_of(cell: str) -> int | None:
    """A positive whole number, as digits write it."""
    cell = cell.strip()
    if not (cell.isascii() and cell.isdigit() and len(cell) <= 19):
        return None
    return int(cell) if 0 < int(cell) <= _LARGEST_ID else None


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


def _scattered_ids(rows: Iterator[Row]) -> set[int]:
    """Ids with rows in more than one run; sixteen bytes of memory a run while they are sorted."""
    starts, previous = array("q"), None
    for row in rows:
        if row.conversation_id is not None and row.conversation_id != previous:
            starts.append(row.conversation_id)
        previous = row.conversation_id
    ordered = pa.array(starts, pa.int64()).sort()
    again = pc.equal(ordered[1:], ordered[:-1])
    return set(ordered[1:].filter(again).to_pylist())


def _conversation_of(together: Iterator[Row]) -> Sample | Flawed:
    """All rows of an id; what is more than a conversation can hold is read and forgotten."""
    rows, length, surplus = list[Row](), 0, 0
    for row in together:
        if len(rows) < _MAX_ROWS and length <= MAX_RECORD:
            rows.append(row)
            length += len(row.human) + len(row.assistant)
        else:
            surplus += 1
    place = Place(line=rows[0].line or None, row=rows[0].number)
    if surplus or length > MAX_RECORD:
        reason = f"the rows with this id are more than {_MAX_ROWS}, or hold more than {MAX_RECORD} characters"
        remedy = "give other conversations ids of their own"
        return Flawed((Fault(place, code="too_many_messages", field=COLUMNS[0], reason=reason, remedy=remedy),))
    faults = tuple(row.fault for row in rows if row.fault is not None)
    if faults:
        return Flawed(faults[:_MAX_FAULTS])
    turns = [turn for row in rows for turn in (Turn("user", row.human), Turn("assistant", row.assistant))]
    return Sample(place, tuple(turns))
