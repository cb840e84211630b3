"""How a message reads: the event's own bytes, a plain text for people, or what a template makes of it. Pure.

A template only puts values in places: no loop, no condition, no call, so its cost is the size of what comes out, and
that is bounded. It refuses templates that are no valid text or JSON (decision 0012).
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, cast

from finery_contracts.envelope import CONTENT_TYPE, Event
from finery_contracts.errors import InvalidRequest
from finery_contracts.notifications import Template

MAX_MESSAGE_BYTES = 256 * 1024
MAX_SUBJECT_BYTES = 512
MAX_PLACES = 100
TEXT, JSON = "text/plain; charset=utf-8", "application/json"
_PLACE = re.compile(r"\{\{\s*([A-Za-z_][A-Za-z0-9_]*(?:\.[A-Za-z0-9_-]+){0,8})\s*\}\}")
_ROOTS = ("id", "type", "source", "subject", "time", "project", "nounversion", "noun", "fact", "data")
_SHOWN = ("id", "name", "kind", "state", "version", "why_waiting", "stop_reason")


class TooLong(Exception):
    """What came out is over the limit; ``str()`` says so."""


@dataclass(frozen=True)
class Letter:
    """What is sent."""

    subject: str
    content_type: str
    body: bytes


def check_template(template: Template) -> None:
    """Refuse what cannot be rendered.

    Raises:
        InvalidRequest: code ``template_invalid``.
    """
    texts = [template.subject or "", *_leaves(_parsed(template))]
    names = [name for text in texts for name in _PLACE.findall(text)]
    if len(names) > MAX_PLACES:
        raise _invalid(f"it has {len(names)} places, more than {MAX_PLACES}")
    for name in names:
        if name.split(".", 1)[0] not in _ROOTS:
            raise _invalid(f"there is no {{{{{name}}}}}; it begins with one of {', '.join(_ROOTS)}")
    if any("{{" in _PLACE.sub("", text) for text in texts):
        raise _invalid("a {{ does not begin a place such as {{ data.name }}; nothing else can be done in a template")


def letter_of(event: Event, body: bytes, channel: str, template: Template | None) -> Letter:
    """What goes out through this channel.

    Raises:
        TooLong: over 256 KiB.
    """
    if template is None:
        if channel == "webhook":
            return _bounded(Letter("", CONTENT_TYPE, body))
        return Letter(_subject(_title(event)), TEXT, _summary(event).encode())
    values = event.model_dump(mode="json") | {"noun": type(event).NOUN, "fact": type(event).FACT}
    subject = _filled(template.subject, values, _Room(MAX_MESSAGE_BYTES)) if template.subject else _title(event)
    if template.body is None:
        plain = letter_of(event, body, channel, None)
        return Letter(_subject(subject), plain.content_type, plain.body)
    room = _Room(MAX_MESSAGE_BYTES)
    if template.format == "text":
        return _bounded(Letter(_subject(subject), TEXT, _filled(template.body, values, room).encode()))
    made = json.dumps(_document(_parsed(template), values, room), ensure_ascii=False)
    return _bounded(Letter(_subject(subject), JSON, made.encode()))


class _Room:
    """How much may still be written; taking more stops the rendering at once, not when it is done."""

    def __init__(self, left: int) -> None:
        self._left = left

    def take(self, text: str) -> str:
        self._left -= len(text)
        if self._left < 0:
            raise _too_long()
        return text


def _filled(text: str, values: Mapping[str, Any], room: _Room) -> str:
    return _PLACE.sub(_filler(values, room), room.take(text))


def _filler(values: Mapping[str, Any], room: _Room) -> Callable[[re.Match[str]], str]:
    def fill(found: re.Match[str]) -> str:
        value = _at(values, found[1])
        if value is None:
            return ""
        return room.take(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False))

    return fill


def _document(part: Any, values: Mapping[str, Any], room: _Room) -> Any:
    """A text that is one place alone becomes the value itself, with its type."""
    if isinstance(part, dict):
        return {key: _document(value, values, room) for key, value in cast(dict[str, Any], part).items()}
    if isinstance(part, list):
        return [_document(item, values, room) for item in cast(list[Any], part)]
    if not isinstance(part, str):
        return part
    alone = _PLACE.fullmatch(part)
    if alone is None:
        return _filled(part, values, room)
    value = _at(values, alone[1])
    room.take(json.dumps(value, ensure_ascii=False))
    return value


def _at(values: Any, path: str) -> Any:
    found = values
    for name in path.split("."):
        if isinstance(found, dict):
            found = cast(dict[str, Any], found).get(name)
        elif isinstance(found, list) and name.isdigit():
            items = cast(list[Any], found)
            found = items[int(name)] if len(name) < 6 and int(name) < len(items) else None
        else:
            return None
    return found


def _parsed(template: Template) -> Any:
    if template.format == "text" or template.body is None:
        return template.body or ""
    try:
        return json.loads(template.body)
    except (ValueError, RecursionError) as fault:
        raise _invalid("its body is no JSON document") from fault


def _leaves(part: Any) -> Iterator[str]:
    if isinstance(part, str):
        yield part
    elif isinstance(part, dict):
        for value in cast(dict[str, Any], part).values():
            yield from _leaves(value)
    elif isinstance(part, list):
        for item in cast(list[Any], part):
            yield from _leaves(item)


def _title(event: Event) -> str:
    name = getattr(event.data, "name", "") or event.noun_id
    return f"[Finery] {type(event).NOUN} {name}: {type(event).FACT.replace('_', ' ')}"


def _summary(event: Event) -> str:
    """A plain text for people: what happened, to what, when, and why."""
    shown = [(name, getattr(event.data, name, None)) for name in _SHOWN]
    error = getattr(event.data, "error", None)
    lines = [f"{type(event).NOUN} {event.noun_id}: {type(event).FACT.replace('_', ' ')}", ""]
    lines += [f"{name}: {value}" for name, value in [*shown, ("time", event.time.isoformat())] if value is not None]
    if error is not None:
        lines += ["", f"{error.code}: {error.message}"]
    lines += ["", f"event: {event.id} ({event.type})", f"project: {event.project}"]
    return "\n".join(lines)[: MAX_MESSAGE_BYTES // 4] + "\n"


def _subject(text: str) -> str:
    """One line of at most 512 bytes; whatever could end a header is a space."""
    line = " ".join("".join(char if char.isprintable() else " " for char in text).split())
    return line.encode()[:MAX_SUBJECT_BYTES].decode(errors="ignore")


def _bounded(letter: Letter) -> Letter:
    if len(letter.body) > MAX_MESSAGE_BYTES:
        raise _too_long(len(letter.body))
    return letter


def _too_long(size: int | None = None) -> TooLong:
    told = f"{size:,} bytes" if size is not None else "more bytes than may be"
    return TooLong(f"the message has {told}, over the limit of {MAX_MESSAGE_BYTES:,}; read the event")


def _invalid(reason: str) -> InvalidRequest:
    return InvalidRequest(f"the template is not valid: {reason}", code="template_invalid", param="template")
