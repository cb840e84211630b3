"""Reads canonical Parquet, the one form that people's data has inside Finery, as typed conversations.

It refuses files of another form; judging people's own files is the work of ingest.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from finery_contracts.errors import DataInvalid

_BATCH_ROWS = 512
_COLUMNS = ("messages", "tools", "line")


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


def read_conversations(path: Path, *, limit: int | None = None) -> Iterator[list[Conversation]]:
    """The first ``limit`` records of a canonical Parquet file, in batches of at most 512.

    Raises DataInvalid ``canonical_file_unreadable`` when the file is not canonical Parquet.
    """
    taken = 0
    try:
        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches(_BATCH_ROWS, columns=_present_columns(file)):
                rows = batch.to_pylist()
                if limit is not None:
                    rows = rows[: limit - taken]
                taken += len(rows)
                yield [conversation_of(row) for row in rows]
                if taken == limit:
                    return
    except (pa.ArrowException, OSError, KeyError, TypeError, ValueError) as fault:
        raise DataInvalid(
            f"{path.name} cannot be read as canonical Parquet ({fault}); ingest the data set again.",
            code="canonical_file_unreadable",
            param=path.name,
        ) from fault


def conversation_of(row: dict[str, Any]) -> Conversation:
    """A canonical record as Arrow gives it."""
    return Conversation(
        line=row["line"],
        messages=tuple(_message_of(message) for message in row["messages"]),
        tools=tuple(json.loads(row["tools"])) if row.get("tools") else (),
    )


def _present_columns(file: pq.ParquetFile) -> list[str]:
    return [column for column in _COLUMNS if column in file.schema_arrow.names]


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
