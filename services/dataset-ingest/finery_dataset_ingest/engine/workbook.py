"""The cells of an .xlsx, row by row as its XML streams by: kinds, formulas and merges included, which readers for speed
hide. Entities are refused, links to other files are never followed, formulas never computed.

Source of the shape: ECMA-376, SpreadsheetML.
"""

from __future__ import annotations

import re
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from posixpath import join, normpath
from typing import Any, BinaryIO, NamedTuple
from xml.parsers import expat

from finery_contracts.errors import DataInvalid, TooLarge
from finery_dataset_ingest.engine.containers import check_entry, directory_of, entry_pieces
from finery_dataset_ingest.engine.samples import MAX_RECORD
from finery_dataset_ingest.engine.streams import damaged, limited

MAX_ROWS, MAX_COLUMNS = 1_048_576, 16_384
MAX_MERGES = 100_000
MAX_STRINGS, MAX_STRING_CHARACTERS = 4_000_000, 64_000_000
MAX_ENTRY_BYTES = 4 * 2**30
FREE_BYTES, RATIO = 16 * 2**20, 100
"""XML of a workbook compresses to a tenth or so; more than a hundredth, beyond a few megabytes, nobody typed."""
_MAX_DEPTH = 64
_MAX_TOKEN_BYTES = 4 * 2**20
_MAX_SMALL_BYTES = 16 * 2**20
_ESCAPED = re.compile(r"_x([0-9A-Fa-f]{4})_")
_CELL = re.compile(r"([A-Z]{1,3})([1-9][0-9]{0,6})")
_DATE_FORMATS = frozenset({*range(14, 23), *range(27, 37), *range(45, 48), *range(50, 59)})
_PLAIN_FORMATS = frozenset({0, 1, 49})
_PLAIN_CODES = frozenset({"General", "0", "@"})
_QUOTED = re.compile(r'"[^"]*"|\\.|\[[^\]]*\]|_.')


class Cell(NamedTuple):
    """One cell; ``kind`` is text, number, date, other (a number shown as something else), boolean, error or formula."""

    column: int
    kind: str
    text: str


@dataclass
class Sheet:
    """The one worksheet with cells. ``merged`` is complete once the rows have been read."""

    name: str
    archive: zipfile.ZipFile
    entry: str
    strings: list[str]
    styles: list[str]
    merged: list[tuple[int, int]] = field(default_factory=list)

    def rows(self) -> Iterator[tuple[int, list[Cell]]]:
        """Numbers and cells of the rows that hold any. Raises DataInvalid or TooLarge, see ``open_sheet``."""
        reader = _Rows(self)
        self.merged.clear()
        for _ in _parsed(self.archive, self.entry, self.name, reader):
            yield from reader.taken()


def open_sheet(file: BinaryIO, name: str) -> Sheet:
    """The one sheet of a workbook that holds cells.

    Raises DataInvalid ``archive_damaged``, ``archive_unsupported``, ``xml_doctype``, ``sheets_many`` or TooLarge
    ``archive_bomb``.
    """
    archive = directory_of(file, name)
    for entry in archive.infolist():
        check_entry(entry, name, free_bytes=FREE_BYTES, ratio=RATIO)
    targets = _relations(archive, name)
    sheets = [targets[key] for key in _sheet_keys(archive, name) if "/worksheets/" in targets.get(key, "")]
    if not sheets:
        raise damaged(name, "it has no worksheet")
    formats = _Styles()
    if "xl/styles.xml" in archive.namelist():
        _read_small(archive, "xl/styles.xml", name, formats)
    filled = [sheet for sheet in sheets if _holds_cells(archive, sheet, name)] if len(sheets) > 1 else sheets
    if len(filled) > 1:
        raise DataInvalid(
            f"{name} has more than one sheet with cells; keep one, or upload each as a file of its own.",
            code="sheets_many",
            param=name,
        )
    return Sheet(name, archive, (filled or sheets)[0], _shared_strings(archive, name), formats.kinds())


class _Handler:
    """What the parser tells; names come without their prefix."""

    def start(self, tag: str, attributes: dict[str, str]) -> None: ...

    def end(self, tag: str) -> None: ...

    def text(self, data: str) -> None: ...


def _parsed(archive: zipfile.ZipFile, entry: str, name: str, handler: Any) -> Iterator[None]:
    """Feed an entry to a handler, chunk by chunk."""
    try:
        info = archive.getinfo(entry)
    except KeyError as fault:
        raise damaged(name, f"{entry[:100]} is missing") from fault
    parser = _parser(name, handler)
    consumed = max(info.compress_size, 1)
    fed = 0
    pieces = entry_pieces(archive, info, name)
    try:
        for piece in limited(
            pieces, lambda: consumed, name=name, max_bytes=MAX_ENTRY_BYTES, ratio=RATIO, free_bytes=FREE_BYTES
        ):
            parser.Parse(piece, False)
            fed += len(piece)
            if fed - parser.CurrentByteIndex > _MAX_TOKEN_BYTES:
                raise TooLarge(f"{name} holds a mark of more than {_MAX_TOKEN_BYTES} bytes.", code="archive_bomb")
            yield
        parser.Parse(b"", True)
    except expat.ExpatError as fault:
        raise damaged(name, f"{entry}: {fault}") from fault
    yield


