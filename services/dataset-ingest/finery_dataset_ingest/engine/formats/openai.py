"""OpenAI's messages, as lines of JSON (``.jsonl``) or as one array (``.json``)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import BinaryIO

from finery_dataset_ingest.engine.json_text import parse, read_array
from finery_dataset_ingest.engine.lines import read_lines
from finery_dataset_ingest.engine.messages import sample_of
from finery_dataset_ingest.engine.samples import Fault, Flawed, Place, Sample


def read_openai_lines(file: BinaryIO) -> Iterator[Sample | Flawed]:
    """One record a line; empty lines are skipped."""
    for line in read_lines(file):
        if line.fault is not None:
            yield Flawed((line.fault,))
            continue
        text = line.text.strip()
        if not text:
            continue
        place = Place(line=line.number)
        value = parse(text, place)
        yield Flawed((value,)) if isinstance(value, Fault) else sample_of(value, place)


def read_openai_array(file: BinaryIO) -> Iterator[Sample | Flawed]:
    """One record an element; raises FileUnreadable where the array breaks off."""
    for place, value in read_array(file):
        yield Flawed((value,)) if isinstance(value, Fault) else sample_of(value, place)
