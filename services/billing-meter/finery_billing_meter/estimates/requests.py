"""What it would cost to run something, and what it has cost so far: both are estimates until an interval has ended."""

from __future__ import annotations

from datetime import datetime
from decimal import Decimal

from sqlmodel import Session

from finery_billing_meter.budgets import handlers as budgets
from finery_billing_meter.deadlines import store as live
from finery_billing_meter.desk import Desk
from finery_billing_meter.ledger import bill
from finery_billing_meter.ledger.bill import Scope
from finery_billing_meter.ledger.domain import Interval, from_parts
from finery_billing_meter.packages import store as packages
from finery_billing_meter.packages.domain import Package, Use, lines_of
from finery_contracts.billing import Cost, CostRequest
from finery_contracts.errors import InvalidRequest
from finery_contracts.estimates import Covered, EstimateRequest, Price, PriceRange
from finery_kit.bus import Call


async def cost(desk: Desk, call: Call[CostRequest]) -> Cost:
    """``cost``: ended intervals to the last decimal, and an estimate of what runs."""
    project, noun_id, now = call.by.project, call.body.noun_id, desk.database.now()

    def work(session: Session) -> tuple[Decimal, Decimal]:
        lives = live.running(session, project, noun_id=noun_id)
        accrual = budgets.accrued(session, project, lives, now, book=desk.book)
        return bill.total(session, Scope(project, noun_id=noun_id)), from_parts(accrual.parts)

    charged, running = await desk.database.read(work)
    return Cost(amount=charged + running, charged=charged, running=running, currency=desk.book.currency)


async def estimate(desk: Desk, call: Call[EstimateRequest]) -> PriceRange:
    """``estimate``: the price of so many seconds from now on, with what packages would pay of it."""
    asked, project, now = call.body, call.by.project, desk.database.now()
    if asked.flavour not in desk.book.prices.flavours:
        names = ", ".join(sorted(desk.book.prices.flavours))
        raise InvalidRequest(f"there is no flavour {asked.flavour}; there are {names}", param="flavour")
    low, expected, high = sorted((asked.low_s or asked.seconds, asked.seconds, asked.high_s or asked.seconds))

    def work(session: Session) -> list[Price]:
        known = [row.package for row in packages.of_projects(session, [project])]
        used = packages.taken(session, known).hours
        return [_price(desk, project, asked, seconds, now, known, dict(used)) for seconds in (low, expected, high)]

    prices = await desk.database.read(work)
    return PriceRange(
        flavour=asked.flavour, instances=asked.instances, per_hour=desk.book.hour(asked.flavour, now),
        currency=desk.book.currency, low=prices[0], expected=prices[1], high=prices[2],
    )  # fmt: skip


def _price(
    desk: Desk, project: str, asked: EstimateRequest, seconds: float, now: datetime, known: list[Package], used: Use
) -> Price:
    interval = Interval(
        "estimate", project, "task", "", "", "", asked.flavour, asked.pool, asked.instances, repr(seconds), now,
        desk.book.hour(asked.flavour, now), desk.book.currency, "", "",
    )  # fmt: skip
    lines = list(lines_of([interval], known, used)) if seconds > 0 else []
    covered = [Covered(package=line.package, hours=from_parts(line.quantity_parts)) for line in lines if line.package]
    return Price(
        seconds=seconds, hours=from_parts(sum(line.quantity_parts for line in lines)),
        amount=from_parts(sum(line.amount_parts for line in lines)), covered=covered,
    )  # fmt: skip
