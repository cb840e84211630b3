"""Missing values: a side that says nothing, a field that was asked for and is not there."""

from __future__ import annotations

from typing import Any

import pyarrow as pa

from finery_contracts.cleansing import Missing
from finery_dataset_ingest.engine.steps.texts import normalised
from finery_dataset_ingest.engine.steps.verdicts import Judge, Judged, Why
from finery_dataset_ingest.engine.tables import rows_of


def missing_judge(step: Missing) -> Judge:
    """Which sides a record needs follows from what it is: a preference needs both answers, plain text its text."""
    nothing = {normalised(word) for word in step.placeholders} | {""}

    def says_nothing(text: str | None) -> bool:
        return normalised(text or "") in nothing

    def silent(turn: dict[str, Any]) -> bool:
        return says_nothing(turn["content"]) and not turn["tool_calls"]

    def faults(record: dict[str, Any]) -> list[str]:
        if record["text"] is not None and not record["messages"]:
            return ["text"] if says_nothing(record["text"]) else []
        found = [f"messages[{n}].content" for n, turn in enumerate(record["messages"]) if silent(turn)]
        roles = {turn["role"] for turn in record["messages"]}
        found += [] if "user" in roles else ["a user's message"]
        if record["chosen"] is not None or record["rejected"] is not None:
            sides = ("chosen", "rejected")
            return found + [side for side in sides if not record[side] or all(map(silent, record[side]))]
        if record["answer"] is not None:
            return found + (["answer"] if says_nothing(record["answer"]) else [])
        return found + ([] if "assistant" in roles else ["an assistant's message"])

    def judge(batch: pa.RecordBatch) -> Judged:
        removed = dict[int, Why]()
        for row, record in enumerate(rows_of(batch)):
            empty = faults(record)
            absent = [field for field in step.fields if _lacks(record, field)]
            if empty:
                removed[row] = Why("empty_side", ", ".join(empty[:5]))
            elif absent:
                removed[row] = Why("missing_field", ", ".join(absent))
        return Judged(batch, removed)

    return judge


def _lacks(record: dict[str, Any], field: str) -> bool:
    if field == "system":
        return not any(turn["role"] == "system" and turn["content"].strip() for turn in record["messages"])
    value = record[field]
    return value is None or (isinstance(value, str) and not value.strip())
