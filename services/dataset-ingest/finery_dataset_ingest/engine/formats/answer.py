"""Prompts with an answer that a program can verify: ``{"prompt", "answer"}``, ``{"question", "answer"}`` or messages.

The answer is kept word for word (GSM8K's with its steps): taking the number out is the reward function's work.
"""

from __future__ import annotations

from typing import Any

from finery_dataset_ingest.engine.fields import filled_text, object_of, prompt_turns, required, system_turns
from finery_dataset_ingest.engine.samples import Turn, Wrong

KEYS = frozenset({"prompt", "question", "messages", "answer", "system"})
_SHAPE = '{"prompt": …, "answer": …}'


def answer_turns(record: Any) -> tuple[list[Turn], str]:
    """The prompt and the answer; a number is written as JSON writes it. Raises Wrong."""
    record = object_of(record, _SHAPE)
    answer = required(record, "answer")
    text = repr(answer) if type(answer) in (int, float) else filled_text(answer, "answer")
    named = [key for key in ("prompt", "question", "messages") if record.get(key) is not None]
    if len(named) > 1:
        reason = f"the record has {' and '.join(named)}, so which is the prompt is not certain"
        raise Wrong(named[1], "prompt_ambiguous", reason=reason, remedy="keep one of them")
    key = named[0] if named else "prompt"
    return [*system_turns(record), *prompt_turns(required(record, key), key)], text
