"""Which package an hour comes from. Pure: the answer depends on the intervals and packages, not on who came first.

Intervals take their hours in the order of their start; each hour comes from the package whose period ends soonest among
those valid when it ran, and what no package covers is paid by use. It refuses to carry hours over or to give back.
"""

from __future__ import annotations

from bisect import bisect_right
from calendar import monthrange
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from functools import cached_property
from typing import NamedTuple

from finery_billing_meter.ledger.domain import (
    BILLIONTHS,
    HOUR_S,
    PREPAID,
    RECEIVABLE,
    UNUSED,
    Interval,
    Line,
    from_parts,
    half_even,
    paid_by_use,
    parts_of,
)
from finery_contracts.packages import PackageState, PackageView
from finery_contracts.pools import is_public
from finery_contracts.prices import PackageOffer, Reset

Use = dict[tuple[str, int], int]
"""(package, period) → billionths of hours."""
_MICROSECOND = timedelta(microseconds=1)
_MONTHS: dict[Reset, int] = {"month": 1, "year": 12}
_DAYS: dict[Reset, int] = {"day": 1, "week": 7}


class Window(NamedTuple):
    """One reset period of a package: its hours can be used for what runs from ``start`` on and before ``end``."""

    end: datetime
    bought_at: datetime
    package: str
    period: int
    start: datetime

    @property
    def key(self) -> tuple[str, int]:
        """Where its use is counted."""
        return self.package, self.period


@dataclass(frozen=True)
class Package:
    """Hours that were bought. ``quota_parts``: billionths of hours in each period."""

    id: str
    project: str
    offer: str
    flavour: str
    quota_parts: int
    reset: Reset
    starts_at: datetime
    ends_at: datetime
    price_parts: int
    currency: str
    low_percent: int
    bought_at: datetime
    bought_by: str
    event: str
    expired: bool = False

    @cached_property
    def windows(self) -> tuple[Window, ...]:
        """Its periods, one after the other without a gap; the last one may be short."""
        starts = list(_starts(self.starts_at, self.ends_at, self.reset))
        ends = [*starts[1:], self.ends_at]
        return tuple(
            Window(end, self.bought_at, self.id, period, start)
            for period, (start, end) in enumerate(zip(starts, ends, strict=True))
        )

    @property
    def hours(self) -> Decimal:
        """All that was bought, of every period."""
        return from_parts(self.quota_parts * len(self.windows))

    def window_at(self, moment: datetime) -> Window:
        """The period of that moment; before the first one the first, after the last one the last."""
        place = bisect_right(self.windows, moment, key=lambda window: window.start)
        return self.windows[max(0, place - 1)]

    def state_at(self, moment: datetime, left_parts: int) -> PackageState:
        """What it can do then."""
        if self.expired or moment >= self.ends_at:
            return "expired"
        if moment < self.starts_at:
            return "waiting"
        return "active" if left_parts > 0 else "used_up"

    def view_at(self, moment: datetime, *, used_parts: int, version: int) -> PackageView:
        """As the world sees it; ``used_parts`` is of the period of that moment."""
        window, left = self.window_at(moment), self.quota_parts - used_parts
        return PackageView(
            id=self.id, project=self.project, offer=self.offer, flavour=self.flavour,
            hours=from_parts(self.quota_parts), reset=self.reset, starts_at=self.starts_at, ends_at=self.ends_at,
            price=from_parts(self.price_parts), currency=self.currency, low_percent=self.low_percent,
            bought_at=self.bought_at, bought_by=self.bought_by, version=version, state=self.state_at(moment, left),
            period=window.period, period_start=window.start, period_end=window.end,
            used_hours=from_parts(used_parts), left_hours=from_parts(left),
        )  # fmt: skip

    def is_low(self, left_parts: int) -> bool:
        """Whether its owner should be told."""
        return left_parts * 100 <= self.quota_parts * self.low_percent


def package_of(view: PackageView, *, event: str) -> Package:
    """The package that a fact tells of."""
    return Package(
        view.id, view.project, view.offer, view.flavour, parts_of(view.hours), view.reset, view.starts_at,
        view.ends_at, parts_of(view.price), view.currency, view.low_percent, view.bought_at, view.bought_by, event,
    )  # fmt: skip


def end_of(offer: PackageOffer, starts_at: datetime) -> datetime:
    """When a package of this offer expires that is valid from then on."""
    if offer.valid_months is not None:
        return months_later(starts_at, offer.valid_months)
    return starts_at + timedelta(days=offer.valid_days or 0)


def months_later(anchor: datetime, months: int) -> datetime:
    """The same day so many months later, or the month's last one: 31 January, 28 February, 31 March."""
    year, month = divmod(anchor.month - 1 + months, 12)
    year, month = anchor.year + year, month + 1
    return anchor.replace(year=year, month=month, day=min(anchor.day, monthrange(year, month)[1]))


