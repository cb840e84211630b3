"""The texts of records, column by column: what a step looks at, and how one that changes texts puts them back."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from finery_contracts.cleansing import Part
from finery_dataset_ingest.engine.canonical import MESSAGE

_LISTS = ("messages", "chosen", "rejected")
_HAN = "\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003134f"
HAN = re.compile(f"[{_HAN}]")
WORDS = re.compile(f"[{_HAN}\u3040-\u30ff\uac00-\ud7af]|[^\\W_{_HAN}\u3040-\u30ff\uac00-\ud7af]+")
"""A word of letters and digits; each Chinese, Japanese or Korean character is one by itself."""


def texts_of(batch: pa.RecordBatch, part: Part = "record", *, joint: str = "\n", calls: bool = True) -> list[str]:
    """One text a record, its messages joined. ``prompt`` is what stands before the last answer, ``answer`` the last
    answer (of a preference the chosen one, of plain text all of it). ``calls``: with its tool calls."""
    if part == "record":
        return _whole(batch, joint, calls=calls)
    pairs = [tuple(map(joint.join, _sides(*row))) for row in zip(*_columns(batch), strict=True)]
    return [pair[part == "answer"] for pair in pairs]


def normalised(text: str) -> str:
    """Without differences of case, width and white space."""
    if not text.isascii():
        text = unicodedata.normalize("NFKC", text)
    return " ".join(text.casefold().split())


def without_system(batch: pa.RecordBatch) -> pa.RecordBatch:
    """The same records without the system's messages."""
    column = batch.column("messages")
    turns, rows = column.flatten(), pc.list_parent_indices(column).to_numpy()
    said = pc.not_equal(pc.struct_field(turns, "role"), "system")
    if not len(turns) or pc.all(said).as_py():
        return batch
    lengths = np.bincount(rows[said.to_numpy(zero_copy_only=False)], minlength=batch.num_rows)
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
    place = batch.schema.get_field_index("messages")
    kept = pa.ListArray.from_arrays(pa.array(offsets), turns.filter(said), type=column.type)
    return batch.set_column(place, batch.schema.field(place), kept)


def turns_of(batch: pa.RecordBatch, role: str | None = None) -> list[int]:
    """How many messages each record has, of one role or of all."""
    column = batch.column("messages")
    if role is None:
        return pc.list_value_length(column).to_pylist()
    return [sum(turn["role"] == role for turn in turns) for turns in column.to_pylist()]


def with_texts(
    batch: pa.RecordBatch, change: Callable[[str, int], str], *, json_change: Callable[[str, int], str] | None = None
) -> pa.RecordBatch:
    """The batch with every text replaced by ``change(text, row)``; ``json_change`` does the same for JSON texts."""
    arrays = dict(zip(batch.schema.names, batch.columns, strict=True))
    for name in _LISTS:
        arrays[name] = _changed_list(batch.column(name), change, json_change)
    for name in ("answer", "text"):
        arrays[name] = _changed(batch.column(name), range(batch.num_rows), change)
    if json_change is not None:
        arrays["tools"] = _changed(batch.column("tools"), range(batch.num_rows), json_change)
    return pa.record_batch([arrays[name] for name in batch.schema.names], schema=batch.schema)


def _whole(batch: pa.RecordBatch, joint: str, *, calls: bool) -> list[str]:
    parts = [[] if text is None else [text] for text in batch.column("text").to_pylist()]
    for name in _LISTS:
        column = batch.column(name)
        contents = pc.struct_field(column.flatten(), "content").to_pylist()
        called = pc.struct_field(column.flatten(), "tool_calls")
        said = called.to_pylist() if calls and called.null_count < len(called) else [None] * len(contents)
        for row, content, call in zip(pc.list_parent_indices(column).to_pylist(), contents, said, strict=True):
            parts[row] += [content] if call is None else [content, call]
    for row, answer in enumerate(batch.column("answer").to_pylist()):
        if answer is not None:
            parts[row].append(answer)
    return [joint.join(part) for part in parts]


def _columns(batch: pa.RecordBatch) -> list[list[Any]]:
    return [batch.column(name).to_pylist() for name in ("messages", "chosen", "answer", "text")]


def _sides(
    messages: list[dict[str, str]], chosen: list[dict[str, str]] | None, answer: str | None, text: str | None
) -> tuple[list[str], list[str]]:
    said = [message["content"] for message in messages]
    if chosen is not None:
        return said, [message["content"] for message in chosen]
    if answer is not None:
        return said, [answer]
    if text is not None:
        return said, [text]
    last = next((n for n in range(len(messages) - 1, -1, -1) if messages[n]["role"] == "assistant"), len(messages))
    return said[:last], said[last : last + 1]


def _changed_list(
    column: pa.Array, change: Callable[[str, int], str], json_change: Callable[[str, int], str] | None
) -> pa.Array:
    turns = column.flatten()
    if not len(turns):
        return column
    rows = pc.list_parent_indices(column).to_pylist()
    fields = {field.name: pc.struct_field(turns, field.name) for field in MESSAGE}
    fields["content"] = _changed(fields["content"], rows, change)
    if json_change is not None:
        fields["tool_calls"] = _changed(fields["tool_calls"], rows, json_change)
    new = pa.StructArray.from_arrays([fields[field.name] for field in MESSAGE], fields=list(MESSAGE))
    lengths = pc.fill_null(pc.list_value_length(column), 0).to_numpy(zero_copy_only=False)
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
    missing = pc.is_null(column) if column.null_count else None
    return pa.ListArray.from_arrays(pa.array(offsets), new, mask=missing)


def _changed(column: pa.Array, rows: object, change: Callable[[str, int], str]) -> pa.Array:
    if column.null_count == len(column):
        return column
    values = [
        None if text is None else change(text, row)
        for text, row in zip(column.to_pylist(), rows, strict=True)  # type: ignore[call-overload]
    ]
    return pa.array(values, pa.string())
