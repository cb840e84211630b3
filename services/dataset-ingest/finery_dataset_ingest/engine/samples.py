"""The words that formats and the ingest engine share: a place in a file, a sample, what is wrong with one.

Those made for every record are named tuples: a frozen dataclass takes three times as long to make.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from finery_contracts.jobs import BadRecord

MAX_RECORD = 16 * 2**20
"""The longest record, in bytes (in characters where text was decoded before)."""


class Place(NamedTuple):
    """Where a record stands in the user's file, 1-based: a line of text, a row of a table, a place in an array."""

    line: int | None = None
    row: int | None = None
    record: int | None = None

    @property
    def number(self) -> int:
        """The one number that a person would look for; it goes into the canonical file."""
        return self.record or self.row or self.line or 0

    def __str__(self) -> str:
        for name, number in (("record", self.record), ("row", self.row), ("line", self.line)):
            if number is not None:
                return f"{name} {number}"
        return "the file"


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing that is wrong; ``field`` is such as ``messages[1].content``."""

    place: Place
    code: str
    reason: str
    remedy: str
    field: str | None = None

    def as_record(self, filename: str) -> BadRecord:
        """This fault as it is reported, under the name that the user gave the file."""
        return BadRecord(
            file=filename,
            line=self.place.line,
            row=self.place.row,
            record=self.place.record,
            field=self.field,
            code=self.code,
            reason=self.reason,
            remedy=self.remedy,
        )


class Turn(NamedTuple):
    """One message in canonical form; ``tool_calls`` is JSON text."""

    role: str
    content: str
    name: str | None = None
    tool_calls: str | None = None
    tool_call_id: str | None = None
    weight: int | None = None


class Sample(NamedTuple):
    """A good record in canonical form; which fields are set depends on its kind. ``tools`` is JSON text."""

    place: Place
    turns: tuple[Turn, ...]
    tools: str | None = None
    ignored_keys: tuple[str, ...] = ()
    chosen: tuple[Turn, ...] | None = None
    rejected: tuple[Turn, ...] | None = None
    label: bool | None = None
    answer: str | None = None
    text: str | None = None


@dataclass(frozen=True, slots=True)
class Flawed:
    """A record that cannot be used, with everything that is wrong with it."""

    faults: tuple[Fault, ...]


class FileUnreadable(Exception):
    """From here on the file cannot be read, so the records behind this place are unknown and none may be skipped."""

    def __init__(self, fault: Fault) -> None:
        super().__init__(fault.reason)
        self.fault = fault


class Wrong(Exception):
    """One fault of a record, on its way up to its place."""

    def __init__(self, field: str, code: str, *, reason: str, remedy: str) -> None:
        super().__init__(reason)
        self.field, self.code, self.reason, self.remedy = field, code, reason, remedy

    def at(self, place: Place) -> Fault:
        """The fault of a record at this place."""
        return Fault(place, code=self.code, field=self.field, reason=self.reason, remedy=self.remedy)
