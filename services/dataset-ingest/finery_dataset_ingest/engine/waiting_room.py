"""Rows of a table that wait for the rest of their conversation, on disk, so that memory stays flat."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from types import TracebackType
from typing import NamedTuple

from finery_dataset_ingest.engine.samples import Fault, Place


class Row(NamedTuple):
    """One row; ``number`` counts records with the header as 1, ``line`` is where it starts."""

    number: int
    line: int
    conversation_id: int | None = None
    human: str = ""
    assistant: str = ""
    fault: Fault | None = None


class WaitingRoom:
    """A private SQLite file that vanishes when closed."""

    def __init__(self) -> None:
        self._db = sqlite3.connect("")
        self._db.execute("PRAGMA journal_mode = OFF")
        self._db.execute("PRAGMA synchronous = OFF")
        self._db.execute("CREATE TABLE first (id INTEGER PRIMARY KEY, number INTEGER)")
        self._db.execute(
            "CREATE TABLE row (id INTEGER, number INTEGER PRIMARY KEY, line INTEGER, human TEXT, assistant TEXT, "
            "fault_line INTEGER, code TEXT, reason TEXT, remedy TEXT, field TEXT)"
        )

    def __enter__(self) -> WaitingRoom:
        return self

    def __exit__(self, kind: type[BaseException] | None, fault: BaseException | None, at: TracebackType | None) -> None:
        self._db.close()

    def add(self, row: Row) -> None:
        """Keep a row whose id is known."""
        fault = row.fault
        said = (fault.place.line, fault.code, fault.reason, fault.remedy, fault.field) if fault else (None,) * 5
        self._db.execute("INSERT OR IGNORE INTO first VALUES (?, ?)", (row.conversation_id, row.number))
        self._db.execute(
            "INSERT INTO row VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (row.conversation_id, row.number, row.line, row.human, row.assistant, *said),
        )

    def rows(self) -> Iterator[Row]:
        """All rows, conversation by conversation in the order of their first rows."""
        found = self._db.execute(
            "SELECT row.id, row.number, line, human, assistant, fault_line, code, reason, remedy, field "
            "FROM row JOIN first USING (id) ORDER BY first.number, row.number"
        )
        for number_id, number, line, human, assistant, at, code, reason, remedy, field in found:
            place = Place(line=at, row=number)
            fault = Fault(place, code=code, reason=reason, remedy=remedy, field=field) if code else None
            yield Row(number, line, number_id, human=human, assistant=assistant, fault=fault)
