"""Making, listing and deleting budgets, each within the project of who asks."""

from __future__ import annotations

from dataclasses import replace

from sqlmodel import Session

from finery_billing_meter.budgets import handlers, store
from finery_billing_meter.budgets.domain import Budget
from finery_billing_meter.desk import Desk
from finery_billing_meter.ledger.domain import parts_of
from finery_billing_meter.ledger.store import keep_others_out
from finery_contracts.budgets import BudgetCommand, BudgetPage, BudgetRequest, BudgetsRequest, BudgetView
from finery_contracts.errors import Conflict, NotFound
from finery_contracts.ids import new_id
from finery_kit.bus import Call
from finery_kit.db import Transaction
from finery_kit.idempotency import once

MOST = 50


async def create(desk: Desk, call: Call[BudgetRequest]) -> BudgetView:
    """``budget.create``."""
    asked, by = call.body, call.by

    def work(tx: Transaction) -> BudgetView:
        keep_others_out(tx.session, [by.project])
        known = store.of_project(tx.session, by.project)
        if any(row.name == asked.name for row in known):
            raise Conflict(f"there is a budget {asked.name} already; delete it first", code="name_taken", param="name")
        if len(known) >= MOST:
            raise Conflict(f"a project has at most {MOST} budgets; delete one first", code="too_many_budgets")
        budget = Budget(
            new_id("budget"), by.project, asked.name, asked.period, parts_of(asked.limit), desk.book.currency,
            tuple(sorted(set(asked.alert_at))), asked.stop, asked.user, tx.now, by.user, 1, None,
        )  # fmt: skip
        budget = replace(budget, period_start=budget.start_at(tx.now))
        used, accrual = handlers.used_of(tx.session, budget, tx.now, desk.book)
        tx.session.add(store.row_of(budget, tx.now))
        return budget.view(used + accrual.parts)

    made = await desk.database.write(lambda tx: once(tx, call.asked, BudgetView, work))
    desk.wake()
    return made


async def list_budgets(desk: Desk, call: Call[BudgetsRequest]) -> BudgetPage:
    """``budget.list``: with what is used at this moment."""
    now = desk.database.now()

    def work(session: Session) -> list[BudgetView]:
        found: list[BudgetView] = []
        for row in store.of_project(session, call.by.project):
            used, accrual = handlers.used_of(session, row.budget, now, desk.book)
            found.append(row.budget.view(used + accrual.parts))
        return found

    return BudgetPage(data=await desk.database.read(work))


async def delete(desk: Desk, call: Call[BudgetCommand]) -> BudgetView:
    """``budget.delete``: what it stopped may go on."""

    def work(tx: Transaction) -> BudgetView:
        row = store.named(tx.session, call.by.project, call.body.budget)
        if row is None:
            raise NotFound(f"there is no budget {call.body.budget} in this project", code="budget_not_found")
        budget = row.budget
        used, accrual = handlers.used_of(tx.session, budget, tx.now, desk.book)
        if budget.exhausted:
            budget = replace(budget, exhausted=False, version=budget.version + 1)
            handlers.say(tx, "restored", budget, used + accrual.parts)
        tx.session.delete(row)
        return budget.view(used + accrual.parts)

    gone = await desk.database.write(work)
    desk.wake()
    return gone
