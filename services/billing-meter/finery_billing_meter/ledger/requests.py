"""Answers about bills, each within the project of who asks. It only reads."""

from __future__ import annotations

from finery_billing_meter.desk import Desk
from finery_billing_meter.ledger import bill, export
from finery_billing_meter.ledger.bill import Scope
from finery_billing_meter.ledger.domain import from_parts
from finery_billing_meter.packages import store as packages
from finery_contracts.billing import (
    Accounts,
    AccountsRequest,
    AsOfRequest,
    Bill,
    BillRequest,
    ExportPage,
    ExportRequest,
    LinePage,
    LinesRequest,
    UsageRequest,
    UsageTotals,
)
from finery_contracts.prices import PriceList, PricesRequest
from finery_kit.bus import Call

MAX_ROWS = 1000  # an answer must fit into one message of the bus


async def bill_summary(desk: Desk, call: Call[BillRequest]) -> Bill:
    """``bill.summary``: total and rows of one moment."""
    return await _bill(desk, call.body, Scope(call.by.project, call.body.since, call.body.until))


async def bill_as_of(desk: Desk, call: Call[AsOfRequest]) -> Bill:
    """``bill.as_of``: what the bill was, by what was written by then."""
    asked = call.body
    found = await _bill(desk, asked, Scope(call.by.project, asked.since, asked.until, at=asked.at))
    return found.model_copy(update={"as_of": asked.at})


async def bill_lines(desk: Desk, call: Call[LinesRequest]) -> LinePage:
    """``bill.lines``."""
    asked = call.body
    scope = Scope(call.by.project, noun_id=asked.noun_id)
    found = await desk.database.read(
        lambda session: bill.lines(session, scope, after=asked.after, limit=asked.limit + 1)
    )  # fmt: skip
    more = len(found) > asked.limit
    return LinePage(data=found[: asked.limit], has_more=more, next=found[asked.limit - 1].id if more else None)


async def bill_export(desk: Desk, call: Call[ExportRequest]) -> ExportPage:
    """``bill.export``: a page of the table."""
    asked, by = call.body, call.by
    scope = Scope(by.project, asked.since, asked.until)
    found, bought = await desk.database.read(
        lambda session: (
            bill.lines(session, scope, after=asked.after, limit=asked.limit + 1),
            [row.package for row in packages.of_projects(session, [by.project])],
        )
    )
    shown = found[: asked.limit]
    if asked.format == "csv":
        columns, rows = export.CSV, [export.csv_row(line) for line in shown]
    else:
        kept = {package.id: export.Commitment(package.hours, from_parts(package.price_parts)) for package in bought}
        columns, name = export.FOCUS, by.project_name
        rows = [export.focus_row(line, project_name=name, commitments=kept) for line in shown]
    return ExportPage(columns=list(columns), rows=rows, next=shown[-1].id if len(found) > len(shown) else None)


async def bill_accounts(desk: Desk, call: Call[AccountsRequest]) -> Accounts:
    """``bill.accounts``: what is owed by whom, and what was earned."""
    found = await desk.database.read(lambda session: bill.accounts(session, call.by.project))
    return Accounts(currency=desk.book.currency, data=found, sum=sum((a.balance for a in found), bill.ZERO).normalize())


async def usage(desk: Desk, call: Call[UsageRequest]) -> UsageTotals:
    """``usage``."""
    project, deployment = call.by.project, call.body.deployment
    (prompt, completion), rows = await desk.database.read(
        lambda session: (
            bill.usage_total(session, project, deployment=deployment),
            bill.usage(session, project, deployment=deployment, limit=MAX_ROWS + 1),
        )
    )
    return UsageTotals(
        prompt_tokens=prompt, completion_tokens=completion, rows=rows[:MAX_ROWS], has_more=len(rows) > MAX_ROWS
    )


async def prices(desk: Desk, call: Call[PricesRequest]) -> PriceList:
    """``prices``: the same for every project."""
    return desk.book.prices


async def _bill(desk: Desk, asked: BillRequest, scope: Scope) -> Bill:
    total, rows = await desk.database.read(
        lambda session: (
            bill.total(session, scope), bill.grouped(session, scope, by=asked.by, limit=MAX_ROWS + 1)
        )
    )  # fmt: skip
    return Bill(currency=desk.book.currency, total=total, rows=rows[:MAX_ROWS], has_more=len(rows) > MAX_ROWS)
