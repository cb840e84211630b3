"""The two shapes every contract has: frozen and strict about what we say, lenient about what newer peers add."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated

from pydantic import AfterValidator, AwareDatetime, BaseModel, ConfigDict


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
    """Something a person asks for: immutable; an unknown field is an error, so that a typing mistake is seen."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)
