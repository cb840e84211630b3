"""OpenAI's chat messages: one decoded record becomes a sample, or the list of all that is wrong with it.

Source of the shape: OpenAI's chat format for supervised fine-tuning. It refuses keys it does not know inside a
message, so that a misspelt ``tool_calls`` is not lost in silence.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from finery_dataset_ingest.engine.samples import Fault, Flawed, Place, Sample, Turn, Wrong

MAX_MESSAGES = 2_048
MAX_TOOLS = 128
_ROLES = {"system": "system", "developer": "system", "user": "user", "assistant": "assistant", "tool": "tool"}
"""Role in the file → canonical role: ``developer`` is OpenAI's newer name for ``system``; templates know the old."""
_EVERYWHERE = frozenset({"role", "content", "name"})
_KEYS = {
    "system": _EVERYWHERE,
    "user": _EVERYWHERE,
    "assistant": _EVERYWHERE | {"tool_calls", "weight", "refusal", "audio", "function_call"},
    "tool": _EVERYWHERE | {"tool_call_id"},
}
_MUST_BE_NULL = ("refusal", "audio", "function_call")
_TOP_KEYS = frozenset({"messages", "tools", "parallel_tool_calls"})
_MAX_FAULTS = 20
_PLAIN_ROLES = frozenset({"system", "user", "assistant"})
_SPEAKERS = ("user", "assistant")


def sample_of(record: Any, place: Place) -> Sample | Flawed:
    """The record as a sample, or up to 20 faults, each with its field."""
    faults: list[Fault] = []
    turns: list[Turn] = []
    tools = None
    try:
        turns, wrongs = turns_of(_messages_of(record), "messages")
        faults += [wrong.at(place) for wrong in wrongs]
        tools = tools_of(record.get("tools"))
        if not faults:
            check_order(turns, "messages")
    except Wrong as wrong:
        faults.append(wrong.at(place))
    if faults:
        return Flawed(tuple(faults[:_MAX_FAULTS]))
    ignored = tuple(record.keys() - _TOP_KEYS) if len(record) > 1 else ()
    return Sample(place, tuple(turns), tools, ignored)


def turns_of(messages: Any, field: str) -> tuple[list[Turn], list[Wrong]]:
    """Each message as a turn, and what is wrong with the others; raises Wrong when it is no list of messages."""
    if not isinstance(messages, list) or not messages:
        reason = f"{field} is {'an empty list' if messages == [] else kind_of(messages)}"
        raise Wrong(field, f"{field}_not_a_list", reason=reason, remedy="give a list of messages with role and content")
    if len(messages) > MAX_MESSAGES:
        reason = f"there are {len(messages)} messages; at most {MAX_MESSAGES} are read"
        raise Wrong(field, "too_many_messages", reason=reason, remedy="split the conversation")
    turns, wrongs = [], []
    for index, message in enumerate(messages):
        try:
            turns.append(_plain_turn(message) or _turn_of(message, f"{field}[{index}]"))
        except Wrong as wrong:
            wrongs.append(wrong)
    return turns, wrongs


def _messages_of(record: Any) -> Any:
    if not isinstance(record, dict):
        reason, remedy = f"the record is {kind_of(record)}, not an object", 'write {"messages": […]} for each record'
        raise Wrong("", "not_an_object", reason=reason, remedy=remedy)
    if "messages" not in record:
        raise Wrong(
            "messages",
            "messages_missing",
            reason=f"the record has no messages; its keys: {keys_of(record)}",
            remedy='write {"messages": [{"role": "user", "content": …}, {"role": "assistant", "content": …}]}',
        )
    return record["messages"]


def _plain_turn(message: Any) -> Turn | None:
    """The turn at once when nothing is to be judged, as with most messages: a role and a plain text, no more."""
    if type(message) is not dict or len(message) != 2:
        return None
    role, content = message.get("role"), message.get("content")
    if type(role) is not str or role not in _PLAIN_ROLES or type(content) is not str:
        return None
    return Turn(role, content) if content and content.isascii() and not content.isspace() else None