def _parser(name: str, handler: Any) -> expat.XMLParserType:
    depth = 0

    def start(tag: str, attributes: dict[str, str]) -> None:
        nonlocal depth
        depth += 1
        if depth > _MAX_DEPTH:
            raise TooLarge(f"the XML of {name} is nested deeper than {_MAX_DEPTH}.", code="archive_bomb", param=name)
        handler.start(tag.rpartition(":")[2], attributes)

    def end(tag: str) -> None:
        nonlocal depth
        depth -= 1
        handler.end(tag.rpartition(":")[2])

    def refuse(*_: object) -> None:
        reason = f"the XML of {name} declares a document type, which a workbook has no use for; save it again."
        raise DataInvalid(reason, code="xml_doctype", param=name)

    parser = expat.ParserCreate()
    parser.buffer_text = True
    parser.StartElementHandler, parser.EndElementHandler = start, end
    parser.CharacterDataHandler = handler.text
    parser.StartDoctypeDeclHandler = refuse
    return parser


class _Rows(_Handler):
    """Cells as they come, and the rows that are merged."""

    def __init__(self, sheet: Sheet) -> None:
        self._sheet = sheet
        self._done: list[tuple[int, list[Cell]]] = []
        self._row, self._cells, self._column = 0, list[Cell](), -1
        self._type, self._style, self._formula = "n", 0, False
        self._taking, self._phonetic, self._value = False, 0, list[str]()
        self._length = 0

    def taken(self) -> list[tuple[int, list[Cell]]]:
        done, self._done = self._done, []
        return done

    def start(self, tag: str, attributes: dict[str, str]) -> None:
        if tag == "c":
            self._begin_cell(attributes)
        elif tag in ("v", "t"):
            self._taking = self._phonetic == 0
        elif tag == "f":
            self._formula = True
        elif tag == "rPh":
            self._phonetic += 1
        elif tag == "row":
            number = _whole(attributes.get("r", str(self._row + 1)), self._sheet.name, MAX_ROWS)
            if number <= self._row:
                raise damaged(self._sheet.name, f"row {number} follows row {self._row}")
            self._row, self._cells, self._column = number, [], -1
        elif tag == "mergeCell":
            self._merge(attributes.get("ref", ""))

    def end(self, tag: str) -> None:
        if tag in ("v", "t"):
            self._taking = False
        elif tag == "c":
            self._end_cell()
        elif tag == "rPh":
            self._phonetic -= 1
        elif tag == "row" and self._cells:
            self._done.append((self._row, self._cells))
            self._cells = []

    def text(self, data: str) -> None:
        if self._taking:
            self._length += len(data)
            if self._length > MAX_RECORD:
                reason = f"row {self._row} of {self._sheet.name} has a cell of over {MAX_RECORD} characters; split it."
                raise TooLarge(reason, code="record_too_long", param=self._sheet.name)
            self._value.append(data)

    def _begin_cell(self, attributes: dict[str, str]) -> None:
        place = _CELL.fullmatch(attributes["r"]) if "r" in attributes else None
        column = _column(place[1]) if place is not None else self._column + 1
        if column <= self._column or column >= MAX_COLUMNS or (place and int(place[2]) != self._row):
            raise damaged(self._sheet.name, f"a cell of row {self._row} is out of its place")
        self._column, self._type = column, attributes.get("t", "n")
        self._style = _whole(attributes.get("s", "0"), self._sheet.name, 2**20)
        self._value, self._formula, self._length = [], False, 0

    def _end_cell(self) -> None:
        text = "".join(self._value)
        if not text and not self._formula:
            return
        kind = {"b": "boolean", "e": "error", "d": "date", "n": "number"}.get(self._type, "text")
        if self._formula:
            kind = "formula"
        elif kind == "number":
            styles = self._sheet.styles
            kind = styles[self._style] if self._style < len(styles) else "number"
        elif self._type == "s":
            strings = self._sheet.strings
            text = strings[_whole(text, self._sheet.name, len(strings) - 1)]
        elif kind == "text":
            text = _unescaped(text)
        if text or self._formula:
            self._cells.append(Cell(self._column, kind, text))

    def _merge(self, ref: str) -> None:
        corners = [_CELL.fullmatch(corner) for corner in ref.split(":")]
        if len(corners) != 2 or corners[0] is None or corners[1] is None or len(self._sheet.merged) >= MAX_MERGES:
            raise damaged(self._sheet.name, "its merged cells are not as they should be")
        self._sheet.merged.append((int(corners[0][2]), int(corners[1][2])))


