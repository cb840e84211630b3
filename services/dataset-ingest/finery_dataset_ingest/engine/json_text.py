"""JSON as we accept it from people: no name twice in an object, no NaN, bounded; and arrays read element by element.

Behind a damaged element an array is read on where the next one certainly begins; where that is not certain, the file
counts as unreadable, because nobody could say which records were lost.
"""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any, BinaryIO

from finery_dataset_ingest.engine.lines import BOM, not_utf8, read_lines
from finery_dataset_ingest.engine.samples import MAX_RECORD, Fault, FileUnreadable, Place

_CHUNK_BYTES = 2**20
_SPACE = re.compile(r"[ \t\n\r]*")
_FIRST_KEY = re.compile(r'\{[ \t\n\r]*("(?:[^"\\\n]|\\.)+")[ \t\n\r]*:')
_TOKEN = re.compile(r'"(?:[^"\\]|\\.)*"|["\[\]{}]', re.DOTALL)
_MARGIN = 64
"""A fault so far before the window's end is one of the text, and not of its being cut off there."""
_STARTS_TRIED = 100
_FORGOTTEN = 2**18
"""So much that is read may stay in the window: where a fault is told, all before it is counted through."""
IsRecord = Callable[[dict[str, Any]], bool]


class DuplicateKey(ValueError):
    """An object names a key twice; the text is the key."""


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    entries = dict(pairs)
    if len(entries) != len(pairs):
        seen: set[str] = set()
        for key, _ in pairs:
            if key in seen:
                raise DuplicateKey(key)
            seen.add(key)
    return entries


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


_DECODER = json.JSONDecoder(object_pairs_hook=_unique, parse_constant=_refuse_constant)


def parse(text: str, place: Place) -> Any:
    """The value, or a Fault (``invalid_json`` with the column, ``duplicate_key``, ``nested_too_deep``)."""
    try:
        return _DECODER.decode(text)
    except DuplicateKey as fault:
        return _duplicate(place, str(fault))
    except RecursionError:
        return _too_deep(place)
    except ValueError as fault:
        return _invalid(place, fault)


def read_array(file: BinaryIO, is_record: IsRecord) -> Iterator[tuple[Place, Any]]:
    """The elements of a JSON array with their places; a damaged one comes as its Fault.

    Raises FileUnreadable where the text is no JSON array any more, and nothing shows where the next element begins.
    """
    window = _Window(file, is_record, between=",", last="]")
    if window.peek() != "[":
        raise FileUnreadable(_invalid(window.place, ValueError("the file does not start with [")))
    window.take(1)
    if window.peek() == "]":
        window.take(1)
    else:
        while True:
            window.record += 1
            window.peek()
            place = window.place
            yield place, window.element()
            mark = window.peek()
            if mark not in ("]", ","):
                raise FileUnreadable(_invalid(window.place, ValueError("a comma or ] is missing behind the record")))
            window.take(1)
            if mark == "]":
                break
    if window.peek():
        raise FileUnreadable(_invalid(window.place, ValueError("there is text behind the closing ]")))


def read_lines_of_json(file: BinaryIO) -> Iterator[tuple[Place, Any]]:
    """One value a line, empty lines skipped; a line that is none comes as its Fault."""
    for line in read_lines(file):
        place = Place(line=line.number)
        if line.fault is not None:
            yield place, line.fault
        elif text := line.text.strip():
            yield place, parse(text, place)


def read_stream(file: BinaryIO, is_record: IsRecord) -> Iterator[tuple[Place, Any]]:
    """Values one behind the other, each over as many lines as it likes, as pretty-printing leaves them.

    Raises FileUnreadable where the text is no JSON any more, and nothing shows where the next value begins.
    """
    window = _Window(file, is_record, between="\n", last="")
    while window.peek():
        window.record += 1
        place = window.place
        yield place, window.element()


