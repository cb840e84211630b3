"""ShareGPT: ``{"conversations": [{"from": "human", "value": …}, {"from": "gpt", "value": …}]}``.

A function call becomes a tool call and what follows it its answer; a call that is no JSON is refused.
"""

from __future__ import annotations

import json
from typing import Any

from finery_dataset_ingest.engine.fields import any_text, filled_text, object_of, required, system_turns
from finery_dataset_ingest.engine.messages import MAX_MESSAGES, kind_of, shown, tools_of
from finery_dataset_ingest.engine.samples import Turn, Wrong

KEYS = frozenset({"conversations", "system", "tools", "id"})
_SHAPE = '{"conversations": [{"from": "human", "value": …}, {"from": "gpt", "value": …}]}'
_ROLES = {
    "system": "system", "human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant",
    "chatgpt": "assistant", "model": "assistant", "bot": "assistant", "function_call": "call", "tool": "tool",
    "observation": "tool", "function_response": "tool",
}  # fmt: skip
_TURN_KEYS = frozenset({"from", "value", "role", "content", "weight"})


def sharegpt_turns(record: Any) -> list[Turn]:
    """The conversation. Raises Wrong."""
    record = object_of(record, _SHAPE)
    return [*system_turns(record), *said_turns(required(record, "conversations"), "conversations")]


def sharegpt_tools(record: dict[str, Any]) -> str | None:
    """The tools beside the conversation, which are published as JSON text or as a list. Raises Wrong."""
    tools = record.get("tools")
    if isinstance(tools, str) and tools.strip():
        try:
            tools = json.loads(tools)
        except (ValueError, RecursionError) as fault:
            remedy = "give a list of tools"
            raise Wrong("tools", "tools_invalid", reason="tools is a text that is no JSON", remedy=remedy) from fault
    if isinstance(tools, list):
        tools = [_whole_tool(tool) for tool in tools]
    return tools_of(tools or None)


def said_turns(messages: Any, field: str) -> list[Turn]:
    """A list of ``from`` and ``value`` as turns. Raises Wrong."""
    if not isinstance(messages, list) or not messages:
        reason = f"{field} is {'an empty list' if messages == [] else kind_of(messages)}"
        raise Wrong(field, f"{field}_not_a_list", reason=reason, remedy=f"write {_SHAPE}")
    if len(messages) > MAX_MESSAGES:
        reason = f"there are {len(messages)} messages; at most {MAX_MESSAGES} are read"
        raise Wrong(field, "too_many_messages", reason=reason, remedy="split the conversation")
    turns: list[Turn] = []
    for index, message in enumerate(messages):
        turns.append(said_turn(message, f"{field}[{index}]", before=turns))
    return turns


def said_turn(message: Any, where: str, *, before: list[Turn]) -> Turn:
    """One turn; an answer of a tool belongs to the last call ``before`` it. Raises Wrong."""
    if not isinstance(message, dict):
        reason = f"{where} is {kind_of(message)}, not an object"
        raise Wrong(where, "message_not_an_object", reason=reason, remedy='write {"from": …, "value": …}')
    names = ("from", "value") if "from" in message else ("role", "content")
    for key, value in message.items():
        if key not in _TURN_KEYS and value is not None:
            reason = f"{where} has the unknown key {key[:100]!r}"
            raise Wrong(
                f"{where}.{key[:100]}", "unknown_key", reason=reason, remedy="remove it; known are from and value"
            )
    speaker = message.get(names[0])
    role = _ROLES.get(speaker) if isinstance(speaker, str) else None
    if role is None:
        said = shown(speaker) if names[0] in message else "missing"
        remedy = "use system, human, gpt, function_call or observation"
        raise Wrong(f"{where}.{names[0]}", "role_unknown", reason=f"{where}.{names[0]} is {said}", remedy=remedy)
    value = message.get(names[1])
    where = f"{where}.{names[1]}"
    if role == "call":
        return _call(filled_text(value, where), where, number=len(before))
    if role == "tool":
        return Turn("tool", any_text(value, where), tool_call_id=_last_call(before, where))
    text = any_text(value, where) if role == "system" else filled_text(value, where)
    return Turn(role, text, weight=_weight(message, where) if role == "assistant" else None)


def _weight(message: dict[str, Any], where: str) -> int | None:
    weight = message.get("weight")
    if weight is None or (type(weight) in (int, float) and weight in (0, 1)):
        return None if weight is None else int(weight)
    raise Wrong(where, "weight_invalid", reason=f"the weight is {shown(weight)}", remedy="use 0 or 1")


def _call(text: str, where: str, *, number: int) -> Turn:
    try:
        call = json.loads(text)
    except (ValueError, RecursionError):
        call = None
    name = call.get("name") if isinstance(call, dict) else None
    arguments = call.get("arguments") if isinstance(call, dict) else None
    if isinstance(arguments, str):
        try:
            arguments = json.loads(arguments)
        except (ValueError, RecursionError):
            arguments = None
    if not isinstance(name, str) or not name.strip() or not isinstance(arguments, dict):
        reason, remedy = f"{where} is no function call", 'write {"name": …, "arguments": {…}} as JSON text'
        raise Wrong(where, "tool_calls_invalid", reason=reason, remedy=remedy)
    function = {"name": name, "arguments": json.dumps(arguments, ensure_ascii=False)}
    calls = [{"id": f"call_{number}", "type": "function", "function": function}]
    return Turn(
        "assistant", "", tool_calls=any_text(json.dumps(calls, ensure_ascii=False, separators=(",", ":")), where)
    )


def _last_call(before: list[Turn], where: str) -> str:
    if before and before[-1].tool_calls:
        return json.loads(before[-1].tool_calls)[0]["id"]
    remedy = "put the function_call that it answers right before it"
    raise Wrong(where, "tool_call_unknown", reason=f"{where} answers no call", remedy=remedy)


def _whole_tool(tool: Any) -> Any:
    """A function alone is as common as the whole tool around it."""
    return {"type": "function", "function": tool} if isinstance(tool, dict) and "function" not in tool else tool
