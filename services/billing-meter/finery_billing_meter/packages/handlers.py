"""Lets packages pay for running time, and says what became of them.

The ledger must say the same whatever came first: when an interval is late or a package new, everything that started
later is reckoned again, and what comes out different is reversed and written anew.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from datetime import datetime

from finery_billing_meter.ledger import store as ledger
from finery_billing_meter.ledger.domain import Interval, Line
from finery_billing_meter.ledger.facts import announce
from finery_billing_meter.ledger.rows import Row
from finery_billing_meter.packages import domain, store
from finery_billing_meter.packages.domain import Package
from finery_billing_meter.packages.store import PackageRow
from finery_contracts.packages import PackageBought, PackageExpired, PackageFact, PackageLow, PackageUsedUp, PackageView
from finery_kit.db import Transaction
from finery_kit.delivery import emit

EXPIRIES = 50


def reckon(tx: Transaction, rows: Sequence[PackageRow], intervals: Sequence[Interval], *, cause: str) -> list[Row]:
    """Put new intervals of one project and flavour into the ledger, whose packages these are."""
    since = min(interval.started_at for interval in intervals)
    written = reckon_from(tx, rows, since, intervals, cause=cause)
    tell(tx, rows)
    return written


def reckon_from(
    tx: Transaction, rows: Sequence[PackageRow], since: datetime, intervals: Sequence[Interval], *, cause: str
) -> list[Row]:
    """The ledger from a moment on, made to say what the intervals known by now and these packages give."""
    packages = [row.package for row in rows]
    before = store.taken(tx.session, packages, before=since)
    present = store.rows_from(tx.session, packages[0].project, packages[0].flavour, since)

    known = {row["source"]: ledger.interval_of(row) for row in present}
    known |= {interval.source: interval for interval in intervals}
    lines = list(domain.lines_of(sorted(known.values(), key=domain.in_order), packages, dict(before.hours)))

    changes = ledger.corrections(present, lines, now=tx.now, cause=cause)
    changes += _expiries(tx, packages, lines, before.recognised, cause)
    return ledger.add_rows(tx.session, changes)


def buy(tx: Transaction, package: Package, version: int = 1) -> PackageView:
    """Put a package that was paid for to use. Returns it as it is now."""
    ledger.keep_others_out(tx.session, [package.project])
    told = _say(tx, PackageBought, package.view_at(tx.now, used_parts=0, version=version))
    package = replace(package, event=told)
    tx.session.add(store.row_of(package))
    tx.session.flush()

    written = ledger.add_lines(tx.session, [domain.purchase(package)], tx.now)
    since = store.first_start(tx.session, package.project, package.flavour, package.starts_at)
    if since is not None:
        rows = [row for row in store.of_projects(tx.session, [package.project]) if row.flavour == package.flavour]
        written += reckon_from(tx, rows, since, [], cause=told)
        tell(tx, rows)
    announce(tx, written)
    used = store.taken(tx.session, [package]).hours
    return package.view_at(
        tx.now, used_parts=used.get((package.id, package.window_at(tx.now).period), 0), version=version
    )


def expire(tx: Transaction) -> int:
    """Close the packages that are over; what they still owed is the seller's. Returns how many."""
    due = store.due(tx.session, tx.now, limit=EXPIRIES)
    ledger.keep_others_out(tx.session, sorted({row.project for row in due}))
    for row in due:
        tx.session.refresh(row)
        if row.expired:
            continue
        row.expired, row.version = True, row.version + 1
        tx.session.add(row)
        package = row.package
        taken = store.taken(tx.session, [package])
        line = domain.expiry(package, taken.recognised.get(package.id, 0))
        written = ledger.add_lines(tx.session, [line] if line is not None else [], tx.now)
        announce(tx, written)
        used = taken.hours.get((package.id, package.windows[-1].period), 0)
        _say(tx, PackageExpired, package.view_at(tx.now, used_parts=used, version=row.version))
    return len(due)


def tell(tx: Transaction, rows: Iterable[PackageRow]) -> None:
    """Say once a period that little is left, and once that nothing is."""
    rows = [row for row in rows if not row.expired]
    used = store.taken(tx.session, [row.package for row in rows]).hours
    for row in rows:
        package = row.package
        if not package.starts_at <= tx.now < package.ends_at:
            continue
        period = package.window_at(tx.now).period
        parts = used.get((package.id, period), 0)
        left = package.quota_parts - parts
        if package.is_low(left) and row.low_told < period:
            row.low_told, row.version = period, row.version + 1
            _say(tx, PackageLow, package.view_at(tx.now, used_parts=parts, version=row.version))
        if left == 0 and row.used_up_told < period:
            row.used_up_told, row.version = period, row.version + 1
            _say(tx, PackageUsedUp, package.view_at(tx.now, used_parts=parts, version=row.version))
        tx.session.add(row)


def _expiries(
    tx: Transaction, packages: Sequence[Package], lines: Sequence[Line], recognised: dict[str, int], cause: str
) -> list[Row]:
    """What is left of expired packages changes when late facts used more of them."""
    changes: list[Row] = []
    for package in packages:
        if package.expired:
            used = recognised.get(package.id, 0) + sum(
                line.posted_parts for line in lines if line.package == package.id
            )
            line = domain.expiry(package, used)
            present = store.rows_of_source(tx.session, f"package:{package.id}:expired")
            changes += ledger.corrections(present, [line] if line else [], now=tx.now, cause=cause)
    return changes


def _say(tx: Transaction, kind: type[PackageFact], view: PackageView) -> str:
    return emit(tx, kind, view.id, project=view.project, version=view.version, data=view).id
