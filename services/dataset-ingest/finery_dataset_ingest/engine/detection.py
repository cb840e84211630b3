"""Tells a file's format by its first bytes, never by its name, and refuses a statement that they contradict."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import BinaryIO

from finery_contracts.errors import DataInvalid
from finery_dataset_ingest.engine.formats.csv_table import COLUMNS, header_of, read_csv
from finery_dataset_ingest.engine.formats.openai import read_openai_array, read_openai_lines
from finery_dataset_ingest.engine.lines import BOM
from finery_dataset_ingest.engine.samples import Flawed, Sample

_HEAD_BYTES = 64 * 2**10
_BINARY: Mapping[bytes, str] = {
    b"PK\x03\x04": "a ZIP or Excel file",
    b"\x1f\x8b": "a gzip file",
    b"PAR1": "a Parquet file",
    b"\xff\xfe": "UTF-16 text",
    b"\xfe\xff": "UTF-16 text",
    b"\x28\xb5\x2f\xfd": "a Zstandard file",
    b"%PDF": "a PDF file",
    b"SQLite format 3": "an SQLite file",
}


@dataclass(frozen=True)
class Format:
    """A format by its name in the API, and its reader."""

    name: str
    read: Callable[[BinaryIO], Iterator[Sample | Flawed]]


_ARRAY = Format("openai", read_openai_array)
_LINES = Format("openai", read_openai_lines)
_TABLE = Format("csv", read_csv)


def choose_format(file: BinaryIO, *, stated: str, filename: str) -> Format:
    """The format of the file's first bytes; the file is left at its start.

    Raises DataInvalid ``format_unknown`` or ``format_mismatch``; an empty file is ``dataset_empty``.
    """
    head = file.read(_HEAD_BYTES)
    file.seek(0)
    text = head.removeprefix(BOM).lstrip()
    if not text:
        raise DataInvalid(f"{filename} is empty; add records to it.", code="dataset_empty", param=filename)
    for magic, what in _BINARY.items():
        if head.startswith(magic):
            raise _unknown(filename, f"it is {what}")
    if text[:1] in (b"{", b"["):
        found = _ARRAY if text[:1] == b"[" else _LINES
    elif _is_table(text) or stated == _TABLE.name:
        found = _TABLE
    elif b"\0" in head:
        raise _unknown(filename, "it holds NUL bytes, so it is no text")
    elif stated != "auto":
        raise _mismatch(filename, stated, "its first bytes are not JSON")
    else:
        raise _unknown(filename, "its first line is neither JSON nor a header with the columns of a table")
    if stated not in ("auto", found.name):
        raise _mismatch(filename, stated, f"its content is of the format {found.name}")
    return found


def _is_table(text: bytes) -> bool:
    """A first line that names at least one of the columns; which ones are wrong is for the reader to say."""
    header = header_of(text.split(b"\n", 1)[0].decode("utf-8", errors="replace"))
    return header is not None and bool(set(header) & set(COLUMNS))


def _unknown(filename: str, reason: str) -> DataInvalid:
    return DataInvalid(
        f"The format of {filename} is not known: {reason}. Give OpenAI messages as .jsonl or a .json array, or a CSV "
        f"with the columns {', '.join(COLUMNS)}, in UTF-8.",
        code="format_unknown",
        param=filename,
    )


def _mismatch(filename: str, stated: str, reason: str) -> DataInvalid:
    return DataInvalid(
        f"{filename} was stated to be of the format {stated}, but {reason}; state the right format or auto.",
        code="format_mismatch",
        param=filename,
    )
