"""Preference pairs: ``{"prompt", "chosen", "rejected"}``, each a text or messages; and as OpenAI's preference tuning
takes them: ``{"input": {"messages"}, "preferred_output", "non_preferred_output"}``.

Without a prompt, what both conversations begin with is the prompt; two bare texts have no such border, unless they are
written as a dialogue of ``Human:`` and ``Assistant:``.
"""

from __future__ import annotations

import re
from typing import Any

from finery_dataset_ingest.engine.fields import (
    checked_turns,
    filled_text,
    object_of,
    prompt_turns,
    required,
    system_turns,
)
from finery_dataset_ingest.engine.formats.alpaca import instruction_of
from finery_dataset_ingest.engine.formats.sharegpt import said_turn, said_turns
from finery_dataset_ingest.engine.messages import kind_of, tools_of
from finery_dataset_ingest.engine.samples import Turn, Wrong

SIDES, OPENAI_SIDES = ("chosen", "rejected"), ("preferred_output", "non_preferred_output")
KEYS = frozenset({"prompt", "system", "question", "instruction", "input", "conversations", *SIDES, *OPENAI_SIDES})
_SHAPE = '{"prompt": …, "chosen": …, "rejected": …}'
_SPEAKER = re.compile(r"(?:^|\n\n)(Human|Assistant):[ ]?")
_NAMES = {"Human": "user", "Assistant": "assistant"}


def fits(record: dict[str, Any]) -> bool:
    """Two answers are there."""
    return all(name in record for name in sides_of(record))


def sides_of(record: dict[str, Any]) -> tuple[str, str]:
    """What the two answers are called: the better one, the other one."""
    return OPENAI_SIDES if OPENAI_SIDES[0] in record else SIDES


def pair_tools(record: dict[str, Any]) -> str | None:
    """The tools that OpenAI's form carries beside the prompt. Raises Wrong."""
    given = record.get("input")
    return tools_of(given.get("tools")) if sides_of(record) is OPENAI_SIDES and isinstance(given, dict) else None


def pair_turns(record: Any) -> tuple[list[Turn], list[Turn], list[Turn]]:
    """Prompt, chosen, rejected. Raises Wrong."""
    record = object_of(record, _SHAPE)
    prompt = _prompt(record)
    better, worse = sides_of(record)
    chosen, rejected = (_side(required(record, name), name) for name in (better, worse))
    if prompt is None or chosen[0].role != "assistant":
        shared = _shared(chosen, rejected)
        if prompt is not None and _said(shared)[-len(prompt) :] != _said(prompt):
            reason, remedy = "chosen and rejected begin with another prompt than prompt", "give the answers alone"
            raise Wrong("prompt", "prompt_contradicted", reason=reason, remedy=remedy)
        prompt = shared
        chosen, rejected = chosen[len(shared) :], rejected[len(shared) :]
    for name, side in ((better, chosen), (worse, rejected)):
        if not side or side[-1].role != "assistant" or side[0].role in ("user", "system"):
            reason, remedy = f"{name} is no answer to the prompt", "let it hold the assistant's answer, and no more"
            raise Wrong(name, f"{name}_no_answer", reason=reason, remedy=remedy)
    if chosen == rejected:
        remedy = "give two different answers or remove the record"
        raise Wrong(worse, "preference_equal", reason=f"{better} and {worse} are the same", remedy=remedy)
    return [*system_turns(record), *prompt], chosen, rejected


def _prompt(record: dict[str, Any]) -> list[Turn] | None:
    if sides_of(record) is OPENAI_SIDES:
        given = required(record, "input")
        if not isinstance(given, dict) or "messages" not in given:
            remedy = 'write "input": {"messages": […]}'
            raise Wrong("input", "prompt_missing", reason="input holds no messages", remedy=remedy)
        return prompt_turns(given["messages"], "input.messages")
    for key in ("prompt", "question"):
        if record.get(key) is not None:
            return prompt_turns(record[key], key)
    if "instruction" in record:
        return [instruction_of(record)]
    if "conversations" in record:
        return said_turns(record["conversations"], "conversations")
    return None


def _side(value: Any, name: str) -> list[Turn]:
    """An answer as turns; a text is the assistant's, unless it is a written dialogue."""
    if isinstance(value, str):
        text = filled_text(value, name)
        return _dialogue(text, name) if text.startswith("\n\nHuman:") else [Turn("assistant", text)]
    if isinstance(value, dict):
        value = [value]
    if not isinstance(value, list):
        raise Wrong(name, "content_wrong_type", reason=f"{name} is {kind_of(value)}", remedy="give a text or messages")
    if value and isinstance(value[0], dict) and "from" in value[0]:
        return [said_turn(message, f"{name}[{index}]", before=[]) for index, message in enumerate(value)]
    return checked_turns(value, name)


def _dialogue(text: str, name: str) -> list[Turn]:
    parts = _SPEAKER.split(text)[1:]
    speakers, texts = parts[::2], parts[1::2]
    return [
        Turn(_NAMES[speaker], filled_text(said, f"{name}[{index}]"))
        for index, (speaker, said) in enumerate(zip(speakers, texts, strict=True))
    ]


def _shared(chosen: list[Turn], rejected: list[Turn]) -> list[Turn]:
    """What both begin with, up to a message of the user; the answers follow."""
    count = 0
    while count < min(len(chosen), len(rejected)) and chosen[count] == rejected[count]:
        count += 1
    while count and chosen[count - 1].role not in ("user", "tool"):
        count -= 1
    if count:
        return chosen[:count]
    reason = "the record has no prompt, and chosen and rejected begin with nothing they share"
    raise Wrong("prompt", "prompt_missing", reason=reason, remedy=f"write {_SHAPE}")


def _said(turns: list[Turn]) -> list[tuple[str, str]]:
    return [(turn.role, turn.content) for turn in turns]
