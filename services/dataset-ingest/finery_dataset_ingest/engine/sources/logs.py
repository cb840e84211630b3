"""Lines of log files as records: JSON objects, or what a pattern's named groups take out of each line.

A pattern is a stranger's program: it gets a time limit for every group of lines, and lines have a limit, too. Lines
that are no record are counted, not reported: a log holds others by nature.
"""

from __future__ import annotations

import fnmatch
import json
import os
import re
import stat
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any, BinaryIO

from finery_contracts.errors import DataInvalid, InvalidRequest
from finery_contracts.sources import LogSource, Origin
from finery_dataset_ingest.engine.sources.rows import RowWriter, is_table
from finery_ml.sources.files import below, opened
from finery_ml.sources.landing import Landing, name_of, within

MAX_LINE_BYTES = 2**20
LINES_AT_ONCE = 200
PATTERN_S = 2.0


def fetch(source: LogSource, origin: Origin, landing: Landing) -> None:
    """One file of rows for each log file that has any."""
    folder, _, wanted = source.url.rpartition("/")
    read = _by_pattern(source.pattern) if source.pattern is not None else _by_json(source.fields)
    with opened(folder, origin.limits.roots) as descriptor:
        for relative, file in below(descriptor):
            if "/" not in relative and fnmatch.fnmatchcase(relative, wanted):
                with os.fdopen(os.dup(file), "rb") as lines:
                    _one_file(lines, read, landing, name=name_of(relative))
    if not landing.landed:
        raise DataInvalid(
            f"no line of {source.url} is a record ({landing.skipped:,} were read); see pattern and fields",
            code="no_record_found", param="source",
        )  # fmt: skip


def _one_file(lines: BinaryIO, read: Any, landing: Landing, *, name: str) -> None:
    columns, rows = read(_lines(lines, landing), landing)
    first = next(rows, None)
    if first is None:
        return
    with landing.begin(name) as arrival:
        writer = RowWriter(columns or (list(first) if is_table(first) else None), arrival)
        writer.add(first)
        for row in rows:
            writer.add(row)


def _by_pattern(pattern: str) -> Any:
    found = re.compile(pattern)
    columns = list(found.groupindex)
    late = InvalidRequest(
        f"the pattern took longer than {PATTERN_S:g} s for {LINES_AT_ONCE} lines; write it so that it cannot search in "
        "circles, such as [^ ]+ instead of (.+)+",
        code="pattern_too_slow", param="source",
    )  # fmt: skip

    def read(lines: Iterator[str], landing: Landing) -> tuple[list[str], Iterator[dict[str, Any]]]:
        def rows() -> Iterator[dict[str, Any]]:
            while group := list(islice(lines, LINES_AT_ONCE)):
                with within(PATTERN_S, late):
                    matches = [found.search(line) for line in group]
                for match in matches:
                    if match is None:
                        landing.skipped += 1
                    else:
                        yield match.groupdict()

        return columns, rows()

    return read


def _by_json(fields: dict[str, str]) -> Any:
    def read(lines: Iterator[str], landing: Landing) -> tuple[list[str] | None, Iterator[dict[str, Any]]]:
        def rows() -> Iterator[dict[str, Any]]:
            for line in lines:
                row = _row_of(line, fields)
                if row is None:
                    landing.skipped += 1
                else:
                    yield row

        return list(fields) or None, rows()

    return read


def _row_of(line: str, fields: dict[str, str]) -> dict[str, Any] | None:
    try:
        said = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if not isinstance(said, dict) or not fields:
        return said if isinstance(said, dict) and said else None
    row = {column: _at(said, path.split(".")) for column, path in fields.items()}
    return None if any(value is None for value in row.values()) else row


def _at(said: Any, path: Sequence[str]) -> Any:
    for part in path:
        if isinstance(said, dict):
            said = said.get(part)
        elif isinstance(said, list) and part.isdigit() and int(part) < len(said):
            said = said[int(part)]
        else:
            return None
    return said


def _lines(file: BinaryIO, landing: Landing) -> Iterator[str]:
    """Lines of text; those that are too long are skipped and counted."""
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        return
    while raw := file.readline(MAX_LINE_BYTES):
        if len(raw) == MAX_LINE_BYTES and not raw.endswith(b"\n"):
            while raw and not raw.endswith(b"\n"):
                raw = file.readline(MAX_LINE_BYTES)
            landing.skipped += 1
            continue
        text = raw.decode("utf-8", "replace").strip("\r\n")
        if text.strip():
            yield text
