"""The two shapes every contract has: frozen and strict about what we say, lenient about what newer peers add."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Annotated, Any, cast

from pydantic import AfterValidator, AwareDatetime, BaseModel, ConfigDict, model_validator
from pydantic_core import PydanticCustomError

_NOT_KEPT = re.compile("[\x00\ud800-\udfff]")


def _as_utc(moment: datetime) -> datetime:
    try:
        return moment.astimezone(UTC)
    except OverflowError as fault:
        raise ValueError("in UTC this moment is before the year 1 or after the year 9999") from fault


UtcTime = Annotated[AwareDatetime, AfterValidator(_as_utc)]
"""An aware moment, always in UTC."""


class Record(BaseModel):
    """Something that was said: immutable; a field that a newer peer added is ignored."""

    model_config = ConfigDict(frozen=True, extra="ignore", ser_json_inf_nan="null")


class Request(BaseModel):
    """Something a person asks for: immutable; an unknown field is an error, so that a typing mistake is seen.

    So is a text with a NUL or half a surrogate pair: no database keeps the one, no UTF-8 the other.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _texts_can_be_kept(cls, said: Any) -> Any:
        if not _can_be_kept(said):
            raise PydanticCustomError("text_invalid", "a text holds a NUL or half of a surrogate pair")
        return said


def _can_be_kept(said: Any) -> bool:
    rest = [said]
    while rest:
        part = rest.pop()
        if isinstance(part, str):
            if _NOT_KEPT.search(part):
                return False
        elif isinstance(part, dict):
            fields = cast("dict[Any, Any]", part)
            rest += [*fields, *fields.values()]
        elif isinstance(part, list):
            rest += cast("list[Any]", part)
    return True
