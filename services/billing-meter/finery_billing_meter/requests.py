"""What the billing meter answers, each within the project of who asks. It only reads."""

from __future__ import annotations

from dataclasses import dataclass

from finery_billing_meter import store
from finery_contracts.billing import (
    Bill,
    BillRequest,
    Cost,
    CostRequest,
    LinePage,
    LinesRequest,
    UsageRequest,
    UsageTotals,
)
from finery_contracts.prices import PriceList, PricesRequest
from finery_kit.bus import Call
from finery_kit.db import Database

MAX_ROWS = 1000  # an answer must fit into one message of the bus


@dataclass(frozen=True)
class Desk:
    """What answering needs."""

    database: Database
    prices: PriceList


async def bill_summary(desk: Desk, call: Call[BillRequest]) -> Bill:
    """``bill.summary``: total and rows of one moment."""
    project, asked = call.by.project, call.body
    total, rows = await desk.database.read(
        lambda session: (
            store.total(session, project, since=asked.since, until=asked.until),
            store.grouped(
                session, project, by=asked.by, since=asked.since, until=asked.until, limit=MAX_ROWS + 1
            ),
        )
    )  # fmt: skip
    return Bill(currency=desk.prices.currency, total=total, rows=rows[:MAX_ROWS], has_more=len(rows) > MAX_ROWS)


async def bill_lines(desk: Desk, call: Call[LinesRequest]) -> LinePage:
    """``bill.lines``."""
    project, asked = call.by.project, call.body
    found = await desk.database.read(
        lambda session: store.lines(
            session, project, after=asked.after, limit=asked.limit + 1, noun_id=asked.noun_id
        )
    )  # fmt: skip
    more = len(found) > asked.limit
    return LinePage(data=found[: asked.limit], has_more=more, next=found[asked.limit - 1].id if more else None)


async def cost(desk: Desk, call: Call[CostRequest]) -> Cost:
    """``cost``: zero for what has no ended interval yet."""
    project, noun_id = call.by.project, call.body.noun_id
    amount = await desk.database.read(lambda session: store.total(session, project, noun_id=noun_id))
    return Cost(amount=amount, currency=desk.prices.currency)


async def usage(desk: Desk, call: Call[UsageRequest]) -> UsageTotals:
    """``usage``."""
    project, deployment = call.by.project, call.body.deployment
    (prompt, completion), rows = await desk.database.read(
        lambda session: (
            store.usage_total(session, project, deployment=deployment),
            store.usage(session, project, deployment=deployment, limit=MAX_ROWS + 1),
        )
    )
    return UsageTotals(
        prompt_tokens=prompt, completion_tokens=completion, rows=rows[:MAX_ROWS], has_more=len(rows) > MAX_ROWS
    )


async def prices(desk: Desk, call: Call[PricesRequest]) -> PriceList:
    """``prices``: the same for every project."""
    return desk.prices