class _Strings(_Handler):
    """The texts that cells share."""

    def __init__(self, name: str) -> None:
        self.found: list[str] = []
        self._name, self._parts, self._taking, self._phonetic, self._characters = name, list[str](), False, 0, 0

    def start(self, tag: str, attributes: dict[str, str]) -> None:
        if tag == "si":
            self._parts = []
        elif tag == "rPh":
            self._phonetic += 1
        elif tag == "t":
            self._taking = self._phonetic == 0

    def end(self, tag: str) -> None:
        if tag == "t":
            self._taking = False
        elif tag == "rPh":
            self._phonetic -= 1
        elif tag == "si":
            self.found.append(_unescaped("".join(self._parts)))
            if len(self.found) > MAX_STRINGS:
                raise TooLarge(f"{self._name} has more than {MAX_STRINGS} texts; split it.", code="archive_bomb")

    def text(self, data: str) -> None:
        if self._taking:
            self._parts.append(data)
            self._characters += len(data)
            if self._characters > MAX_STRING_CHARACTERS:
                reason = f"{self._name} has more than {MAX_STRING_CHARACTERS} characters of text; split it."
                raise TooLarge(reason, code="archive_bomb", param=self._name)


class _Styles(_Handler):
    """How each style shows a number."""

    def __init__(self) -> None:
        self._codes: dict[int, str] = {}
        self._ids: list[int] = []
        self._inside = False

    def start(self, tag: str, attributes: dict[str, str]) -> None:
        if tag == "numFmt":
            self._codes[_id(attributes)] = attributes.get("formatCode", "")
        elif tag == "cellXfs":
            self._inside = True
        elif tag == "xf" and self._inside:
            self._ids.append(_id(attributes))

    def end(self, tag: str) -> None:
        self._inside = self._inside and tag != "cellXfs"

    def kinds(self) -> list[str]:
        return [self._kind(number) for number in self._ids]

    def _kind(self, number: int) -> str:
        code = self._codes.get(number)
        if code is None:
            return "date" if number in _DATE_FORMATS else "number" if number in _PLAIN_FORMATS else "other"
        if code in _PLAIN_CODES:
            return "number"
        return "date" if re.search("[ymdhsYMDHS]", _QUOTED.sub("", code.replace("General", ""))) else "other"


class _Tags(_Handler):
    """The attributes of all elements of one name."""

    def __init__(self, tag: str) -> None:
        self._tag = tag
        self.found: list[dict[str, str]] = []

    def start(self, tag: str, attributes: dict[str, str]) -> None:
        if tag == self._tag:
            self.found.append({key.rpartition(":")[2]: value for key, value in attributes.items()})


def _relations(archive: zipfile.ZipFile, name: str) -> dict[str, str]:
    """Id → entry, of what lies inside the workbook; links to elsewhere are left out."""
    tags = _Tags("Relationship")
    _read_small(archive, "xl/_rels/workbook.xml.rels", name, tags)
    return {
        tag.get("Id", ""): normpath(join("/xl", tag.get("Target", ""))).lstrip("/")
        for tag in tags.found
        if tag.get("TargetMode") != "External"
    }


def _sheet_keys(archive: zipfile.ZipFile, name: str) -> list[str]:
    tags = _Tags("sheet")
    _read_small(archive, "xl/workbook.xml", name, tags)
    return [tag.get("id", "") for tag in tags.found]


def _shared_strings(archive: zipfile.ZipFile, name: str) -> list[str]:
    strings = _Strings(name)
    if "xl/sharedStrings.xml" in archive.namelist():
        for _ in _parsed(archive, "xl/sharedStrings.xml", name, strings):
            pass
    return strings.found


def _holds_cells(archive: zipfile.ZipFile, entry: str, name: str) -> bool:
    tags = _Tags("v")
    texts = _Tags("is")
    for handler in (tags, texts):
        for _ in _parsed(archive, entry, name, handler):
            if handler.found:
                return True
    return False


def _read_small(archive: zipfile.ZipFile, entry: str, name: str, handler: _Handler) -> None:
    """An entry that describes the workbook; it has no reason to be large."""
    if entry in archive.namelist() and archive.getinfo(entry).file_size > _MAX_SMALL_BYTES:
        raise TooLarge(f"{entry} of {name} has over {_MAX_SMALL_BYTES} bytes; save it again.", code="archive_bomb")
    for _ in _parsed(archive, entry, name, handler):
        pass


def _column(letters: str) -> int:
    number = 0
    for letter in letters:
        number = number * 26 + ord(letter) - 64
    return number - 1


def _whole(text: str, name: str, most: int) -> int:
    if text.isascii() and text.isdigit() and len(text) <= 9 and int(text) <= most:
        return int(text)
    raise damaged(name, f"{text[:20]!r} is no number up to {most}")


def _id(attributes: dict[str, str]) -> int:
    text = attributes.get("numFmtId", "0")
    return int(text) if text.isascii() and text.isdigit() and len(text) < 9 else 0


def _unescaped(text: str) -> str:
    """``_x000D_`` is a carriage return; two halves of a surrogate pair become their character."""
    if "_x" not in text:
        return text
    plain = _ESCAPED.sub(lambda found: chr(int(found[1], 16)), text)
    return plain.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
