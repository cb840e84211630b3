"""What something would cost before it is submitted."""

from __future__ import annotations

from decimal import Decimal

from pydantic import Field

from finery_contracts.model import Record, Request

MOST_S = 10 * 365 * 86_400


class EstimateRequest(Request):
    """``billing-meter.estimate``: so many running seconds, with the bounds of the guess where there are some."""

    flavour: str = Field(default="cpu", max_length=64)
    instances: int = Field(default=1, ge=1, le=10_000)
    pool: str = Field(default="public", max_length=64)
    seconds: float = Field(ge=0, le=MOST_S)
    low_s: float | None = Field(default=None, ge=0, le=MOST_S)
    high_s: float | None = Field(default=None, ge=0, le=MOST_S)


class Covered(Record):
    """Hours that a package would pay for."""

    package: str
    hours: Decimal


class Price(Record):
    """What a duration costs: ``hours`` of all instances, ``amount`` for those that no package covers."""

    seconds: float
    hours: Decimal
    amount: Decimal
    covered: list[Covered] = Field(default_factory=list[Covered])


class PriceRange(Record):
    """An estimate: nothing is promised, nothing is reserved."""

    flavour: str
    instances: int
    per_hour: Decimal = Field(description="of one instance, at this moment")
    currency: str
    low: Price
    expected: Price
    high: Price
