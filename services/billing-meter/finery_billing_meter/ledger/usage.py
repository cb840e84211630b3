"""What facts tell of, each thing once, however often it is told. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from finery_billing_meter.ledger import domain
from finery_billing_meter.ledger.domain import Interval, Line, TokenCount
from finery_billing_meter.prices.domain import PriceBook
from finery_contracts.deployments import DeploymentInstanceEnded
from finery_contracts.envelope import Event
from finery_contracts.notifications import NotificationMetered
from finery_contracts.tasks import TaskAttemptEnded
from finery_contracts.usage import UsageRecorded


@dataclass
class Used:
    """What some facts tell of, each thing once."""

    intervals: dict[str, Interval] = field(default_factory=dict[str, Interval])
    counts: dict[str, TokenCount] = field(default_factory=dict[str, TokenCount])
    lines: dict[str, Line] = field(default_factory=dict[str, Line])


def used_of(events: Iterable[Event], book: PriceBook) -> Used:
    """What these facts tell of; pure."""
    used = Used()
    for event in events:
        note(used, event, book)
    return used


def note(used: Used, event: Event, book: PriceBook) -> None:
    """One fact more.

    Raises:
        PriceMissing: it has no price.
        Impossible: it says something that cannot be.
    """
    _NOTES[type(event)](used, event, book)


def _note_attempt(used: Used, event: TaskAttemptEnded, book: PriceBook) -> None:
    interval = domain.interval_of_attempt(event, book)
    if interval is not None:
        used.intervals.setdefault(interval.source, interval)


def _note_instance(used: Used, event: DeploymentInstanceEnded, book: PriceBook) -> None:
    interval = domain.interval_of_instance(event, book)
    if interval is not None:
        used.intervals.setdefault(interval.source, interval)


def _note_tokens(used: Used, event: UsageRecorded, book: PriceBook) -> None:
    for count in domain.counts_of(event):
        used.counts.setdefault(count.source, count)
        line = domain.line_of_tokens(count, book)
        if line is not None:
            used.lines.setdefault(line.source, line)


def _note_messages(used: Used, event: NotificationMetered, book: PriceBook) -> None:
    line = domain.line_of_messages(event, book)
    if line is not None:
        used.lines.setdefault(line.source, line)


_NOTES: dict[type[Event], Callable[[Used, Any, PriceBook], None]] = {
    TaskAttemptEnded: _note_attempt,
    DeploymentInstanceEnded: _note_instance,
    UsageRecorded: _note_tokens,
    NotificationMetered: _note_messages,
}
