"""What was used, and the ledger lines that follow from it. Pure: the same facts and prices give the same lines.

A line moves an amount from one account to another, so the accounts of a project always sum to zero. It refuses an
interval that cannot be, and an amount that 64 bits do not hold.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Literal, NamedTuple

from finery_billing_meter.prices.domain import PriceBook
from finery_contracts.deployments import DeploymentInstanceEnded
from finery_contracts.errors import FineryError
from finery_contracts.notifications import NotificationMetered
from finery_contracts.tasks import TaskAttemptEnded
from finery_contracts.usage import CallUsage, UsageRecorded

Noun = Literal["task", "deployment", "tokens", "notifications", "package"]
Unit = Literal["hour", "token", "message", "package"]
BILLIONTHS = 10**9
HOUR_S = 3600
RECEIVABLE, PREPAID, UNUSED = "receivable", "prepaid", "revenue:unused"
LONGEST_S = 100 * 366 * 86_400
LARGEST = 2**63 - 1


class Impossible(FineryError):
    """The fact says something that cannot be; it was not charged."""

    code = "usage_impossible"


class Interval(NamedTuple):
    """Running time of a task's attempt or of a deployment's instance. ``running`` is its exact number of seconds."""

    source: str
    project: str
    noun: Noun
    noun_id: str
    name: str
    description: str
    flavour: str
    pool: str
    instances: int
    running: str
    started_at: datetime
    unit_price: Decimal
    currency: str
    created_by: str
    event: str

    @property
    def ended_at(self) -> datetime:
        """Its place's end, to the microsecond."""
        return self.started_at + timedelta(seconds=float(self.running))

    @property
    def exact_parts(self) -> tuple[int, int]:
        """Billionths of flavour-hours, as numerator and denominator."""
        seconds, per = Decimal(self.running).as_integer_ratio()
        return seconds * self.instances * BILLIONTHS, per * HOUR_S


class Line(NamedTuple):
    """A ledger line that is not written yet.

    ``source`` names the interval or count it is for; ``package`` and ``period`` the package that its hours came from.
    ``amount_parts`` is what the bill shows, ``posted_parts`` what moves from the account ``debit`` to ``credit``.
    """

    source: str
    package: str
    period: int
    project: str
    noun: Noun
    noun_id: str
    name: str
    description: str
    flavour: str
    pool: str
    instances: int
    running: str
    quantity_parts: int
    unit: Unit
    unit_price: Decimal
    amount_parts: int
    posted_parts: int
    debit: str
    credit: str
    currency: str
    started_at: datetime
    ended_at: datetime
    created_by: str
    event: str

    @property
    def key(self) -> tuple[str, str, int]:
        """What there is one valid line of."""
        return self.source, self.package, self.period


class TokenCount(NamedTuple):
    """Tokens of one kind that one key used on one deployment within one batch of a gateway's journal."""

    source: str
    project: str
    deployment: str
    kind: Literal["prompt", "completion"]
    actor_key: str
    tokens: int
    first_at: datetime
    last_at: datetime
    event: str


def interval_of_attempt(event: TaskAttemptEnded, book: PriceBook) -> Interval | None:
    """SPEC BI1: what a task's attempt ran; None for what is free.

    Raises:
        PriceMissing: the flavour has no price at the interval's start.
        Impossible: nothing runs that long, or on so few instances.
    """
    task, interval = event.data.task, event.data.interval
    if not interval.billed or not interval.running_s > 0:
        return None
    _check(event.id, interval.running_s, task.instances)
    return Interval(
        f"task:{task.id}:{interval.attempt}:{interval.n}", event.project, "task", task.id, task.name,
        f"{task.kind} task on {task.flavour} x {task.instances}, attempt {interval.attempt}", task.flavour, task.pool,
        task.instances, repr(interval.running_s), interval.started_at, book.hour(task.flavour, interval.started_at),
        book.currency, task.created_by, event.id,
    )  # fmt: skip


def interval_of_instance(event: DeploymentInstanceEnded, book: PriceBook) -> Interval | None:
    """The same for one instance of a deployment: each instance has intervals of its own.

    Raises:
        PriceMissing: the flavour has no price at the interval's start.
        Impossible: nothing runs that long.
    """
    deployment, interval = event.data.deployment, event.data.interval
    if not interval.billed or not interval.running_s > 0:
        return None
    _check(event.id, interval.running_s, 1)
    return Interval(
        f"instance:{interval.instance}:{interval.n}", event.project, "deployment", deployment.id, deployment.name,
        f"instance of a deployment on {deployment.flavour}", deployment.flavour, deployment.pool, 1,
        repr(interval.running_s), interval.started_at, book.hour(deployment.flavour, interval.started_at),
        book.currency, deployment.created_by, event.id,
    )  # fmt: skip


