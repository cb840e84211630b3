"""Judges the chat template of a folder: it must be one, parse, stay in its sandbox, and say what the messages say.

The rendering is done by ``template`` in a limited child; here only its answer is read.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from finery_contracts.jobs import Finding
from finery_weight_validator.engine import limited, template
from finery_weight_validator.engine.findings import error, info, warning
from finery_weight_validator.engine.folder import Survey, read_json

LIMITS = limited.Limits(cpu_s=2.0, wall_s=10.0, memory_bytes=256 * 2**20, answer_bytes=32 * 2**20)
_MAX_TEMPLATE, _MOST_TEMPLATES = 2**20, 16
_ASKED, _ANSWERED, _AGAIN = "Wie geht es dir, 你好?", "Sehr gut, danke 🙂.", "def f(x): return [x]  # привет"
_SYSTEM, _CITY, _WEATHER = "Be brief.", "Reykjavik", "snow, -3 degrees"
_TOOL = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The weather of a city.",
        "parameters": {"type": "object", "properties": {"city": {"type": "string", "description": "its name"}},
                       "required": ["city"]},
    },
}  # fmt: skip
_USER = {"role": "user", "content": _ASKED}
_TALK = [_USER, {"role": "assistant", "content": _ANSWERED}, {"role": "user", "content": _AGAIN}]
_CALL = {"id": "call00001", "type": "function", "function": {"name": "get_weather", "arguments": {"city": _CITY}}}
_WITH_TOOL: list[dict[str, Any]] = [
    _USER,
    {"role": "assistant", "content": "", "tool_calls": [_CALL]},
    {"role": "tool", "name": "get_weather", "tool_call_id": "call00001", "content": _WEATHER},
]
_CONVERSATIONS: list[dict[str, Any]] = [
    {"messages": [_USER], "tools": None, "prompt": True},
    {"messages": [_USER], "tools": None, "prompt": False},
    {"messages": _TALK, "tools": None, "prompt": True},
    {"messages": [{"role": "system", "content": _SYSTEM}, _USER], "tools": None, "prompt": True},
    {"messages": _WITH_TOOL, "tools": [_TOOL], "prompt": True},
]
_WHERE = "chat_template"


def template_of(found: Survey) -> tuple[str | None, list[Finding]]:
    """The chat template by the places where transformers looks, or why none can be chosen (``metadata_not_chosen``)."""
    path = found.usable.get("chat_template.jinja")
    if path is not None:
        with path.open("rb") as file:
            return file.read(_MAX_TEMPLATE + 4).decode("utf-8", errors="replace"), []
    for name in ("chat_template.json", "tokenizer_config.json"):
        try:
            stated = read_json(found.usable[name]).get("chat_template")
        except (KeyError, OSError, ValueError):
            continue
        if isinstance(stated, str):
            return stated, []
        if stated is not None:
            return _named_template(name, stated)
    return None, []


def other_findings(found: Survey, *, tokens: dict[str, str], limits: limited.Limits = LIMITS) -> list[Finding]:
    """``chat_template_invalid`` for templates that a loader may take in place of the chosen one: by name, for tools.

    They need not fit an ordinary conversation, but they must parse and keep to their sandbox and limits.
    """
    chosen, _ = template_of(found)
    others = [(where, text) for where, text in _stated(found) if text != chosen and text.strip()]
    findings = list[Finding]()
    for where, text in others[:_MOST_TEMPLATES]:
        request = {"template": text, "tokens": tokens, "conversations": _CONVERSATIONS}
        try:
            if len(text) > _MAX_TEMPLATE:
                raise limited.Beyond(f"it is longer than {_MAX_TEMPLATE} characters")
            answer = limited.call(lambda request=request: template.render(request), limits)
        except (limited.Beyond, limited.Failed) as fault:
            answer = {"refused": str(fault)}
        if wrong := answer.get("refused") or answer.get("syntax"):
            findings.append(_fault(f"it is refused: {wrong}", where))
    if len(others) > _MOST_TEMPLATES:
        findings.append(_fault(f"there are {len(others)} more templates; at most {_MOST_TEMPLATES} are", _WHERE))
    return findings


def template_findings(
    text: str | None, *, tokens: dict[str, str], limits: limited.Limits = LIMITS
) -> tuple[list[Finding], dict[str, bool]]:
    """``chat_template_missing``, ``chat_template_invalid`` or ``chat_template_without_system``, and what it can.

    The facts are ``chat``, ``chat_system`` and ``chat_tools``: a template that knows no tools is a good one, but it is
    worth knowing before tools are offered to the model.
    """
    if not text or not text.strip():
        remedy = "add chat_template.jinja if the model is to be asked in conversations"
        message = "there is no chat template"
        return [warning("chat_template_missing", _WHERE, message=message, remedy=remedy)], {"chat": False}
    if len(text) > _MAX_TEMPLATE:
        return _invalid(f"it is longer than {_MAX_TEMPLATE} characters")
    request = {"template": text, "tokens": tokens, "conversations": _CONVERSATIONS}
    try:
        answer = limited.call(lambda: template.render(request), limits)
    except (limited.Beyond, limited.Failed) as fault:
        return _invalid(f"for a few short messages: {fault}")
    return _judge(answer)


def _stated(found: Survey) -> Iterator[tuple[str, str]]:
    """Every template of the folder, with its place."""
    beside = found.folder / "additional_chat_templates"
    paths = [path for name, path in sorted(found.usable.items()) if name.endswith(".jinja")]
    if beside.is_dir() and not beside.is_symlink():
        paths += [path for path in sorted(beside.glob("*.jinja")) if path.is_file() and not path.is_symlink()]
    for path in paths:
        with path.open("rb") as file:
            yield path.relative_to(found.folder).as_posix(), file.read(_MAX_TEMPLATE + 4).decode("utf-8", "replace")
    for name in ("chat_template.json", "tokenizer_config.json", "processor_config.json"):
        try:
            stated = read_json(found.usable[name]).get("chat_template")
        except (KeyError, OSError, ValueError):
            continue
        entries = stated if isinstance(stated, list) else list(stated.items()) if isinstance(stated, dict) else [stated]
        for entry in entries:
            text = entry.get("template") if isinstance(entry, dict) else entry[1] if isinstance(entry, tuple) else entry
            if isinstance(text, str):
                yield f"{name}: chat_template", text


def _named_template(name: str, stated: Any) -> tuple[str | None, list[Finding]]:
    """One of several templates: the one named default, or the only one; otherwise nobody can choose."""
    entries = stated if isinstance(stated, list) else []
    named = {
        entry["name"]: entry["template"]
        for entry in entries
        if isinstance(entry, dict) and isinstance(entry.get("name"), str) and isinstance(entry.get("template"), str)
    }
    if len(named) == len(entries) and ("default" in named or len(named) == 1):
        return named.get("default") or next(iter(named.values())), []
    message = "it is neither a text nor a list of named templates with one that is the default"
    if named:
        message = f"it holds several templates ({', '.join(sorted(named))[:200]}), and none is named default"
    remedy = "keep one template, or name one of them default"
    return None, [error("metadata_not_chosen", f"{name}: chat_template", message=message, remedy=remedy)]


def _judge(answer: dict[str, Any]) -> tuple[list[Finding], dict[str, bool]]:
    if "refused" in answer:
        return _invalid(f"it is refused: {answer['refused']}")
    if "syntax" in answer:
        return _invalid(f"it does not parse: {answer['syntax']}")
    single, unprompted, several, with_system, with_tools = answer["texts"]
    for result, texts in ((single, (_ASKED,)), (unprompted, (_ASKED,)), (several, (_ASKED, _ANSWERED, _AGAIN))):
        if "error" in result:
            return _invalid(f"it fails on an ordinary conversation: {result['error']}")
        if not _in_order(texts, result["text"]):
            return _invalid("it leaves out what the messages say, or turns their order")
    system = _SYSTEM in with_system.get("text", "")
    tools = _in_order((_CITY, _WEATHER), with_tools.get("text", "")) and "get_weather" in with_tools["text"]
    facts = {"chat": True, "chat_system": system, "chat_tools": tools}
    if system:
        return [], facts
    what = f"it refuses system messages: {with_system['error']}" if "error" in with_system else "it leaves them out"
    remedy = "put instructions into the first user message"
    return [info("chat_template_without_system", _WHERE, message=what, remedy=remedy)], facts


def _in_order(texts: tuple[str, ...], rendered: str) -> bool:
    place = 0
    for text in texts:
        found = rendered.find(text, place)
        if found < 0:
            return False
        place = found + len(text)
    return True


def _invalid(message: str) -> tuple[list[Finding], dict[str, bool]]:
    return [_fault(message, _WHERE)], {"chat": False}


def _fault(message: str, where: str) -> Finding:
    remedy = "put the model's own chat_template.jinja there"
    if where != _WHERE:
        remedy = "put the model's own template there, or remove it"
    return error("chat_template_invalid", where, message=message, remedy=remedy)
