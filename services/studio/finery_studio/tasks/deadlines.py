"""What studio does when the billing meter says that time or money is used up: facts in, stops out."""

from __future__ import annotations

from finery_contracts.autostop import AutoStopDue, AutoStopWarned
from finery_contracts.budgets import BudgetExhausted, BudgetRestored
from finery_contracts.tasks import StopReason
from finery_kit.db import Transaction
from finery_studio.pools import store as pool_store
from finery_studio.tasks import store
from finery_studio.tasks.handlers import TaskDesk


def on_auto_stop_warned(tx: Transaction, event: AutoStopWarned, *, desk: TaskDesk) -> None:
    """A task's people hear that it stops soon."""
    if event.data.noun == "task":
        desk.warn(tx, event.data.noun_id, event.data.due_at)


def on_auto_stop_due(tx: Transaction, event: AutoStopDue, *, desk: TaskDesk) -> None:
    """A task has run as long as it may; one that has ended meanwhile stays as it is."""
    if event.data.noun == "task":
        desk.auto_stop(tx, event.data.noun_id, event.data.due_at)


def on_budget_exhausted(tx: Transaction, event: BudgetExhausted, *, desk: TaskDesk) -> None:
    """With ``stop``, what runs saves and waits, and nothing of the project begins until there is money again."""
    budget = event.data
    if not budget.stop:
        return
    reason = f"budget {budget.name} of {budget.limit:f} {budget.currency} is used up"
    pool_store.hold(tx, event.project, cause=budget.id, reason=reason)
    for task_id in store.live_ids(tx.session, event.project):
        desk.stop_if_going(tx, task_id, StopReason.BUDGET)


def on_budget_restored(tx: Transaction, event: BudgetRestored, *, desk: TaskDesk) -> None:
    """There is money again: what waited goes on by itself."""
    pool_store.release(tx, event.project, cause=event.data.id)
    tx.after_commit.append(desk.ring)