def covers(package: Package, interval: Interval) -> bool:
    """Whether it could pay for some of this: its flavour, in a public pool, while it is valid."""
    return (
        is_public(interval.pool)
        and interval.flavour == package.flavour
        and interval.started_at < package.ends_at
        and interval.ended_at >= package.starts_at
    )


def lines_of(intervals: Iterable[Interval], packages: Iterable[Package], used: Use) -> Iterator[Line]:
    """The lines of these intervals, which are in their order; ``used`` is what those before them took and grows."""
    known = list(packages)
    for interval in intervals:
        drawn = _draw(interval, [package for package in known if covers(package, interval)], used)
        total = sum(drawn.values())
        by_id = {package.id: package for package in known}
        yield from (_from_package(interval, by_id[key[0]], key[1], parts) for key, parts in drawn.items())
        exact, per = interval.exact_parts
        if total == 0 or total != half_even(exact, per):
            yield paid_by_use(interval, drawn_parts=total)


def in_order(interval: Interval) -> tuple[datetime, str]:
    """Who comes first takes first."""
    return interval.started_at, interval.source


def purchase(package: Package) -> Line:
    """The price is due at once; until the hours are used it is owed to the buyer."""
    return Line(
        f"package:{package.id}", "", -1, package.project, "package", package.id, package.offer,
        f"package {package.offer}: {_hours(package)} of {package.flavour}", package.flavour, "", 0, "", 1, "package",
        from_parts(package.price_parts), package.price_parts, package.price_parts, RECEIVABLE, PREPAID,
        package.currency, package.bought_at, package.ends_at, package.bought_by, package.event,
    )  # fmt: skip


def expiry(package: Package, recognised_parts: int) -> Line | None:
    """What was not used stays with the seller; None when every hour was used."""
    left = package.price_parts - recognised_parts
    if left == 0:
        return None
    return Line(
        f"package:{package.id}:expired", "", -1, package.project, "package", package.id, package.offer,
        f"package {package.offer}: what was not used", package.flavour, "", 0, "", 0, "package", from_parts(0), 0, left,
        PREPAID, UNUSED, package.currency, package.ends_at, package.ends_at, package.bought_by, package.event,
    )  # fmt: skip


def _starts(first: datetime, end: datetime, reset: Reset) -> Iterator[datetime]:
    yield first
    number = 1
    while reset != "none":
        # Counted from the first day each time: the 31st comes back after a short month.
        if reset in _MONTHS:
            start = months_later(first, number * _MONTHS[reset])
        else:
            start = first + timedelta(days=number * _DAYS[reset])
        if start >= end:
            return
        yield start
        number += 1


def _draw(interval: Interval, packages: list[Package], used: Use) -> Use:
    """What the interval takes from each package and period."""
    drawn: Use = {}
    if not packages:
        return drawn
    quota: Mapping[str, int] = {package.id: package.quota_parts for package in packages}
    windows = [window for package in packages for window in _touched(package, interval)]
    for start, parts in _segments(interval, windows):
        for window in sorted(window for window in windows if window.start <= start < window.end):
            take = min(parts, quota[window.package] - used.get(window.key, 0))
            if take > 0:
                parts -= take
                used[window.key] = used.get(window.key, 0) + take
                drawn[window.key] = drawn.get(window.key, 0) + take
    return drawn


def _touched(package: Package, interval: Interval) -> tuple[Window, ...]:
    """The windows that the interval meets."""
    first, last = package.window_at(interval.started_at), package.window_at(interval.ended_at)
    return package.windows[first.period : last.period + 1]


def _segments(interval: Interval, windows: list[Window]) -> Iterator[tuple[datetime, int]]:
    """(start, billionths of hours) between the moments where a period begins or ends; they sum to the whole."""
    start, end = interval.started_at, interval.ended_at
    cuts = sorted({moment for window in windows for moment in (window.start, window.end) if start < moment < end})
    exact, per = interval.exact_parts
    whole, before = half_even(exact, per), 0
    for place, cut in zip([start, *cuts], [*cuts, None], strict=True):
        upto = whole if cut is None else min(whole, _parts_until(interval, cut))
        yield place, upto - before
        before = upto


def _parts_until(interval: Interval, moment: datetime) -> int:
    microseconds = (moment - interval.started_at) // _MICROSECOND
    return half_even(microseconds * interval.instances * BILLIONTHS, HOUR_S * 10**6)


def _from_package(interval: Interval, package: Package, period: int, parts: int) -> Line:
    recognised = package.price_parts * parts // (package.quota_parts * len(package.windows))
    return paid_by_use(interval)._replace(
        package=package.id, period=period, quantity_parts=parts, amount_parts=0, posted_parts=recognised, debit=PREPAID,
    )  # fmt: skip


def _hours(package: Package) -> str:
    hours = f"{from_parts(package.quota_parts).normalize():f} hours"
    return hours if package.reset == "none" else f"{hours} each {package.reset}"
