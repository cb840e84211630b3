"""What the deployer does when it hears a fact: load, decide, save. It does not commit; the kit does, at the edge."""

from __future__ import annotations

from finery_contracts.autostop import AutoStopDue, AutoStopWarned
from finery_contracts.budgets import BudgetExhausted, BudgetRestored
from finery_contracts.models import ModelDeleted
from finery_deployer import domain, lifecycle, store
from finery_deployer.domain import Wanted
from finery_kit.db import Transaction


def on_model_deleted(tx: Transaction, event: ModelDeleted) -> None:
    """The trials of a model that is gone stop; a deployment that a person made runs on until a person stops it."""
    trials = store.trials_of(tx.session, event.project, event.data.id)

    decisions = [(row, domain.stop(row.view)) for row in trials]

    for row, decision in decisions:
        row.wanted = Wanted.DELETED.value if row.wanted == Wanted.DELETED else Wanted.STOPPED.value
        store.save(tx, row, decision)


def on_auto_stop_warned(tx: Transaction, event: AutoStopWarned) -> None:
    """Its people hear that it stops soon."""
    row = store.held(tx.session, event.data.noun_id) if event.data.noun == "deployment" else None
    if row is None:
        return

    decision = domain.warn_of_auto_stop(row.view, event.data.due_at)

    store.save(tx, row, decision)


def on_auto_stop_due(tx: Transaction, event: AutoStopDue) -> None:
    """It has run as long as it may."""
    if event.data.noun == "deployment":
        lifecycle.rest(tx, event.data.noun_id, wanted=Wanted.STOPPED)


def on_budget_exhausted(tx: Transaction, event: BudgetExhausted) -> None:
    """Everything of the project that runs stops, and nothing is started until there is money again."""
    if not event.data.stop:
        return
    store.hold(tx, event.project, event.data.id)
    for deployment_id in store.running_ids(tx.session, event.project):
        lifecycle.rest(tx, deployment_id, wanted=Wanted.STOPPED)


def on_budget_restored(tx: Transaction, event: BudgetRestored) -> None:
    """Deployments may be started again; which of them, people decide."""
    store.release(tx, event.project, event.data.id)
