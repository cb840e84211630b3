"""Builds an example of any contract from its fields: all of them filled, or only those that must be there."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal
from enum import Enum
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from annotated_types import Ge, Gt
from pydantic import AwareDatetime, BaseModel

from finery_contracts.envelope import Event

MOMENT = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
PLAIN: dict[Any, Any] = {
    AwareDatetime: MOMENT,
    str: "a text",
    int: 1,
    float: 1.5,
    bool: True,
    datetime: MOMENT,
    Decimal: Decimal("1.25"),
}


def event_of(kind: type[Event], *, whole: bool) -> Event:
    """A fact of this kind, as its owner would say it."""
    data = kind.model_fields["data"].annotation
    return kind(
        id="evt_1", type=kind.type_name(), source=f"finery/{kind.SAID_BY}", subject=f"{kind.NOUN}/{kind.NOUN}_1",
        time=MOMENT, project="proj_1", nounversion=3, data=example_of(data, whole=whole),
        traceparent="00-0123456789abcdef0123456789abcdef-0123456789abcdef-01" if whole else None,
    )  # fmt: skip


def example_of(model: Any, *, whole: bool) -> BaseModel:
    """An instance with every field set, or with the required ones only."""
    wanted = {name: field for name, field in model.model_fields.items() if whole or field.is_required()}
    return model(
        **{
            name: field.examples[0] if field.examples else _value(field.annotation, field.metadata, whole=whole)
            for name, field in wanted.items()
        }
    )


def _value(kind: Any, bounds: list[Any], *, whole: bool) -> Any:
    origin, arguments = get_origin(kind), get_args(kind)
    if origin is Annotated:
        return _value(arguments[0], list(arguments[1:]), whole=whole)
    if origin in (Union, UnionType):
        return _value(next(choice for choice in arguments if choice is not NoneType), bounds, whole=whole)
    if origin is Literal:
        return arguments[0]
    if origin is list:
        return [_value(arguments[0], [], whole=whole)]
    if origin is dict:
        return {"a_key": _value(arguments[1], [], whole=whole)}
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        return example_of(kind, whole=whole)
    if isinstance(kind, type) and issubclass(kind, Enum):
        return next(iter(kind))
    least = next((bound for bound in bounds if isinstance(bound, Ge | Gt)), None)
    return PLAIN.get(kind, "anything") if least is None else kind(getattr(least, "ge", getattr(least, "gt", 0)) or 0)
