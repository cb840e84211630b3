"""How a row of canonical Parquet is read as a prompt and its answers: the one meaning that all who look at it share."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from finery_contracts.errors import InvalidRequest
from finery_contracts.labelling import LabelMode

Messages = list[dict[str, Any]]
COLUMNS = ("messages", "tools", "chosen", "rejected")
"""What ``shown`` looks at; a file may lack some."""
_SPOKEN = ("role", "content", "name", "tool_call_id")


@dataclass(frozen=True)
class Shown:
    """A prompt and its answers in the order of the dataset: none to write, one to like, two to compare."""

    prompt: Messages
    answers: tuple[Messages, ...]
    tools: list[dict[str, Any]]


def shown(row: Mapping[str, Any] | None, other: Mapping[str, Any] | None, mode: LabelMode, *, place: int = 0) -> Shown:
    """A record as prompt and answers.

    Raises:
        InvalidRequest: code ``dataset_kind_unfit``.
    """
    if row is None:
        raise _unfit(place, "is not there", "both datasets must have the same prompts in the same order")
    messages, chosen, rejected = (_turns(row, name) for name in ("messages", "chosen", "rejected"))
    tools: list[dict[str, Any]] = json.loads(row["tools"]) if row.get("tools") else []
    if mode is LabelMode.PAIR and other is None:
        if not chosen or not rejected:
            raise _unfit(place, "has no two answers", "give a dataset of preferences, or a second dataset: against")
        return Shown(messages, (chosen, rejected), tools)
    prompt, answer = _split(messages)
    if mode is LabelMode.WRITE and prompt:
        return Shown(prompt, (), tools)
    if not prompt or not answer:
        raise _unfit(place, "has no answer of the assistant at its end", "give a dataset of conversations")
    if mode is LabelMode.LIKE:
        return Shown(prompt, (answer,), tools)
    theirs, second = _split(_turns(other or {}, "messages"))
    if theirs != prompt or not second:
        raise _unfit(place, "has another prompt in the second dataset", "both must have the same prompts in one order")
    return Shown(prompt, (answer, second), tools)


def _split(messages: Messages) -> tuple[Messages, Messages]:
    """The prompt, and the assistant's turn at the end."""
    if messages and messages[-1]["role"] == "assistant":
        return messages[:-1], messages[-1:]
    return messages, []


def _turns(row: Mapping[str, Any], column: str) -> Messages:
    turns: Messages = row.get(column) or []
    return [_message(turn) for turn in turns]


def _message(fields: Mapping[str, Any]) -> dict[str, Any]:
    message = {
        name: fields[name] for name in ("role", "content", "name", "tool_call_id") if fields.get(name) is not None
    }
    return message | ({"tool_calls": json.loads(fields["tool_calls"])} if fields.get("tool_calls") else {})


def _unfit(place: int, what: str, remedy: str) -> InvalidRequest:
    return InvalidRequest(f"record {place} of the dataset {what}; {remedy}", code="dataset_kind_unfit", param="dataset")
