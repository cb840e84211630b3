"""Plain text for pre-training: ``{"text": …}`` a record, or a text file in which an empty line ends a document.

A paragraph is a document: a file of ten gigabytes then needs the memory of one, and nobody has to write separators.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, BinaryIO

from finery_dataset_ingest.engine.fields import filled_text, object_of, required
from finery_dataset_ingest.engine.lines import read_lines
from finery_dataset_ingest.engine.samples import MAX_RECORD, Fault, Flawed, Place, Sample

KEYS = frozenset({"text"})


def text_of(record: Any) -> str:
    """The document. Raises Wrong."""
    record = object_of(record, '{"text": …}')
    return filled_text(required(record, "text"), "text")


def read_text(file: BinaryIO) -> Iterator[Sample | Flawed]:
    """One document a paragraph, at the line where it begins."""
    held: list[str] = []
    first, length, faults = 0, 0, list[Fault]()
    for line in read_lines(file):
        first = first if held or faults else line.number
        if line.fault is not None:
            faults.append(line.fault)
        elif not line.text.strip():
            yield from _document(held, first, faults)
            held, faults, length = [], [], 0
            continue
        length += len(line.text)
        if length <= MAX_RECORD:
            held.append(line.text)
        elif not faults or faults[-1].code != "record_too_long":
            reason, remedy = f"the paragraph is longer than {MAX_RECORD} characters", "divide it by empty lines"
            faults.append(Fault(Place(line=line.number), code="record_too_long", reason=reason, remedy=remedy))
    yield from _document(held, first, faults)


def _document(held: list[str], first: int, faults: list[Fault]) -> Iterator[Sample | Flawed]:
    if faults:
        yield Flawed(tuple(faults[:20]))
        return
    if not held:
        return
    text = "".join(held).strip("\r\n")
    if "\0" in text:
        reason, remedy = "the paragraph holds a NUL byte", "remove it; a document is text"
        yield Flawed((Fault(Place(line=first), code="nul_byte", reason=reason, remedy=remedy),))
    elif text.strip():
        yield Sample(Place(line=first), (), text=text)
