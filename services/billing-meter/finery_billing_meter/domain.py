"""What a fact costs. Pure: the same fact and the same price list give the same charges, to the last decimal.

It refuses to guess: a flavour without a price at that time is an error, not a gift.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from fractions import Fraction
from itertools import pairwise
from typing import Literal, TypeVar

from finery_contracts.deployments import DeploymentInstanceEnded
from finery_contracts.errors import FineryError
from finery_contracts.prices import HourPrice, PriceList, TokenPrice
from finery_contracts.tasks import TaskAttemptEnded
from finery_contracts.usage import CallUsage, UsageRecorded

Unit = Literal["hour", "token"]
Version = TypeVar("Version", HourPrice, TokenPrice)
BILLIONTHS = 10**9


class PriceMissing(FineryError):
    """No price is valid at that time; add it to the price list and replay the message from DEAD."""

    code = "price_missing"


@dataclass(frozen=True)
class Charge:
    """A ledger line that is not written yet. ``key`` names the interval or the count it is for."""

    key: str
    noun: Literal["task", "deployment", "tokens"]
    noun_id: str
    name: str
    description: str
    quantity: Decimal
    unit: Unit
    unit_price: Decimal
    amount: Decimal
    currency: str
    started_at: datetime
    created_by: str


@dataclass(frozen=True)
class TokenCount:
    """Tokens of one kind that one key used on one deployment within one batch of a gateway's journal."""

    key: str
    deployment: str
    kind: Literal["prompt", "completion"]
    actor_key: str
    tokens: int
    first_at: datetime


def charge_of_attempt(event: TaskAttemptEnded, prices: PriceList) -> Charge | None:
    """SPEC BI1: running time × instances × the flavour's price; None for what is free.

    Raises:
        PriceMissing: the flavour has no price at the interval's start.
    """
    task, interval = event.data.task, event.data.interval
    if not interval.billed or interval.running_s <= 0:
        return None
    hours = _hours(interval.running_s) * task.instances
    price = _hour_price(prices, task.flavour, interval.started_at)
    return Charge(
        key=f"task:{task.id}:{interval.attempt}:{interval.n}", noun="task", noun_id=task.id, name=task.name,
        description=f"{task.kind} task on {task.flavour} x {task.instances}, attempt {interval.attempt}",
        quantity=rounded(hours), unit="hour", unit_price=price, amount=rounded(hours * Fraction(price)),
        currency=prices.currency, started_at=interval.started_at, created_by=task.created_by,
    )  # fmt: skip


def charge_of_instance(event: DeploymentInstanceEnded, prices: PriceList) -> Charge | None:
    """The same for one instance of a deployment: each instance has intervals of its own.

    Raises:
        PriceMissing: the flavour has no price at the interval's start.
    """
    deployment, interval = event.data.deployment, event.data.interval
    if not interval.billed or interval.running_s <= 0:
        return None
    hours = _hours(interval.running_s)
    price = _hour_price(prices, deployment.flavour, interval.started_at)
    return Charge(
        key=f"instance:{interval.instance}:{interval.n}", noun="deployment", noun_id=deployment.id,
        name=deployment.name, description=f"instance of a deployment on {deployment.flavour}",
        quantity=rounded(hours), unit="hour", unit_price=price, amount=rounded(hours * Fraction(price)),
        currency=prices.currency, started_at=interval.started_at, created_by=deployment.created_by,
    )  # fmt: skip


def counts_of(event: UsageRecorded) -> list[TokenCount]:
    """The tokens of a batch for each deployment, kind and key; what is zero is left out."""
    batch = event.data
    groups: dict[tuple[str, str], list[CallUsage]] = {}
    for call in batch.calls:
        groups.setdefault((call.deployment, call.key), []).append(call)
    found: list[TokenCount] = []
    for (deployment, actor_key), calls in groups.items():
        first_at = min(call.at for call in calls)
        prompt = sum(call.prompt_tokens for call in calls)
        completion = sum(call.completion_tokens for call in calls)
        place = f"usage:{batch.segment}:{batch.offset}:{deployment}"
        found += [
            TokenCount(f"{place}:prompt:{actor_key}", deployment, "prompt", actor_key, prompt, first_at),
            TokenCount(f"{place}:completion:{actor_key}", deployment, "completion", actor_key, completion, first_at),
        ]
    return [count for count in found if count.tokens > 0]


def charge_of_tokens(count: TokenCount, prices: PriceList) -> Charge | None:
    """Tokens × price; None where a token costs nothing.

    Raises:
        PriceMissing: tokens have no price at the time of the first call.
    """
    version = _valid_at(prices.tokens, count.first_at)
    if version is None:
        raise PriceMissing(_missing("tokens", count.first_at))
    price = version.prompt if count.kind == "prompt" else version.completion
    if price == 0:
        return None
    return Charge(
        key=count.key, noun="tokens", noun_id=count.deployment, name="", description=f"{count.kind} tokens",
        quantity=Decimal(count.tokens), unit="token", unit_price=price,
        amount=rounded(count.tokens * Fraction(price)), currency=prices.currency, started_at=count.first_at,
        created_by=count.actor_key,
    )  # fmt: skip


def rounded(exact: Fraction) -> Decimal:
    """To 1e-9, half to even; the one rounding of an amount."""
    return from_parts(round(exact * BILLIONTHS), BILLIONTHS)


def parts_of(value: Decimal, parts: int) -> int:
    """A rounded value as a whole number of parts, so that a database sums it exactly."""
    return int(value * parts)


def from_parts(value: int, parts: int) -> Decimal:
    """The way back; exact for all that 64 bits hold."""
    return Decimal(value) / parts


def quantity_parts(unit: Unit) -> int:
    """Hours are counted in billionths, tokens are whole."""
    return BILLIONTHS if unit == "hour" else 1


def versions_out_of_order(prices: PriceList) -> Iterator[str]:
    """Places in the price list where a version is not later than the one before it, or where there is none."""
    for flavour, versions in prices.flavours.items():
        if not versions:
            yield f"flavours.{flavour}"
        yield from (f"flavours.{flavour}.{place}.valid_from" for place in _disordered(versions))
    yield from (f"tokens.{place}.valid_from" for place in _disordered(prices.tokens))


def _hours(running_s: float) -> Fraction:
    # Through the shortest decimal: 0.1 s is a tenth, not the binary number beside it.
    return Fraction(repr(running_s)) / 3600


def _hour_price(prices: PriceList, flavour: str, moment: datetime) -> Decimal:
    version = _valid_at(prices.flavours.get(flavour, []), moment)
    if version is None:
        raise PriceMissing(_missing(f"flavour {flavour}", moment))
    return version.per_hour


def _valid_at(versions: Sequence[Version], moment: datetime) -> Version | None:
    valid = [version for version in versions if version.valid_from <= moment]
    return valid[-1] if valid else None


def _missing(what: str, moment: datetime) -> str:
    return (
        f"the price list has no price for {what} at {moment.isoformat()}; add one to FINERY_PRICES_FILE, restart the "
        "billing meter and replay the message from DEAD"
    )


def _disordered(versions: Sequence[HourPrice] | Sequence[TokenPrice]) -> list[int]:
    return [
        place
        for place, (earlier, later) in enumerate(pairwise(versions), start=1)
        if later.valid_from <= earlier.valid_from
    ]
