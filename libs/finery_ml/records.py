"""Reads canonical Parquet, the one form that people's data has inside Finery: forms 1 and 2, as typed records.

It refuses files of another form, and records made for something else; judging people's own files is the work of ingest.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from finery_contracts.datasets import DataKind
from finery_contracts.errors import DataInvalid

_BATCH_ROWS = 512
_COLUMNS = ("messages", "tools", "line")
_ALL_COLUMNS = (*_COLUMNS, "chosen", "rejected", "label", "reward", "answer", "text", "source", "file")


@dataclass(frozen=True, slots=True)
class Message:
    """One turn; ``weight`` 0 on an assistant's turn means: show it, do not train on it."""

    role: str
    content: str
    name: str | None = None
    tool_calls: tuple[dict[str, Any], ...] = ()
    tool_call_id: str | None = None
    weight: int | None = None

    def for_template(self) -> dict[str, Any]:
        """This turn as chat templates expect it: arguments of tool calls are objects, absent fields are left out."""
        turn: dict[str, Any] = {"role": self.role, "content": self.content}
        if self.name is not None:
            turn["name"] = self.name
        if self.tool_calls:
            turn["tool_calls"] = [_with_object_arguments(call) for call in self.tool_calls]
        if self.tool_call_id is not None:
            turn["tool_call_id"] = self.tool_call_id
        return turn


@dataclass(frozen=True, slots=True)
class Conversation:
    """One record; ``line`` is its place in the file the user gave, 1-based."""

    line: int
    messages: tuple[Message, ...]
    tools: tuple[dict[str, Any], ...] = ()


@dataclass(frozen=True, slots=True)
class CanonicalRecord:
    """One record of any kind; which fields are set depends on it. ``messages`` is a preference's prompt."""

    line: int
    messages: tuple[Message, ...]
    tools: tuple[dict[str, Any], ...] = ()
    chosen: tuple[Message, ...] = ()
    rejected: tuple[Message, ...] = ()
    label: bool | None = None
    reward: float | None = None
    answer: str | None = None
    text: str | None = None
    source: str | None = None
    file: str | None = None


def read_conversations(path: Path, *, limit: int | None = None) -> Iterator[list[Conversation]]:
    """The first ``limit`` conversations of a canonical Parquet file, in batches of at most 512.

    Raises DataInvalid ``canonical_file_unreadable`` when the file is not canonical Parquet, ``dataset_kind_unfit`` when
    its records are no conversations.
    """
    kind = kind_of(path)
    if kind is not DataKind.MESSAGES:
        raise DataInvalid(
            f"{path.name} holds records of the kind {kind}; supervised fine-tuning and evaluation need messages.",
            code="dataset_kind_unfit",
            param=path.name,
        )
    for rows in _rows(path, _COLUMNS, limit):
        yield [conversation_of(row) for row in rows]


def read_records(path: Path, *, limit: int | None = None) -> Iterator[list[CanonicalRecord]]:
    """The first ``limit`` records of whatever kind, in batches of at most 512; see ``kind_of``.

    Raises DataInvalid ``canonical_file_unreadable`` when the file is not canonical Parquet.
    """
    for rows in _rows(path, _ALL_COLUMNS, limit):
        yield [_record_of(row) for row in rows]


def kind_of(path: Path) -> DataKind:
    """What the records are made for; form 1 knew messages alone. Raises DataInvalid ``canonical_file_unreadable``."""
    try:
        metadata = pq.read_schema(path).metadata or {}
        return DataKind(metadata.get(b"finery.kind", b"messages").decode())
    except (pa.ArrowException, OSError, ValueError) as fault:
        raise _unreadable(path, fault) from fault


def _rows(path: Path, columns: tuple[str, ...], limit: int | None) -> Iterator[list[dict[str, Any]]]:
    taken = 0
    try:
        with pq.ParquetFile(path) as file:
            if not {"messages", "line"} <= set(file.schema_arrow.names):
                raise ValueError("it lacks the columns messages and line")
            present = [column for column in columns if column in file.schema_arrow.names]
            for batch in file.iter_batches(_BATCH_ROWS, columns=present):
                rows = batch.to_pylist()
                if limit is not None:
                    rows = rows[: limit - taken]
                taken += len(rows)
                yield rows
                if taken == limit:
                    return
    except (pa.ArrowException, OSError, ValueError) as fault:
        raise _unreadable(path, fault) from fault


def _unreadable(path: Path, fault: Exception) -> DataInvalid:
    return DataInvalid(
        f"{path.name} cannot be read as canonical Parquet ({fault}); ingest the data set again.",
        code="canonical_file_unreadable",
        param=path.name,
    )


def conversation_of(row: dict[str, Any]) -> Conversation:
    """A canonical record as Arrow gives it."""
    return Conversation(
        line=row["line"],
        messages=tuple(_message_of(message) for message in row["messages"]),
        tools=tuple(json.loads(row["tools"])) if row.get("tools") else (),
    )


def _record_of(row: dict[str, Any]) -> CanonicalRecord:
    conversation = conversation_of(row)
    return CanonicalRecord(
        line=conversation.line,
        messages=conversation.messages,
        tools=conversation.tools,
        chosen=tuple(_message_of(message) for message in row.get("chosen") or ()),
        rejected=tuple(_message_of(message) for message in row.get("rejected") or ()),
        **{name: row.get(name) for name in ("label", "reward", "answer", "text", "source", "file")},
    )


def _message_of(fields: dict[str, Any]) -> Message:
    calls = fields.get("tool_calls")
    return Message(
        role=fields["role"],
        content=fields.get("content") or "",
        name=fields.get("name"),
        tool_calls=tuple(json.loads(calls)) if calls else (),
        tool_call_id=fields.get("tool_call_id"),
        weight=fields.get("weight"),
    )


def _with_object_arguments(call: dict[str, Any]) -> dict[str, Any]:
    function = call.get("function")
    if not isinstance(function, dict) or not isinstance(function.get("arguments"), str):
        return call
    try:
        arguments = json.loads(function["arguments"])
    except ValueError:
        return call
    return {**call, "function": {**function, "arguments": arguments}}
