"""Like and dislike (KTO): ``{"prompt", "completion", "label"}``; the label is true or false and nothing like it."""

from __future__ import annotations

from typing import Any

from finery_dataset_ingest.engine.fields import (
    checked_turns,
    filled_text,
    object_of,
    prompt_turns,
    required,
    system_turns,
)
from finery_dataset_ingest.engine.messages import shown
from finery_dataset_ingest.engine.samples import Turn, Wrong

KEYS = frozenset({"prompt", "completion", "label", "system", "messages"})
_SHAPE = '{"prompt": …, "completion": …, "label": true}'


def feedback_turns(record: Any) -> tuple[list[Turn], bool]:
    """The conversation with the answer that was judged at its end, and the verdict. Raises Wrong."""
    record = object_of(record, _SHAPE)
    label = required(record, "label")
    if not isinstance(label, bool):
        raise Wrong("label", "label_invalid", reason=f"label is {shown(label)}", remedy="use true or false")
    if "prompt" not in record and "messages" in record:
        return checked_turns(record["messages"], "messages"), label
    prompt = prompt_turns(required(record, "prompt"), "prompt")
    return [*system_turns(record), *prompt, *_completion(required(record, "completion"))], label


def _completion(value: Any) -> list[Turn]:
    if isinstance(value, str):
        return [Turn("assistant", filled_text(value, "completion"))]
    return checked_turns([value] if isinstance(value, dict) else value, "completion")
