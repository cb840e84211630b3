"""MOSS as published: ``{"conversation_id", "chat": {"turn_1": {"Human", "MOSS"}, …}}``.

It takes markers off where both stand in their places, and puts turns in the order of their numbers; what would need a
guess (a turn missing, a tool that was used, half a marker) is refused.
"""

from __future__ import annotations

import re
from typing import Any

from finery_dataset_ingest.engine.fields import filled_text, object_of, required, system_turns
from finery_dataset_ingest.engine.messages import kind_of, shown
from finery_dataset_ingest.engine.samples import Turn, Wrong

KEYS = frozenset({"conversation_id", "chat", "meta_instruction", "num_turns"})
MAX_TURNS = 1_024
_SHAPE = '{"conversation_id": …, "chat": {"turn_1": {"Human": …, "MOSS": …}}}'
_TURN = re.compile(r"turn_([1-9][0-9]{0,5})")
_MARKED = {
    "Human": re.compile(r"\s*<\|Human\|>\s*:?(.*?)<eoh>\s*", re.DOTALL),
    "MOSS": re.compile(r"\s*<\|MOSS\|>\s*:?(.*?)<(?:eom|eot|eoa)>\s*", re.DOTALL),
}
_ANY_MARK = re.compile(r"<\|(?:Human|MOSS|Inner Thoughts|Commands|Results)\|>|<eo[hmtacr]>")
_UNUSED = re.compile(r"\s*(?:<\|[A-Za-z ]+\|>\s*:?)?\s*(?:None)?\s*(?:<eo[a-z]>)?\s*")
_EXTRAS = ("Inner Thoughts", "Commands", "Tool Responses", "Results")


def moss_turns(record: Any) -> list[Turn]:
    """The conversation. Raises Wrong."""
    record = object_of(record, _SHAPE)
    _check_id(required(record, "conversation_id"))
    chat = required(record, "chat")
    if not isinstance(chat, dict) or not chat:
        reason = f"chat is {'empty' if chat == {} else kind_of(chat)}"
        raise Wrong("chat", "chat_invalid", reason=reason, remedy=f"write {_SHAPE}")
    turns = system_turns(record, "meta_instruction")
    for key in _in_order(chat, record.get("num_turns")):
        turns += _pair_of(chat[key], f"chat.{key}")
    return turns


def _check_id(value: Any) -> None:
    """Whole numbers and texts tell conversations apart; nothing else does with certainty."""
    if (type(value) is int) or (isinstance(value, str) and value.strip()):
        return
    reason, remedy = f"conversation_id is {shown(value)}", "give a whole number or a text"
    raise Wrong("conversation_id", "conversation_id_invalid", reason=reason, remedy=remedy)


def _in_order(chat: dict[str, Any], stated: Any) -> list[str]:
    """Names of the turns by their numbers, which must run from 1 without a gap."""
    numbered: dict[int, str] = {}
    for key in chat:
        found = _TURN.fullmatch(key)
        if found is None:
            reason, remedy = f"chat has the unknown key {key[:100]!r}", "name the turns turn_1, turn_2, …"
            raise Wrong(f"chat.{key[:100]}", "unknown_key", reason=reason, remedy=remedy)
        numbered[int(found[1])] = key
    if len(numbered) > MAX_TURNS:
        reason = f"there are {len(numbered)} turns; at most {MAX_TURNS} are read"
        raise Wrong("chat", "too_many_messages", reason=reason, remedy="split the conversation")
    for number in range(1, len(numbered) + 1):
        if number not in numbered:
            where, remedy = f"chat.turn_{number}", "add the turn, or number the turns without a gap"
            raise Wrong(where, "turn_missing", reason=f"turn_{number} is missing", remedy=remedy)
    if stated is not None and stated != len(numbered):
        reason = f"num_turns is {shown(stated)}, but chat has {len(numbered)}"
        raise Wrong("num_turns", "num_turns_wrong", reason=reason, remedy="add the missing turns or correct num_turns")
    return [numbered[number] for number in sorted(numbered)]


def _pair_of(turn: Any, where: str) -> list[Turn]:
    if not isinstance(turn, dict):
        reason = f"{where} is {kind_of(turn)}, not an object"
        raise Wrong(where, "turn_not_an_object", reason=reason, remedy='write {"Human": …, "MOSS": …}')
    for key, value in turn.items():
        if key in _MARKED or value is None:
            continue
        if key not in _EXTRAS:
            reason, remedy = f"{where} has the unknown key {key[:100]!r}", "remove it"
            raise Wrong(f"{where}.{key[:100]}", "unknown_key", reason=reason, remedy=remedy)
        if not (isinstance(value, str) and _UNUSED.fullmatch(value)):
            reason = f"{where}.{key} says that a tool was used or thought of, which no plain message can hold"
            remedy = "write the conversation as OpenAI messages with tool calls, or set the key to None"
            raise Wrong(f"{where}.{key}", "turn_uses_tools", reason=reason, remedy=remedy)
    return [
        Turn("user", _said(turn, "Human", where)),
        Turn("assistant", _said(turn, "MOSS", where)),
    ]


def _said(turn: dict[str, Any], key: str, where: str) -> str:
    field = f"{where}.{key}"
    if key not in turn:
        raise Wrong(field, "content_wrong_type", reason=f"{field} is missing", remedy="give both Human and MOSS")
    text = filled_text(turn[key], field)
    if _ANY_MARK.search(text) is None:
        return text
    found = _MARKED[key].fullmatch(text)
    inner = found[1].strip() if found is not None else text
    if found is None or _ANY_MARK.search(inner) is not None:
        reason = f"{field} holds markers that do not enclose it, so where it begins and ends is not certain"
        remedy = "write the text alone, or between one pair of its own markers"
        raise Wrong(field, "marker_unbalanced", reason=reason, remedy=remedy)
    return filled_text(inner, field)
