"""When a budget has something to say. Pure: what is used and how fast it grows in, facts and the next look out.

Used is what the ledger has of the period plus what runs now has cost so far. It refuses to say a threshold twice in a
period, and looks again no later than the time at which the next one can be reached.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Literal, NamedTuple

from finery_billing_meter.deadlines.domain import Live
from finery_billing_meter.ledger.domain import BILLIONTHS, HOUR_S, Interval, from_parts
from finery_billing_meter.packages.domain import Package, Use, in_order, lines_of, months_later
from finery_billing_meter.prices.domain import PriceBook, PriceMissing
from finery_contracts.budgets import BudgetPeriod, BudgetView

Say = Literal["alerted", "exhausted", "restored"]
SOONEST = timedelta(milliseconds=200)


class Accrual(NamedTuple):
    """What runs now: its cost so far in the period, and how much each second adds, in billionths."""

    parts: int
    per_second: float


@dataclass(frozen=True)
class Budget:
    """A budget and what was told of it in the period that began at ``period_start``."""

    id: str
    project: str
    name: str
    period: BudgetPeriod
    limit_parts: int
    currency: str
    alert_at: tuple[int, ...]
    stop: bool
    user: str | None
    created_at: datetime
    created_by: str
    version: int
    period_start: datetime | None
    alerted: int = 0
    exhausted: bool = False

    def start_at(self, now: datetime) -> datetime | None:
        """Where the period of that moment begins."""
        return month_of(now) if self.period == "month" else None

    def view(self, used_parts: int) -> BudgetView:
        """As the world sees it."""
        return BudgetView(
            id=self.id, project=self.project, name=self.name, period=self.period, period_start=self.period_start,
            limit=from_parts(self.limit_parts), currency=self.currency, alert_at=list(self.alert_at), stop=self.stop,
            user=self.user, used=from_parts(used_parts), alerted=self.alerted or None, exhausted=self.exhausted,
            created_at=self.created_at, created_by=self.created_by, version=self.version,
        )  # fmt: skip


class Look(NamedTuple):
    """The budget as it is afterwards, what to say in this order, and when to look again."""

    budget: Budget
    said: list[tuple[Say, Budget]]
    next_at: datetime | None


def month_of(moment: datetime) -> datetime:
    """The first moment of the UTC month."""
    return moment.replace(day=1, hour=0, minute=0, second=0, microsecond=0)


def look(budget: Budget, used_parts: int, accrual: Accrual, now: datetime) -> Look:
    """``used_parts``: the ledger's sum of the period of ``now``; ``accrual``: what runs on top of it."""
    said: list[tuple[Say, Budget]] = []
    used = used_parts + accrual.parts
    if budget.start_at(now) != budget.period_start:
        budget = replace(budget, period_start=budget.start_at(now), alerted=0)
    reached = max((percent for percent in budget.alert_at if _reached(budget, percent, used)), default=0)
    if reached > budget.alerted:
        budget = replace(budget, alerted=reached, version=budget.version + 1)
        said.append(("alerted", budget))
    full = used >= budget.limit_parts
    if full != budget.exhausted:
        budget = replace(budget, exhausted=full, version=budget.version + 1)
        said.append(("exhausted" if full else "restored", budget))
    return Look(budget, said, _next(budget, used, accrual, now))


def accrued(
    lives: Iterable[Live], book: PriceBook, now: datetime, *, packages: Iterable[Package] = (), used: Use | None = None,
    since: datetime | None = None,
) -> Accrual:  # fmt: skip
    """What these would cost if they ended now; ``used`` is what packages gave already.

    What started before ``since`` is left out: its line will belong to the period it started in. The speed is that of
    the full price, for a package may be used up at any moment.
    """
    intervals: list[Interval] = []
    speed = 0.0
    for live in lives:
        ran_s = live.running_s(now)
        if live.since is None or (since is not None and live.since < since):
            continue
        try:
            price = book.hour(live.flavour, live.since)
        except PriceMissing:
            continue
        speed += float(price) * live.instances * BILLIONTHS / HOUR_S
        if ran_s == 0:
            continue
        intervals.append(
            Interval(
                f"live:{live.noun_id}", live.project, live.noun, live.noun_id, live.name, "", live.flavour, live.pool,
                live.instances, repr(ran_s), live.since, price, book.currency, live.created_by, "",
            )
        )  # fmt: skip
    lines = lines_of(sorted(intervals, key=in_order), packages, dict(used or {}))
    return Accrual(sum(line.amount_parts for line in lines), speed)


def _reached(budget: Budget, percent: int, used: int) -> bool:
    return used * 100 >= budget.limit_parts * percent


def _next(budget: Budget, used: int, accrual: Accrual, now: datetime) -> datetime | None:
    end = months_later(budget.period_start, 1) if budget.period_start is not None else None
    marks = [-(-budget.limit_parts * percent // 100) for percent in budget.alert_at if percent > budget.alerted]
    if not budget.exhausted:
        marks.append(budget.limit_parts)
    ahead = [mark - used for mark in marks if mark > used]
    if not ahead or accrual.per_second <= 0:
        return end
    reached = now + max(SOONEST, timedelta(seconds=min(min(ahead) / accrual.per_second, 366 * 86_400.0)))
    return reached if end is None else min(end, reached)