class _Window:
    """The part of the file's text that is being looked at; it grows up to a record's limit and forgets what is read."""

    def __init__(self, file: BinaryIO, is_record: IsRecord, *, between: str, last: str) -> None:
        self._file, self._is_record, self._between, self._last = file, is_record, between, last
        self._decoder = codecs.getincrementaldecoder("utf-8")()
        self._text, self._at, self._line, self._ended = "", 0, 1, False
        self.record = 0
        self._first = True

    @property
    def place(self) -> Place:
        """Where the window stands."""
        return Place(line=self._line, record=self.record or None)

    def peek(self) -> str:
        """The next character that is no white space, "" at the end of the file."""
        while True:
            end = _SPACE.match(self._text, self._at).end()  # type: ignore[union-attr]
            self.take(end - self._at)
            if self._at < len(self._text) or self._ended:
                return self._text[self._at : self._at + 1]
            self._grow(_CHUNK_BYTES)

    def take(self, count: int) -> None:
        """Step over ``count`` characters."""
        self._line += self._text.count("\n", self._at, self._at + count)
        self._at += count
        if self._at > _FORGOTTEN:
            self._text, self._at = self._text[self._at :], 0

    def element(self) -> Any:
        """The value at this place, or what is wrong with it; grows the window by doubling until it fits."""
        wanted = _CHUNK_BYTES
        while True:
            try:
                value, end = _DECODER.raw_decode(self._text, self._at)
                if end < len(self._text) or self._ended:
                    return self._taken(value, end)
            except RecursionError:
                raise FileUnreadable(_too_deep(self.place)) from None
            except ValueError as fault:
                if (found := self._flaw(fault)) is not None:
                    return found
            if len(self._text) - self._at > MAX_RECORD:
                return self._step_over(_unbounded(self.place), self._at + 1)
            self._grow(wanted)
            wanted *= 2

    def _taken(self, value: Any, end: int) -> Any:
        found = _unbounded(self.place) if end - self._at > MAX_RECORD else value
        self.take(end - self._at)
        return found

    def _flaw(self, fault: ValueError) -> Fault | None:
        """What is wrong, the window standing behind it; None when more text could put it right."""
        if isinstance(fault, json.JSONDecodeError):
            said, broken = _invalid(self.place, fault, at=self._at), fault
        else:  # JSON as to its shape, so that its end is known: a key twice, NaN
            said = (
                _duplicate(self.place, str(fault)) if isinstance(fault, DuplicateKey) else _invalid(self.place, fault)
            )
            try:
                return self._taken(said, json.JSONDecoder().raw_decode(self._text, self._at)[1])
            except RecursionError:
                raise FileUnreadable(_too_deep(self.place)) from None
            except ValueError as inner:
                broken = inner
        if not self._ended and not self._is_damage(broken):
            return None
        return self._step_over(said, self._position_of(broken))

    def _is_damage(self, fault: ValueError) -> bool:
        """True when more text would change nothing. A string without an end may end behind the window."""
        if not isinstance(fault, json.JSONDecodeError):
            return True
        return fault.pos + _MARGIN < len(self._text) and not fault.msg.startswith("Unterminated string")

    def _position_of(self, fault: ValueError) -> int:
        return max(fault.pos, self._at + 1) if isinstance(fault, json.JSONDecodeError) else self._at + 1

    def _step_over(self, fault: Fault, position: int) -> Fault:
        """Go to where the damaged element ends, so that the next one can be read.

        Raises FileUnreadable with the element's fault when that place is not certain.
        """
        passed = position - self._at
        while not self._ended and len(self._text) - self._at - passed <= MAX_RECORD:
            if (end := self._next_start(passed)) is not None:
                break
            self._grow(max(_CHUNK_BYTES, len(self._text) - self._at))
        else:
            end = self._next_start(passed) or self._last_end()
        if end is None:
            raise FileUnreadable(fault)
        self.take(end - self._at)
        return fault

    def _next_start(self, passed: int) -> int | None:
        """The end of an element: there its first key begins another object.

        A key's quotes would be escaped inside a text. An object inside the element that has the same first key is none
        of the known records. One that is damaged, too, is the next element if it stands behind the fault.
        """
        first = _FIRST_KEY.match(self._text, self._at)
        if first is None:
            return None
        start = re.compile(rf"{self._between}[ \t\n\r]*(?=\{{[ \t\n\r]*{re.escape(first[1])}[ \t\n\r]*:)")
        for found in islice(start.finditer(self._text, self._at + 1), _STARTS_TRIED):
            if not self._ended and len(self._text) - found.end() < _CHUNK_BYTES:
                return None
            try:
                value = _DECODER.raw_decode(self._text, found.end())[0]
            except (ValueError, RecursionError):
                return found.start() if found.start() >= self._at + passed else None
            if self._is_record(value):
                return found.start()
        return None

    def _last_end(self) -> int | None:
        """The end of an element that is the last one: its brackets fit, and what ends the file follows."""
        if not self._ended:
            return None
        end = len(self._text.rstrip())
        if self._last:
            end = (
                len(self._text[:end].removesuffix(self._last).rstrip()) if self._text[:end].endswith(self._last) else 0
            )
        return end if end > self._at and _fits_brackets(self._text, self._at, end) else None

    def _grow(self, size_bytes: int) -> None:
        raw = self._file.read(size_bytes)
        self._ended = not raw
        if self._first:
            raw, self._first = raw.removeprefix(BOM), False
        try:
            self._text = self._text[self._at :] + self._decoder.decode(raw, final=self._ended)
        except UnicodeDecodeError as fault:
            before = fault.object[: fault.start].count(b"\n") + self._text.count("\n", self._at)
            raise FileUnreadable(not_utf8(self._line + before, fault)) from fault
        self._at = 0


def _fits_brackets(text: str, start: int, end: int) -> bool:
    """True when what is opened first is closed at the very end, everything between in its order, and so each text."""
    open_ones = list[str]()
    for token in _TOKEN.finditer(text, start, end):
        mark = token[0]
        if mark in ("{", "["):
            open_ones.append("}" if mark == "{" else "]")
        elif mark == '"' or (mark in ("}", "]") and (not open_ones or open_ones.pop() != mark)):
            return False
        if not open_ones:
            return token.end() == end
    return False


def _invalid(place: Place, fault: ValueError, *, at: int = 0) -> Fault:
    if isinstance(fault, json.JSONDecodeError):
        reason = f"it is not JSON: {fault.msg.removesuffix(' at')} at character {fault.pos - at + 1}"
    else:
        said = "a number has thousands of digits" if "integer string" in str(fault) else str(fault)
        reason = f"it is not JSON: {said}"
    return Fault(place, code="invalid_json", reason=reason, remedy="write the record with a JSON library")


def _duplicate(place: Place, key: str) -> Fault:
    return Fault(
        place,
        code="duplicate_key",
        field=key[:100],
        reason=f"an object names the key {key[:100]!r} twice",
        remedy="keep one of the two",
    )


def _too_deep(place: Place) -> Fault:
    return Fault(place, code="nested_too_deep", reason="it is nested too deep", remedy="flatten the record")


def _unbounded(place: Place) -> Fault:
    return Fault(
        place,
        code="record_too_long",
        reason=f"the record is longer than {MAX_RECORD} characters, or it is not JSON",
        remedy="split the record; write the file with a JSON library",
    )
