"""Looks at budgets when they can have something to say, and says it once."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from sqlmodel import Session

from finery_billing_meter.budgets import domain, store
from finery_billing_meter.budgets.domain import Accrual, Budget
from finery_billing_meter.deadlines import store as live
from finery_billing_meter.deadlines.domain import Live
from finery_billing_meter.ledger import bill
from finery_billing_meter.ledger.bill import Scope
from finery_billing_meter.ledger.domain import parts_of
from finery_billing_meter.packages import store as package_store
from finery_billing_meter.prices.domain import PriceBook
from finery_contracts.budgets import BudgetAlerted, BudgetExhausted, BudgetFact, BudgetRestored
from finery_kit.db import Transaction
from finery_kit.delivery import emit

AT_ONCE = 20
KINDS: dict[domain.Say, type[BudgetFact]] = {
    "alerted": BudgetAlerted, "exhausted": BudgetExhausted, "restored": BudgetRestored,
}  # fmt: skip


def ring(tx: Transaction, *, book: PriceBook) -> int:
    """Look at those that are due; how many there were."""
    due = store.due(tx.session, tx.now, limit=AT_ONCE)
    for row in due:
        budget = row.budget
        used, accrual = used_of(tx.session, budget, tx.now, book)

        seen = domain.look(budget, used, accrual, tx.now)

        for what, then in seen.said:
            say(tx, what, then, used + accrual.parts)
        row.take(seen.budget, seen.next_at)
        tx.session.add(row)
    return len(due)


def used_of(session: Session, budget: Budget, now: datetime, book: PriceBook) -> tuple[int, Accrual]:
    """(what the ledger has of this period, what runs now)."""
    since = budget.start_at(now)
    used = bill.total(session, Scope(budget.project, since, user=budget.user))
    lives = [one for one in live.running(session, budget.project) if budget.user in (None, one.created_by)]
    return parts_of(used), accrued(session, budget.project, lives, now, book=book, since=since)


def accrued(
    session: Session, project: str, lives: Sequence[Live], now: datetime, *, book: PriceBook,
    since: datetime | None = None,
) -> Accrual:  # fmt: skip
    """What these have cost so far, after what packages pay of it."""
    packages = [row.package for row in package_store.of_projects(session, [project])] if lives else []
    used = package_store.taken(session, packages).hours
    return domain.accrued(lives, book, now, packages=packages, used=used, since=since)


def say(tx: Transaction, what: domain.Say, budget: Budget, used_parts: int) -> None:
    """One fact."""
    view = budget.view(used_parts)
    emit(tx, KINDS[what], budget.id, project=budget.project, version=budget.version, data=view)
