"""Tells a file's format by what it holds, and refuses a statement that this contradicts.

A name decides in one case only: prose called .jsonl or .csv is a mistake, prose under another name is plain text.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import PurePosixPath
from typing import Any, BinaryIO

import pyarrow as pa

from finery_contracts.datasets import DataKind
from finery_contracts.errors import DataInvalid
from finery_dataset_ingest.engine.batches import read_batches
from finery_dataset_ingest.engine.containers import PARQUET, ZIP, DataFile, is_archive
from finery_dataset_ingest.engine.encodings import as_utf8, encoding_of
from finery_dataset_ingest.engine.formats.csv_table import header_of, read_csv
from finery_dataset_ingest.engine.formats.parquet_rows import read_rows
from finery_dataset_ingest.engine.formats.text import read_text
from finery_dataset_ingest.engine.formats.xlsx_table import read_xlsx
from finery_dataset_ingest.engine.json_text import read_array, read_lines_of_json, read_stream
from finery_dataset_ingest.engine.lines import BOM
from finery_dataset_ingest.engine.messages import keys_of
from finery_dataset_ingest.engine.samples import Fault, FileUnreadable, Flawed, Place, Sample
from finery_dataset_ingest.engine.shapes import BY_NAME, Shape, shape_of
from finery_dataset_ingest.engine.table import COLUMNS

Records = Iterator[Sample | Flawed | pa.RecordBatch]
Values = Iterator[tuple[Place, Any]]
_HEAD_BYTES = 2**20
_FIRST_RECORDS = 20
_STRUCTURED = frozenset({".json", ".jsonl", ".ndjson", ".csv", ".tsv", ".xlsx", ".xls", ".parquet"})
_WRAPPINGS = frozenset({".gz", ".zst", ".zip"})
_MARKUP = (b"<!doctype html", b"<html", b"<?xml")
_NO_TEXT = "it holds NUL bytes, so it is no text; UTF-16 needs a byte order mark"
_BINARY: Mapping[bytes, str] = {
    b"%PDF": "a PDF file",
    b"SQLite format 3": "an SQLite file",
    b"\xd0\xcf\x11\xe0": "an old .xls file, or a workbook with a password; save it as .xlsx without one",
    b"\xff\xfe\x00\x00": "UTF-32 text; save it as UTF-8",
    b"\x00\x00\xfe\xff": "UTF-32 text; save it as UTF-8",
    b"ARROW1": "an Arrow file; write it as Parquet",
    b"\x89PNG": "a picture",
    b"\xff\xd8\xff": "a picture",
    b"GGUF": "a GGUF file, which holds weights",
}


@dataclass(frozen=True)
class Format:
    """A format by its name in the API, what its records are made for, and the records of a file."""

    name: str
    kind: DataKind
    read: Callable[[], Records]


def choose_format(file: DataFile, *, stated: str) -> Format:
    """The format of a file by its first bytes and records.

    Raises DataInvalid ``format_unknown``, ``format_mismatch``, ``archive_nested``; an empty file is ``dataset_empty``.
    """
    with file.open() as stream:
        head = stream.read(_HEAD_BYTES)
    found = _binary(file, head, stated) or _textual(file, stated)
    if stated not in ("auto", found.name):
        raise _mismatch(file.name, stated, f"its content is of the format {found.name}")
    return found


def _binary(file: DataFile, head: bytes, stated: str) -> Format | None:
    """The format of a file that is no text; None for text."""
    for magic, what in _BINARY.items():
        if head.startswith(magic):
            raise _unknown(file.name, f"it is {what}")
    if head.startswith(PARQUET):
        shape = _shape_of(file.name, _parquet(file), stated)
        return Format(shape.name, shape.kind, lambda: _judged(_parquet(file), shape))
    if head.startswith(ZIP) and file.is_workbook():
        return Format("xlsx", DataKind.MESSAGES, lambda: read_xlsx(file.seekable, file.name))
    if is_archive(head):
        raise DataInvalid(
            f"{file.name} is an archive of a kind that is not read, or one inside another; upload .zip, .gz or .zst "
            "with the data files right inside.",
            code="archive_nested",
            param=file.name,
        )
    return None


def _parquet(file: DataFile) -> Values:
    with file.seekable() as stream:
        yield from read_rows(stream, file.name)


def _textual(file: DataFile, stated: str) -> Format:
    as_text = as_utf8(file.open, encoding_of(file.open))
    try:
        with as_text() as stream:
            head = stream.read(_HEAD_BYTES)
    except FileUnreadable as broken:
        raise _unknown(file.name, broken.fault.reason) from broken
    if b"\0" in head[:4]:
        raise _unknown(file.name, _NO_TEXT)
    text = head.removeprefix(BOM).lstrip()
    if not text:
        raise DataInvalid(f"{file.name} is empty; add records to it.", code="dataset_empty", param=file.name)
    may_be_prose = stated == "text" or (stated == "auto" and not _is_named_otherwise(file.name))
    if text[:1] in (b"{", b"["):
        layout = _layout_of(text)
        if not may_be_prose or _first(_with(as_text, layout)):
            return _json(file.name, as_text, layout, stated)
    if _is_table(text) or stated == "csv":
        return Format("csv", DataKind.MESSAGES, lambda: read_csv(as_text))
    if b"\0" in head:
        raise _unknown(file.name, _NO_TEXT)
    if stated == "auto" and text[:14].lower().startswith(_MARKUP):
        raise _unknown(
            file.name, "it is a web page or other markup, which is taken only where the format text is stated"
        )
    if may_be_prose:
        return Format("text", DataKind.TEXT, lambda: _with(as_text, read_text))
    if stated != "auto":
        raise _mismatch(file.name, stated, "its first bytes are not JSON")
    raise _unknown(file.name, _first_line(text))


def _json(name: str, as_text: Callable[[], BinaryIO], layout: Callable[[BinaryIO], Values], stated: str) -> Format:
    shape = _shape_of(name, _with(as_text, layout), stated)
    if shape.name == "openai" and layout is read_lines_of_json:
        return Format(shape.name, shape.kind, lambda: _with(as_text, read_batches))
    return Format(shape.name, shape.kind, lambda: _judged(_with(as_text, layout), shape))


def _layout_of(text: bytes) -> Callable[[BinaryIO], Values]:
    """An array, a record a line, or records that take several lines each, as pretty-printing leaves them."""
    if text[:1] == b"[":
        return partial(read_array, is_record=_has_a_shape)
    first, *others = (line.strip() for line in text.split(b"\n", 8))
    if _breaks_off(first) and any(others) and not _is_object(next(line for line in others if line)):
        return partial(read_stream, is_record=_has_a_shape)
    return read_lines_of_json


def _has_a_shape(record: dict[str, Any]) -> bool:
    return shape_of([record]) is not None


def _breaks_off(line: bytes) -> bool:
    """True when the line is right as far as it goes."""
    try:
        json.loads(line)
    except json.JSONDecodeError as fault:
        return fault.pos >= len(fault.doc)
    except (ValueError, RecursionError):
        return False
    return False


def _is_object(line: bytes) -> bool:
    try:
        return isinstance(json.loads(line), dict)
    except (ValueError, RecursionError):
        return False


def _judged(values: Values, shape: Shape) -> Records:
    for place, value in values:
        yield Flawed((value,)) if isinstance(value, Fault) else shape.judge(value, place)


def _with(open_file: Callable[[], BinaryIO], read: Callable[[BinaryIO], Iterator[Any]]) -> Iterator[Any]:
    with open_file() as file:
        yield from read(file)


def _first(values: Values) -> list[dict[str, Any]]:
    """The first records that are objects; a file that breaks off has said enough before."""
    found: list[dict[str, Any]] = []
    try:
        for _, value in islice(values, _FIRST_RECORDS):
            if isinstance(value, dict):
                found.append(value)
    except FileUnreadable:
        pass
    return found


def _shape_of(name: str, values: Values, stated: str) -> Shape:
    """The shape of the first records, or the stated one when any of them has it; OpenAI's when none can be read."""
    records = _first(values)
    found = shape_of(records)
    if stated in BY_NAME:
        if records and not any(BY_NAME[stated].fits(record) for record in records):
            is_of = f"of the format {found.name}" if found else f"of no known format (keys: {keys_of(records[0])})"
            raise _mismatch(name, stated, f"its content is {is_of}")
        return BY_NAME[stated]
    if stated != "auto":
        raise _mismatch(name, stated, f"its content is {f'of the format {found.name}' if found else 'JSON'}")
    if found is None and records:
        raise _unknown(name, f"its records have the keys {keys_of(records[0])}")
    return found or BY_NAME["openai"]