def paid_by_use(interval: Interval, *, drawn_parts: int = 0) -> Line:
    """What no package covered: exact hours × price, rounded once (1e-9, half even).

    The hours shown are those of the whole interval less ``drawn_parts``, so the lines of an interval sum to its hours.
    """
    exact, per = interval.exact_parts
    price, price_per = interval.unit_price.as_integer_ratio()
    amount = half_even((exact - drawn_parts * per) * price, per * price_per)
    if not -LARGEST <= amount <= LARGEST:
        raise Impossible(f"{interval.source} costs more than a ledger line can hold ({interval.event})")
    return Line(
        interval.source, "", -1, interval.project, interval.noun, interval.noun_id, interval.name,
        interval.description, interval.flavour, interval.pool, interval.instances, interval.running,
        half_even(exact, per) - drawn_parts, "hour", interval.unit_price, amount, amount, RECEIVABLE,
        f"revenue:hours:{interval.flavour}", interval.currency, interval.started_at, interval.ended_at,
        interval.created_by, interval.event,
    )  # fmt: skip


def counts_of(event: UsageRecorded) -> Iterator[TokenCount]:
    """The tokens of a batch for each deployment, kind and key; what is zero is left out."""
    batch = event.data
    groups: dict[tuple[str, str], list[CallUsage]] = {}
    for call in batch.calls:
        groups.setdefault((call.deployment, call.key), []).append(call)
    for (deployment, actor_key), calls in groups.items():
        first_at, last_at = min(call.at for call in calls), max(call.at for call in calls)
        tokens: dict[Literal["prompt", "completion"], int] = {
            "prompt": sum(call.prompt_tokens for call in calls),
            "completion": sum(call.completion_tokens for call in calls),
        }
        for kind, count in tokens.items():
            if count > 0:
                source = f"usage:{batch.segment}:{batch.offset}:{deployment}:{kind}:{actor_key}"
                yield TokenCount(
                    source, event.project, deployment, kind, actor_key, count, first_at, last_at, event.id
                )  # fmt: skip


def line_of_tokens(count: TokenCount, book: PriceBook) -> Line | None:
    """Tokens × price; None where a token costs nothing.

    Raises:
        PriceMissing: tokens have no price at the time of the first call.
    """
    version = book.tokens(count.first_at)
    price = version.prompt if count.kind == "prompt" else version.completion
    if price == 0:
        return None
    amount = _amount(count.tokens, price, count.source)
    return Line(
        count.source, "", -1, count.project, "tokens", count.deployment, "", f"{count.kind} tokens", "", "", 0, "",
        count.tokens, "token", price, amount, amount, RECEIVABLE, f"revenue:tokens:{count.kind}", book.currency,
        count.first_at, count.last_at, count.actor_key, count.event,
    )  # fmt: skip


def line_of_messages(event: NotificationMetered, book: PriceBook) -> Line | None:
    """SPEC BI5: notifications × price; None where one costs nothing.

    Raises:
        PriceMissing: the channel has no price when the hour began.
    """
    told = event.data
    price = book.message(told.channel, told.window_start)
    if price == 0 or told.count <= 0:
        return None
    source = f"notification:{told.key}"
    amount = _amount(told.count, price, source)
    return Line(
        source, "", -1, event.project, "notifications", told.channel, "", f"notifications by {told.channel}", "", "", 0,
        "", told.count, "message", price, amount, amount, RECEIVABLE, f"revenue:notifications:{told.channel}",
        book.currency, told.window_start, told.window_end, "", event.id,
    )  # fmt: skip


def half_even(numerator: int, denominator: int) -> int:
    """The nearest whole number, half to even: the one rounding of an amount."""
    whole, rest = divmod(numerator, denominator)
    twice = 2 * rest
    return whole + 1 if twice > denominator or (twice == denominator and whole & 1) else whole


def parts_of(value: Decimal) -> int:
    """A rounded value as a whole number of billionths, so that a database sums it exactly."""
    return int(value * BILLIONTHS)


def from_parts(value: int, parts: int = BILLIONTHS) -> Decimal:
    """The way back; exact for all that 64 bits hold."""
    return Decimal(value) / parts


def quantity_parts(unit: Unit) -> int:
    """Hours are counted in billionths, everything else is whole."""
    return BILLIONTHS if unit == "hour" else 1


def text_of(moment: datetime) -> str:
    """One length and one zone, so that text order is time order."""
    return moment.astimezone(UTC).isoformat(timespec="microseconds")


def _check(event: str, running_s: float, instances: int) -> None:
    if running_s > LONGEST_S or instances < 1:
        raise Impossible(f"{event} tells of {running_s} seconds on {instances} instances")


def _amount(count: int, price: Decimal, source: str) -> int:
    numerator, denominator = price.as_integer_ratio()
    amount = half_even(count * numerator * BILLIONTHS, denominator)
    if amount > LARGEST:
        raise Impossible(f"{source} costs more than a ledger line can hold")
    return amount
