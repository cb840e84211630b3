"""The price list: every price with its versions, and the packages that are on offer."""

from __future__ import annotations

import re
from datetime import date, datetime
from decimal import Decimal
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, model_validator

from finery_contracts.model import Record, Request, UtcTime

_LOST_PLUS = re.compile(r" (\d\d:?\d\d)$")


def _day_as_midnight(value: object) -> object:
    if isinstance(value, date) and not isinstance(value, datetime):
        return f"{value.isoformat()}T00:00:00Z"
    if isinstance(value, str) and len(value) == len("2026-01-31"):
        return f"{value}T00:00:00Z"
    if isinstance(value, str) and ":" in value.partition(" ")[0]:
        return _LOST_PLUS.sub(r"+\1", value)  # in a query that nobody escaped, the zone's plus is a space
    return value


DayOrTime = Annotated[UtcTime, BeforeValidator(_day_as_midnight)]
"""A moment, or a day such as 2026-01-31, which means its first moment in UTC."""

Price = Annotated[Decimal, Field(ge=0, le=1_000_000, max_digits=20, decimal_places=14)]
Money = Annotated[Decimal, Field(ge=0, le=1_000_000_000, max_digits=18, decimal_places=9)]
Hours = Annotated[Decimal, Field(gt=0, le=10_000_000, max_digits=16, decimal_places=9)]
Reset = Literal["none", "day", "week", "month", "year"]


class HourPrice(Record):
    """What an hour of one instance of a flavour costs from ``valid_from`` on."""

    valid_from: DayOrTime
    per_hour: Price


class TokenPrice(Record):
    """What a token answered by a deployment costs from ``valid_from`` on."""

    valid_from: DayOrTime
    prompt: Price
    completion: Price


class MessagePrice(Record):
    """What one notification costs from ``valid_from`` on."""

    valid_from: DayOrTime
    per_message: Price


class PackageOffer(Record):
    """Hours of one flavour in public pools, bought in advance: so many in each reset period while the offer is valid.

    Nothing is carried over from one period to the next, and nothing is given back.
    """

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9-]{0,63}$")
    flavour: str
    hours: Hours = Field(description="of one instance, in each reset period; without reset, in all")
    valid_months: int | None = Field(default=None, ge=1, le=120)
    valid_days: int | None = Field(default=None, ge=1, le=3660)
    reset: Reset = "none"
    price: Money = Field(description="for the whole validity, due when it is bought")
    low_percent: int = Field(default=20, ge=0, le=99, description="its owner is told when no more than this is left")

    @model_validator(mode="after")
    def _one_validity(self) -> PackageOffer:
        if (self.valid_months is None) == (self.valid_days is None):
            raise ValueError("give valid_months or valid_days, one of them")
        return self


class PriceList(Record):
    """All prices with their versions, oldest first. What started at a moment costs what was valid then."""

    currency: str = Field(pattern=r"^[A-Z]{3}$", description="ISO 4217")
    flavours: dict[str, list[HourPrice]] = Field(min_length=1)
    tokens: list[TokenPrice] = Field(min_length=1)
    notifications: dict[str, list[MessagePrice]] = Field(
        default_factory=dict[str, list[MessagePrice]],
        description="by channel; `other` is for those that are not named, and without it those are free",
    )
    packages: list[PackageOffer] = Field(default_factory=list[PackageOffer])


class PricesRequest(Request):
    """``finery.rpc.billing-meter.prices``: nothing to say."""