def _turn_of(message: Any, field: str) -> Turn:
    if not isinstance(message, dict):
        reason = f"{field} is {kind_of(message)}, not an object"
        raise Wrong(field, "message_not_an_object", reason=reason, remedy="write role and content as an object")
    role = _role_of(message, field)
    _check_keys(message, role, field)
    calls = _tool_calls_of(message.get("tool_calls"), f"{field}.tool_calls")
    return Turn(
        role,
        _content_of(message, role, field, may_be_null=calls is not None),
        name=_text_or_none(message.get("name"), f"{field}.name"),
        tool_calls=calls,
        tool_call_id=_tool_call_id_of(message, role, field),
        weight=_weight_of(message.get("weight"), f"{field}.weight"),
    )


def _role_of(message: dict[str, Any], field: str) -> str:
    role = message.get("role")
    if isinstance(role, str) and role in _ROLES:
        return _ROLES[role]
    reason = f"{field}.role is {shown(role)}" if "role" in message else f"{field}.role is missing"
    remedy = "use system, developer, user, assistant or tool"
    raise Wrong(f"{field}.role", "role_unknown", reason=reason, remedy=remedy)


def _check_keys(message: dict[str, Any], role: str, field: str) -> None:
    for key in message:
        if key not in _KEYS[role]:
            reason = f"{field} ({role}) has the unknown key {key[:100]!r}"
            remedy = f"remove it; known are {', '.join(sorted(_KEYS[role] - set(_MUST_BE_NULL)))}"
            raise Wrong(f"{field}.{key[:100]}", "unknown_key", reason=reason, remedy=remedy)
    for key in _MUST_BE_NULL:
        if message.get(key) is not None:
            reason = f"{field}.{key} is set, which training does not use"
            raise Wrong(f"{field}.{key}", "key_not_supported", reason=reason, remedy="remove it or set it to null")


def _content_of(message: dict[str, Any], role: str, field: str, *, may_be_null: bool = False) -> str:
    where, content = f"{field}.content", message.get("content")
    if content is None and may_be_null:
        return ""
    if isinstance(content, list):
        content = "".join(_part_of(part, f"{where}[{index}]") for index, part in enumerate(content))
    if not isinstance(content, str):
        reason = f"{where} is {kind_of(content)}" if "content" in message else f"{where} is missing"
        raise Wrong(where, "content_wrong_type", reason=reason, remedy="give a text, or a list of text parts")
    if not may_be_null and role in _SPEAKERS and (not content or content.isspace()):
        raise Wrong(where, "content_empty", reason=f"{where} is empty", remedy="write a text or remove the record")
    check_encodable(content, where)
    return content


def _part_of(part: Any, where: str) -> str:
    if isinstance(part, dict) and part.get("type") == "text" and isinstance(part.get("text"), str):
        return part["text"]
    found = shown(part.get("type")) if isinstance(part, dict) else kind_of(part)
    reason, remedy = f"{where} is no text part ({found})", 'use {"type": "text", "text": …} only'
    raise Wrong(where, "content_part_not_supported", reason=reason, remedy=remedy)


def _tool_calls_of(calls: Any, where: str) -> str | None:
    if calls is None:
        return None
    if not isinstance(calls, list) or not calls or len(calls) > MAX_TOOLS:
        reason, remedy = f"{where} is no list of 1 to {MAX_TOOLS} calls", "list the calls, or leave the key out"
        raise Wrong(where, "tool_calls_invalid", reason=reason, remedy=remedy)
    for index, call in enumerate(calls):
        _check_call(call, f"{where}[{index}]")
    return _dumped(calls, where)


def _check_call(call: Any, where: str) -> None:
    remedy = 'write {"id": …, "type": "function", "function": {"name": …, "arguments": "<JSON text>"}}'
    function = call.get("function") if isinstance(call, dict) else None
    if not isinstance(function, dict) or call.get("type") != "function" or not _is_text(call.get("id")):
        raise Wrong(where, "tool_calls_invalid", reason=f"{where} lacks id, type or function", remedy=remedy)
    if not _is_text(function.get("name")):
        reason = f"{where}.function.name is missing"
        raise Wrong(f"{where}.function.name", "tool_calls_invalid", reason=reason, remedy=remedy)
    try:
        arguments = json.loads(function.get("arguments"))
    except (TypeError, ValueError, RecursionError):
        arguments = None
    if not isinstance(arguments, dict):
        reason = f"{where}.function.arguments is no JSON text of an object"
        raise Wrong(f"{where}.function.arguments", "tool_calls_invalid", reason=reason, remedy=remedy)


