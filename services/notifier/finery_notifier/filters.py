"""What a subscription wants to hear beyond the type of an event: a field of its data → the values that fit. Pure.

Every field must fit, any of its values may. ``*`` stands for any text. It refuses fields that no event has, and more
than a bounded amount of everything, so that a match costs next to nothing.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from pydantic import BaseModel

from finery_contracts.errors import InvalidRequest

MAX_FIELDS, MAX_VALUES, MAX_CHARS, MAX_STARS, MAX_DEPTH = 16, 32, 256, 4, 8
_PATH = re.compile(r"[A-Za-z_][A-Za-z0-9_-]{0,63}(\.[A-Za-z0-9_-]{1,64}){0,7}")
Filter = Mapping[str, str | Sequence[str]]


def check_filter(wanted: Filter, fields: Collection[str]) -> None:
    """Refuse what could never match, or could cost.

    Raises:
        InvalidRequest: code ``filter_invalid``, with the field that is meant.
    """
    if len(wanted) > MAX_FIELDS:
        raise _invalid(f"a filter has at most {MAX_FIELDS} fields", "filter")
    for path, values in wanted.items():
        place = f"filter.{path[:80]}"
        if not _PATH.fullmatch(path):
            raise _invalid(f"{path[:80]!r} is no field; write names between dots, such as metadata.team", place)
        if path.split(".", 1)[0] not in fields:
            known = ", ".join(sorted(fields))
            raise _invalid(f"no event has a field {path.split('.', 1)[0]!r}; there are {known}", place)
        _check_values(_listed(values), place)


def fits(wanted: Filter | None, data: Any) -> bool:
    """Whether the data of an event is what the filter wants."""
    return not wanted or all(
        any(_matches(pattern, text) for text in texts_at(data, path) for pattern in _listed(values))
        for path, values in wanted.items()
    )


def texts_at(data: Any, path: str) -> list[str]:
    """What lies at a dotted path, as texts: none, one, or the items of a list."""
    found: Any = data
    for name in path.split("."):
        if isinstance(found, BaseModel):
            found = getattr(found, name, None) if name in type(found).model_fields else None
        elif isinstance(found, Mapping):
            found = found.get(name)  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]
        else:
            return []
    items: list[Any] = found if isinstance(found, list) else [found]  # pyright: ignore[reportUnknownVariableType]
    return [text for text in map(_text, items) if text is not None]


def _text(value: Any) -> str | None:
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value) if isinstance(value, str | int | float) else None


def _matches(pattern: str, text: str) -> bool:
    """``*`` is any text; each piece is looked for once, from left to right, so the cost is bounded."""
    head, *rest = pattern.split("*")
    if not rest:
        return pattern == text
    *middle, tail = rest
    if len(text) < len(head) + len(tail) or not (text.startswith(head) and text.endswith(tail)):
        return False
    place, end = len(head), len(text) - len(tail)
    for piece in middle:
        found = text.find(piece, place, end)
        if found < 0:
            return False
        place = found + len(piece)
    return True


def _listed(values: str | Sequence[str]) -> Sequence[str]:
    return [values] if isinstance(values, str) else values


def _check_values(values: Sequence[str], place: str) -> None:
    if not 0 < len(values) <= MAX_VALUES:
        raise _invalid(f"a field of a filter takes 1 to {MAX_VALUES} values", place)
    for value in values:
        if len(value) > MAX_CHARS or value.count("*") > MAX_STARS:
            raise _invalid(f"a value has at most {MAX_CHARS} characters and {MAX_STARS} of *", place)


def _invalid(reason: str, place: str) -> InvalidRequest:
    return InvalidRequest(f"the filter is not valid: {reason}", code="filter_invalid", param=place)
