"""What a change of a published JSON Schema takes from those who read or write by the old one.

The rule: a ``.v1`` gains optional fields, and nothing else. Even a new choice of an enumeration is a new version, since
readers of the old one reject it. It refuses to judge meaning: a field that keeps its name and changes its sense needs a
new version as well.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

Schema = Mapping[str, Any]
_WORDS = frozenset({"title", "description", "default", "examples", "$id", "$schema", "$defs"})
"""Keywords that say nothing of which documents are valid (``$defs`` is compared by itself)."""


def incompatibilities(old: Schema, new: Schema) -> list[str]:
    """Each breaking difference, with its place; an empty list when the new schema only adds optional fields."""
    faults = _of_node("", old, new)
    before: Schema = old.get("$defs", {})
    after: Schema = new.get("$defs", {})
    for name, shape in before.items():
        if name in after:  # one that is gone is missed where it was referred to
            faults += _of_node(name, shape, after[name])
    return faults


def _of_node(place: str, old: Schema, new: Schema) -> list[str]:
    keywords = (old.keys() | new.keys()) - _WORDS - {"properties", "required"}
    return [
        *(
            f"{place or 'the whole'}: {keyword} was {old.get(keyword)!r} and is {new.get(keyword)!r}"
            for keyword in sorted(keywords)
            if _bare(old.get(keyword)) != _bare(new.get(keyword))
        ),
        *_of_fields(place, old, new),
    ]


def _of_fields(place: str, old: Schema, new: Schema) -> list[str]:
    before: Schema = old.get("properties", {})
    after: Schema = new.get("properties", {})
    required = sorted(set(new.get("required", ())) - set(old.get("required", ())))
    optional = sorted(set(old.get("required", ())) - set(new.get("required", ())))
    faults = [f"{_join(place, name)}: the field is required now" for name in required]
    faults += [f"{_join(place, name)}: the field may be missing now" for name in optional if name in after]
    for name, field in before.items():
        if name in after:
            faults += _of_node(_join(place, name), field, after[name])
        else:
            faults.append(f"{_join(place, name)}: the field is gone")
    return faults


def _bare(value: Any) -> Any:
    """A keyword's value without words, in an order that says nothing."""
    if isinstance(value, dict):
        return {name: _bare(item) for name, item in cast("Schema", value).items() if name not in _WORDS}
    if isinstance(value, list):
        return sorted((_bare(item) for item in cast("list[Any]", value)), key=repr)
    return value


def _join(place: str, name: str) -> str:
    return f"{place}.{name}" if place else name