def _is_table(text: bytes) -> bool:
    """A first line that names at least one of the columns; which ones are wrong is for the reader to say."""
    header = header_of(text.split(b"\n", 1)[0].decode("utf-8", errors="replace"))
    return header is not None and bool(set(header) & set(COLUMNS))


def _first_line(text: bytes) -> str:
    """Why it is neither; a table whose columns are divided by another sign hears that."""
    line = text.split(b"\n", 1)[0].decode("utf-8", errors="replace").strip()
    for sign, called in ((";", "semicolons"), ("\t", "tabs")):
        if sign in line and {part.strip(' "') for part in line.split(sign)} & set(COLUMNS):
            return f"its columns are divided by {called}, not by commas"
    return f"its first line ({line[:60]!r}) is neither JSON nor a header with the columns of a table"


def _is_named_otherwise(name: str) -> bool:
    """True for names that promise records: prose in such a file is a mistake, not a text."""
    path = PurePosixPath(name)
    if path.suffix.lower() in _WRAPPINGS:
        path = path.with_suffix("")
    return path.suffix.lower() in _STRUCTURED


def _unknown(name: str, reason: str) -> DataInvalid:
    return DataInvalid(
        f"The format of {name} is not known: {reason}. Give records as .jsonl or a .json array (OpenAI messages, MOSS, "
        "Alpaca, ShareGPT, preference pairs, like and dislike, prompts with an answer, or text), a table as .csv or "
        f".xlsx with the columns {', '.join(COLUMNS)}, Parquet, or plain text as .txt; or state the format.",
        code="format_unknown",
        param=name,
    )


def _mismatch(name: str, stated: str, reason: str) -> DataInvalid:
    return DataInvalid(
        f"{name} was stated to be of the format {stated}, but {reason}; state the right format or auto.",
        code="format_mismatch",
        param=name,
    )
