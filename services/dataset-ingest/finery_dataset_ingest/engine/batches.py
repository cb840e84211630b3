"""The fast way through lines of OpenAI messages: two megabytes at a time straight into columns, by Arrow's parser.

It only ever says "these are all plain and good"; of any other block each line is judged by the careful way, which alone
knows reasons. So a fault has the same words whichever way a file took.
"""

from __future__ import annotations

import io
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from typing import BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.json as pj

from finery_dataset_ingest.engine.canonical import MESSAGE, whole_batch
from finery_dataset_ingest.engine.json_text import parse
from finery_dataset_ingest.engine.lines import BOM, read_lines, skip_rest
from finery_dataset_ingest.engine.messages import MAX_MESSAGES, sample_of
from finery_dataset_ingest.engine.samples import MAX_RECORD, Fault, Flawed, Place, Sample

_BLOCK_BYTES = 2**21
_SMALLEST_BYTES = 2**15
"""A block that is not all plain is halved down to here, so that one unusual line takes only its neighbours with it."""
_THREADS = 2
_PLAIN = pa.schema([("messages", pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())])))])
_PARSE = pj.ParseOptions(explicit_schema=_PLAIN, unexpected_field_behavior="error")
_LINE_FEED, _RETURN, _OPENING, _CLOSING = b"\n\r{}"
_Part = pa.RecordBatch | tuple[bytes, int]


def read_batches(file: BinaryIO) -> Iterator[Sample | Flawed | pa.RecordBatch]:
    """Columns where all is plain, else samples and flawed records; in the order of the file."""
    with ThreadPoolExecutor(_THREADS, thread_name_prefix="parse") as threads:
        waiting: deque[Future[list[_Part]]] = deque()
        try:
            for block, first in _blocks(file):
                waiting.append(threads.submit(_parts, block, first))
                if len(waiting) > _THREADS:
                    yield from _records(waiting.popleft().result())
            while waiting:
                yield from _records(waiting.popleft().result())
        finally:
            for pending in waiting:
                pending.cancel()


def plain_batch(block: bytes, first: int) -> pa.RecordBatch | None:
    """Whole lines as columns when each is a record that needs no second look; None when any is not.

    Each line must begin with { and end with }, and there must be as many records as lines: then none spans lines.
    """
    count = _whole_lines(block)
    if not count:
        return None
    try:
        options = pj.ReadOptions(use_threads=False, block_size=len(block) + 1)
        table = pj.read_json(pa.BufferReader(block), read_options=options, parse_options=_PARSE)
        records = table.column(0).combine_chunks()
        records = records.chunk(0) if isinstance(records, pa.ChunkedArray) else records
        if not block.isascii():
            records.validate(full=True)
    except pa.ArrowInvalid:
        return None
    if len(records) != count or not _is_plain(records):
        return None
    return _as_canonical(records, first)


def _whole_lines(block: bytes) -> int:
    """How many lines there are, if each is at least an object from its beginning to its end; else 0."""
    marks = np.frombuffer(block, np.uint8)
    ends = np.flatnonzero(marks == _LINE_FEED)
    last = marks[ends - 1]
    if (last == _RETURN).any():
        last = np.where(last == _RETURN, marks[ends - 2], last)
    if marks[0] != _OPENING or not (last == _CLOSING).all() or not (marks[ends[:-1] + 1] == _OPENING).all():
        return 0
    return len(ends)


def _is_plain(records: pa.ListArray) -> bool:
    """Known roles, texts with something in them, an answer last; nothing absent."""
    messages = records.values
    roles, contents = messages.field("role"), messages.field("content")
    if records.null_count or messages.null_count or roles.null_count or contents.null_count:
        return False
    counts = records.value_lengths()
    shortest = pc.min_max(counts).as_py()
    if not shortest["min"] or shortest["max"] > MAX_MESSAGES or not pc.all(pc.is_in(roles, _ROLES)).as_py():
        return False
    offsets = records.offsets
    ends = np.frombuffer(offsets.buffers()[1], np.int32)[offsets.offset + 1 : offsets.offset + len(offsets)]
    last = roles.take(_numbers(ends - 1))
    if not pc.all(pc.is_in(last, _ANSWERS)).as_py():
        return False
    empty = pc.or_(pc.is_in(contents, _NOTHING), pc.utf8_is_space(contents))
    return not pc.any(empty).as_py() or not pc.any(pc.and_(empty, pc.is_in(roles, _SPEAKERS))).as_py()


def _as_canonical(records: pa.ListArray, first: int) -> pa.RecordBatch:
    messages = records.values
    given = {"role": messages.field("role"), "content": messages.field("content")}
    columns = [given.get(part.name) for part in MESSAGE]
    whole = [
        column if column is not None else pa.nulls(len(messages), part.type)
        for column, part in zip(columns, MESSAGE, strict=True)
    ]
    turns = pa.ListArray.from_arrays(records.offsets, pa.StructArray.from_arrays(whole, fields=list(MESSAGE)))
    lines = _numbers(np.arange(first, first + len(records), dtype=np.int64))
    return whole_batch({"messages": turns, "line": lines}, len(records))


def _numbers(values: np.ndarray) -> pa.Array:
    """From its buffer: before it looks at Python's own lists and numbers Arrow imports pandas, for a quarter second."""
    return pa.Array.from_buffers(pa.from_numpy_dtype(values.dtype), len(values), [None, pa.py_buffer(values)])


def _texts(*texts: str) -> pa.StringArray:
    """Likewise."""
    ends = np.cumsum([0, *map(len, texts)], dtype=np.int32)
    return pa.StringArray.from_buffers(len(texts), pa.py_buffer(ends), pa.py_buffer("".join(texts).encode()))


_ROLES, _SPEAKERS = _texts("system", "user", "assistant"), _texts("user", "assistant")
_ANSWERS, _NOTHING = _texts("assistant"), _texts("")


def _blocks(file: BinaryIO) -> Iterator[tuple[bytes, int]]:
    """Whole lines, each block with the number of its first; a line too long to be a record stands at a block's end."""
    first = 1
    while block := file.read(_BLOCK_BYTES):
        if first == 1:
            block = block.removeprefix(BOM)
        if not block.endswith(b"\n"):
            block += file.readline(MAX_RECORD + 1)
        if not block.endswith(b"\n"):
            skip_rest(file, block)
            block += b"\n"
        yield block, first
        first += int(np.count_nonzero(np.frombuffer(block, np.uint8) == _LINE_FEED))


def _parts(block: bytes, first: int) -> list[_Part]:
    """The block as columns, or its halves; what stays bytes is for the careful way."""
    batch = plain_batch(block, first)
    if batch is not None:
        return [batch]
    middle = block.rfind(b"\n", 0, len(block) // 2) + 1
    if len(block) <= _SMALLEST_BYTES or not middle:
        return [(block, first)]
    head = block[:middle]
    return [*_parts(head, first), *_parts(block[middle:], first + head.count(b"\n"))]


def _records(parts: list[_Part]) -> Iterator[Sample | Flawed | pa.RecordBatch]:
    for part in parts:
        if isinstance(part, pa.RecordBatch):
            yield part
        else:
            yield from _carefully(*part)


def _carefully(block: bytes, first: int) -> Iterator[Sample | Flawed]:
    for line in read_lines(io.BytesIO(block)):
        place = Place(line=first + line.number - 1)
        if line.fault is not None:
            yield Flawed((replace(line.fault, place=place),))
        elif text := line.text.strip():
            value = parse(text, place)
            yield Flawed((value,)) if isinstance(value, Fault) else sample_of(value, place)
