"""Alpaca: ``{"instruction", "input", "output"}``, with a system text and a history where they are given."""

from __future__ import annotations

from typing import Any

from finery_dataset_ingest.engine.fields import any_text, filled_text, object_of, required, system_turns
from finery_dataset_ingest.engine.messages import kind_of
from finery_dataset_ingest.engine.samples import Turn, Wrong

KEYS = frozenset({"instruction", "input", "output", "system", "history"})
_SHAPE = '{"instruction": …, "input": …, "output": …}'


def alpaca_turns(record: Any) -> list[Turn]:
    """The conversation; instruction and input are one message, a line feed between them. Raises Wrong."""
    record = object_of(record, _SHAPE)
    asked, answered = instruction_of(record), filled_text(required(record, "output"), "output")
    return [*system_turns(record), *_history(record.get("history")), asked, Turn("assistant", answered)]


def instruction_of(record: dict[str, Any]) -> Turn:
    """The user's message. Raises Wrong."""
    instruction = filled_text(required(record, "instruction"), "instruction")
    given = "" if record.get("input") is None else any_text(record["input"], "input")
    return Turn("user", f"{instruction}\n{given}" if given.strip() else instruction)


def _history(value: Any) -> list[Turn]:
    if value is None:
        return []
    if not isinstance(value, list):
        reason = f"history is {kind_of(value)}"
        raise Wrong("history", "history_invalid", reason=reason, remedy="give a list of [question, answer] pairs")
    turns = []
    for index, pair in enumerate(value):
        where = f"history[{index}]"
        if not isinstance(pair, list) or len(pair) != 2:
            raise Wrong(where, "history_invalid", reason=f"{where} is no pair", remedy="give [question, answer]")
        question, reply = (filled_text(said, f"{where}[{side}]") for side, said in enumerate(pair))
        turns += [Turn("user", question), Turn("assistant", reply)]
    return turns
