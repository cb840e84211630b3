"""Physical lines of a file of people's data, one at a time, never more than a record's limit in memory."""

from __future__ import annotations

from collections.abc import Iterator
from typing import BinaryIO, NamedTuple

from finery_dataset_ingest.engine.samples import MAX_RECORD, Fault, Place

BOM = b"\xef\xbb\xbf"


class Line(NamedTuple):
    """One line with its ending; text that could not be decoded holds replacement characters and a fault says so."""

    number: int
    text: str
    fault: Fault | None = None


def read_lines(file: BinaryIO) -> Iterator[Line]:
    """Lines end with a line feed; a byte order mark at the start is dropped; a too long line comes back cut."""
    number = 0
    while raw := file.readline(MAX_RECORD + 1):
        number += 1
        if number == 1:
            raw = raw.removeprefix(BOM)
        if len(raw) > MAX_RECORD:
            skip_rest(file, raw)
            yield Line(number, "", _too_long(number))
            continue
        try:
            yield Line(number, raw.decode("utf-8"))
        except UnicodeDecodeError as fault:
            yield Line(number, raw.decode("utf-8", errors="replace"), not_utf8(number, fault))


def not_utf8(line: int, fault: UnicodeDecodeError) -> Fault:
    """The fault ``invalid_utf8`` of a line."""
    return Fault(
        Place(line=line),
        code="invalid_utf8",
        reason=f"byte {fault.start + 1} of the line (0x{fault.object[fault.start]:02x}) is not UTF-8",
        remedy="save the file as UTF-8",
    )


def _too_long(line: int) -> Fault:
    return Fault(
        Place(line=line),
        code="record_too_long",
        reason=f"the line is longer than {MAX_RECORD} bytes",
        remedy="split the record, or put each record on a line of its own",
    )


def skip_rest(file: BinaryIO, raw: bytes) -> None:
    """Read on to the end of the line that ``raw`` is the beginning of."""
    while raw and not raw.endswith(b"\n"):
        raw = file.readline(MAX_RECORD)
