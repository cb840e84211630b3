"""What the billing meter does with what was used: facts become lines, a whole batch at once, each fact once.

It reads, reckons and writes with a handful of statements however many facts there are.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from finery_billing_meter.ledger import domain, store
from finery_billing_meter.ledger.domain import Interval
from finery_billing_meter.ledger.facts import announce
from finery_billing_meter.ledger.rows import Row
from finery_billing_meter.ledger.usage import Used, used_of
from finery_billing_meter.packages import handlers as packages
from finery_billing_meter.packages import store as package_store
from finery_billing_meter.packages.domain import covers
from finery_billing_meter.packages.store import PackageRow
from finery_billing_meter.prices.domain import PriceBook
from finery_contracts.envelope import Event
from finery_kit.db import Transaction


def charge(tx: Transaction, events: Sequence[Event], *, book: PriceBook) -> list[Row]:
    """The lines that these facts give. What was charged already changes nothing.

    Raises:
        PriceMissing: one of them has no price; then none of them is charged.
    """
    used = used_of(events, book)
    store.keep_others_out(tx.session, sorted({event.project for event in events}))
    _leave_out_what_is_known(tx, used)
    covered, by_use = _covered(tx, used.intervals.values())

    lines = [domain.paid_by_use(interval) for interval in by_use]

    written = store.add_lines(tx.session, [*lines, *used.lines.values()], tx.now)
    store.add_counts(tx.session, list(used.counts.values()))
    for rows, intervals in covered:
        written = written + packages.reckon(tx, rows, intervals, cause=intervals[-1].event)
    announce(tx, written, traceparent=events[0].traceparent if len(events) == 1 else None)
    return written


def _leave_out_what_is_known(tx: Transaction, used: Used) -> None:
    for source in store.known_sources(tx.session, [*used.intervals, *used.lines]):
        used.intervals.pop(source, None)
        used.lines.pop(source, None)
    for source in store.known_counts(tx.session, list(used.counts)):
        used.counts.pop(source, None)
        used.lines.pop(source, None)


def _covered(
    tx: Transaction, intervals: Iterable[Interval]
) -> tuple[list[tuple[list[PackageRow], list[Interval]]], list[Interval]]:
    """Those that a package may pay for, with the packages of their project and flavour; and all the others."""
    intervals = list(intervals)
    rows = package_store.of_projects(tx.session, {interval.project for interval in intervals}) if intervals else []
    if not rows:
        return [], intervals
    groups: dict[tuple[str, str], list[Interval]] = {}
    by_use: list[Interval] = []
    known = [(row.project, row.package) for row in rows]
    for interval in intervals:
        mine = any(project == interval.project and covers(package, interval) for project, package in known)
        if mine:
            groups.setdefault((interval.project, interval.flavour), []).append(interval)
        else:
            by_use.append(interval)
    found = [
        ([row for row in rows if (row.project, row.flavour) == key], group) for key, group in sorted(groups.items())
    ]
    return found, by_use
