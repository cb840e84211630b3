"""What something would cost before it is submitted."""

from __future__ import annotations

from decimal import Decimal
from typing import Literal

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


class EstimateAsked(Request):
    """``POST /api/v1/estimates``: a known duration, what a tuning would do, or what a count found."""

    flavour: str = Field(default="cpu", max_length=64)
    instances: int = Field(default=1, ge=1, le=10_000)
    cards: int = Field(default=1, ge=1, le=64, description="accelerators of one instance")
    pool: str = Field(default="public", max_length=64)
    seconds: float | None = Field(default=None, gt=0, le=MOST_S)
    model: str | None = Field(default=None, max_length=64, description="such as Qwen2-0.5B")
    method: Literal["full", "lora"] = "lora"
    iterations: int | None = Field(default=None, ge=1, le=100_000)
    throughput: float | None = Field(default=None, gt=0, le=1e9, description="tokens a second and card, if known")
    tokens_per_sample: int | None = Field(default=None, ge=1, le=10**6)
    count: str | None = Field(default=None, max_length=64, description="a task of kind count: its tokens and its model")
    tokens: int | None = Field(default=None, ge=1, le=10**15, description="of one pass over the data")
    epochs: int = Field(default=1, ge=1, le=1000, description="passes over these tokens")


class Duration(Record):
    """Running seconds as far as they can be known, and what that is based on."""

    seconds: float
    low_s: float
    high_s: float
    tokens: int | None = None
    basis: str


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


class Estimate(Record):
    """Duration and price before submit."""

    duration: Duration
    price: PriceRange
