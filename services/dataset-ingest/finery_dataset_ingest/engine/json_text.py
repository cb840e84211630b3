"""JSON as we accept it from people: no name twice in an object, no NaN, bounded; and arrays read element by element.

The array reader refuses to guess: behind a damaged element nothing can be told apart, so the file counts as unreadable.
"""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Iterator
from typing import Any, BinaryIO

from finery_dataset_ingest.engine.lines import BOM, not_utf8, read_lines
from finery_dataset_ingest.engine.samples import MAX_RECORD, Fault, FileUnreadable, Place

_CHUNK_BYTES = 2**20
_SPACE = re.compile(r"[ \t\n\r]*")


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


def read_array(file: BinaryIO) -> Iterator[tuple[Place, Any]]:
    """The elements of a JSON array with their places; an element with a duplicate key comes as its Fault.

    Raises FileUnreadable where the text is no JSON array any more.
    """
    window = _Window(file)
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


def read_stream(file: BinaryIO) -> Iterator[tuple[Place, Any]]:
    """Values one behind the other, each over as many lines as it likes, as pretty-printing leaves them.

    Raises FileUnreadable where the text is no JSON any more.
    """
    window = _Window(file)
    while window.peek():
        window.record += 1
        place = window.place
        yield place, window.element()


class _Window:
    """The part of the file's text that is being looked at; it grows up to a record's limit and forgets what is read."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
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

    def element(self) -> Any:
        """The value at this place; grows the window by doubling until it fits."""
        wanted = _CHUNK_BYTES
        while True:
            try:
                value, end = _DECODER.raw_decode(self._text, self._at)
                if end < len(self._text) or self._ended:
                    self.take(end - self._at)
                    return value
            except DuplicateKey as fault:
                value = _duplicate(self.place, str(fault))
                if (end := self._end_of_plain()) is not None:
                    self.take(end - self._at)
                    return value
            except RecursionError:
                raise FileUnreadable(_too_deep(self.place)) from None
            except ValueError as fault:
                if self._ended:
                    raise FileUnreadable(_invalid(self.place, fault, at=self._at)) from fault
            if len(self._text) - self._at > MAX_RECORD:
                raise FileUnreadable(_unbounded(self.place))
            self._grow(wanted)
            wanted *= 2

    def _end_of_plain(self) -> int | None:
        """Where the element ends when names may stand twice; None when the window does not hold all of it."""
        try:
            return json.JSONDecoder().raw_decode(self._text, self._at)[1]
        except ValueError:
            if self._ended:
                raise FileUnreadable(_invalid(self.place, ValueError("the record breaks off"))) from None
            return None

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


def _invalid(place: Place, fault: ValueError, *, at: int = 0) -> Fault:
    if isinstance(fault, json.JSONDecodeError):
        reason = f"it is not JSON: {fault.msg} at character {fault.pos - at + 1}"
    else:
        reason = f"it is not JSON: {fault}"
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
