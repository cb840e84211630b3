"""Packages: hours of a flavour in public pools, bought in advance."""

from __future__ import annotations

from decimal import Decimal
from typing import Literal

from pydantic import Field

from finery_contracts.envelope import Event
from finery_contracts.model import Record, Request, UtcTime
from finery_contracts.prices import DayOrTime, PackageOffer, Reset

PackageState = Literal["waiting", "active", "used_up", "expired"]


class PackageView(Record):
    """A package as it is now; ``period_…``, ``used_hours`` and ``left_hours`` are of the present reset period."""

    id: str
    project: str
    offer: str
    flavour: str
    hours: Decimal
    reset: Reset
    starts_at: UtcTime
    ends_at: UtcTime
    price: Decimal
    currency: str
    low_percent: int
    bought_at: UtcTime
    bought_by: str
    version: int
    state: PackageState
    period: int = Field(description="0 is the first")
    period_start: UtcTime
    period_end: UtcTime
    used_hours: Decimal
    left_hours: Decimal


class PackageFact(Event):
    """A fact about a package."""

    NOUN = "package"
    SAID_BY = "billing-meter"
    data: PackageView


class PackageBought(PackageFact):
    """Somebody bought it; its hours are used from ``starts_at`` on."""

    FACT = "bought"


class PackageLow(PackageFact):
    """Little is left in this period (``low_percent``)."""

    FACT = "low"


class PackageUsedUp(PackageFact):
    """Nothing is left in this period; what runs now is paid by use."""

    FACT = "used_up"


class PackageExpired(PackageFact):
    """It is over; what was left is not given back."""

    FACT = "expired"


# --- requests to the billing meter (finery.rpc.billing-meter.<verb>) --------------------------------------------------


class PackageRequest(Request):
    """``package.buy``."""

    offer: str = Field(max_length=64, description="name of an offer in the price list")
    starts_at: DayOrTime | None = Field(default=None, description="now, unless a later time is given")


class PackagesRequest(Request):
    """``package.list``, in the order in which they were bought: what comes after the id ``after``."""

    after: str | None = None
    limit: int = Field(default=20, ge=1, le=100)


class PackagePage(Record):
    """Packages; ``next`` is the ``after`` of the next page."""

    data: list[PackageView]
    has_more: bool = False
    next: str | None = None


class OffersRequest(Request):
    """``package.offers``: nothing to say."""


class Offers(Record):
    """What can be bought."""

    currency: str
    data: list[PackageOffer]