def _tool_call_id_of(message: dict[str, Any], role: str, field: str) -> str | None:
    if role != "tool":
        return None
    value = message.get("tool_call_id")
    if _is_text(value):
        check_encodable(value, f"{field}.tool_call_id")
        return value
    where, remedy = f"{field}.tool_call_id", "give the id of the call that this message answers"
    raise Wrong(where, "tool_call_id_missing", reason=f"{where} is missing", remedy=remedy)


def _weight_of(weight: Any, where: str) -> int | None:
    if weight is None or (type(weight) is int and weight in (0, 1)):
        return weight
    raise Wrong(where, "weight_invalid", reason=f"{where} is {shown(weight)}", remedy="use 0 or 1")


def tools_of(tools: Any) -> str | None:
    if tools is None:
        return None
    if not isinstance(tools, list) or len(tools) > MAX_TOOLS:
        reason = f"tools is no list of up to {MAX_TOOLS} tools"
        raise Wrong("tools", "tools_invalid", reason=reason, remedy="list the tools, or leave the key out")
    for index, tool in enumerate(tools):
        function = tool.get("function") if isinstance(tool, dict) else None
        if not isinstance(function, dict) or tool.get("type") != "function" or not _is_text(function.get("name")):
            where, remedy = f"tools[{index}]", 'write {"type": "function", "function": {"name": …, "parameters": …}}'
            raise Wrong(where, "tools_invalid", reason=f"{where} lacks type, function or a name", remedy=remedy)
    return _dumped(tools, "tools") if tools else None


def check_order(turns: list[Turn], field: str) -> None:
    """An answer stands last and trains; a tool's message answers a call made before it."""
    roles = [turn.role for turn in turns]
    if "assistant" not in roles:
        remedy = "end the conversation with the answer that is to be learned"
        raise Wrong(field, "assistant_missing", reason="no message is from the assistant", remedy=remedy)
    last = len(turns) - 1
    if roles[last] != "assistant":
        where = f"{field}[{last}].role"
        reason = f"the last message is from {roles[last]}, not from the assistant"
        raise Wrong(where, "last_message_not_assistant", reason=reason, remedy="end the conversation with an answer")
    if turns[last].weight == 0 and all(turn.weight == 0 for turn in turns if turn.role == "assistant"):
        reason = "every answer has weight 0, so nothing trains"
        raise Wrong(field, "nothing_trains", reason=reason, remedy="give the answer to be learned weight 1")
    check_tools(turns, field)


def check_tools(turns: list[Turn], field: str) -> None:
    """A tool's message answers a call made before it."""
    if not any(turn.role == "tool" for turn in turns):
        return
    called: set[str] = set()
    for index, turn in enumerate(turns):
        called |= set(_ids_of(turn))
        if turn.role == "tool" and turn.tool_call_id not in called:
            where, remedy = f"{field}[{index}].tool_call_id", "put the assistant's message with the call before it"
            raise Wrong(where, "tool_call_unknown", reason=f"{where} names no call made before", remedy=remedy)


def _ids_of(turn: Turn) -> Iterator[str]:
    if turn.tool_calls:
        yield from (call["id"] for call in json.loads(turn.tool_calls))


def _text_or_none(value: Any, where: str) -> str | None:
    if value is None:
        return None
    if not _is_text(value):
        raise Wrong(where, "name_invalid", reason=f"{where} is {shown(value)}", remedy="give a text, or leave it out")
    check_encodable(value, where)
    return value


def _dumped(value: Any, where: str) -> str:
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    check_encodable(text, where)
    return text


def check_encodable(text: str, where: str) -> None:
    """Half of a surrogate pair is valid JSON, but no text."""
    if text.isascii():
        return
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as fault:
        reason = f"{where} holds half of a surrogate pair (\\u{ord(text[fault.start]):04x})"
        remedy = "write the whole character"
        raise Wrong(where, "text_not_unicode", reason=reason, remedy=remedy) from fault


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and bool(value.strip())


def shown(value: Any) -> str:
    """A value as a reason may show it."""
    return repr(value)[:60] if isinstance(value, str | int | float | bool) else kind_of(value)


def kind_of(value: Any) -> str:
    """A value's kind in words."""
    names = {
        type(None): "null",
        bool: "a truth value",
        int: "a number",
        float: "a number",
        str: "a text",
        list: "a list",
        bytes: "bytes",
    }
    return names.get(type(value), "an object")


def keys_of(record: dict[str, Any]) -> str:
    """The names in a record, as a reason may show them."""
    return (", ".join(sorted(map(str, record))[:8]) or "none")[:200]
