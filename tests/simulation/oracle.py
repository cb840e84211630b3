"""What a bill must come to, reckoned once more from the rules of SPEC BI1 and BI2 with exact fractions.

It shares no code with the billing meter and knows no order of arrival: intervals and packages in, amounts out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from fractions import Fraction
from itertools import pairwise

from tests.simulation.rules import Charge

BILLIONTH = 10**9
MICRO = timedelta(microseconds=1)


@dataclass(frozen=True)
class Bought:
    """A package: hours in each of its periods, which follow each other."""

    id: str
    project: str
    parts: int
    bought_at: datetime
    periods: tuple[tuple[datetime, datetime], ...]


@dataclass(frozen=True)
class Price:
    """An hour of one instance costs this from then on."""

    since: datetime
    per_hour: Fraction


def amounts(charges: Sequence[Charge], packages: Sequence[Bought], prices: Sequence[Price]) -> dict[str, int]:
    """Billionths of the currency by source; those that packages paid for whole are zero."""
    used: dict[tuple[str, int], int] = {}
    found: dict[str, int] = {}
    for charge in sorted(charges, key=lambda charge: (charge.started_at, charge.source)):
        exact = Fraction(repr(charge.running_s)) * charge.instances * BILLIONTH / 3600
        mine = [package for package in packages if charge.public and package.project == charge.project]
        drawn = sum(take for take in _drawn(charge, mine, used, round(exact)))
        price = next(one.per_hour for one in reversed(prices) if one.since <= charge.started_at)
        found[charge.source] = 0 if drawn == round(exact) and drawn else round((exact - drawn) * price)
    return found


def _drawn(charge: Charge, packages: list[Bought], used: dict[tuple[str, int], int], whole: int) -> list[int]:
    """Piece by piece between the moments where some period begins or ends: soonest end first, then who bought first."""
    start = charge.started_at
    end = start + timedelta(seconds=charge.running_s)
    moments = {moment for package in packages for period in package.periods for moment in period}
    cuts = [start, *sorted(moment for moment in moments if start < moment < end), end]
    taken: list[int] = []
    before = 0
    for begin, stop in pairwise(cuts) if start < end else [(start, end)]:
        upto = whole if stop == end else min(whole, _parts(charge, stop))
        left, before = upto - before, upto
        open_now = sorted(
            (until, package.bought_at, package.id, number, package.parts)
            for package in packages
            for number, (since, until) in enumerate(package.periods)
            if since <= begin < until
        )
        for _, _, package_id, number, quota in open_now:
            take = min(left, quota - used.get((package_id, number), 0))
            if take > 0:
                left -= take
                used[package_id, number] = used.get((package_id, number), 0) + take
                taken.append(take)
    return taken


def _parts(charge: Charge, moment: datetime) -> int:
    return round(Fraction((moment - charge.started_at) // MICRO * charge.instances * BILLIONTH, 3600 * 10**6))
