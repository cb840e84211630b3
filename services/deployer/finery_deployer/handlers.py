"""What the deployer does when it hears a fact: load, decide, save. It does not commit; the kit does, at the edge."""

from __future__ import annotations

from finery_contracts.models import ModelDeleted
from finery_deployer import domain, store
from finery_deployer.domain import Wanted
from finery_kit.db import Transaction


def on_model_deleted(tx: Transaction, event: ModelDeleted) -> None:
    """The trials of a model that is gone stop; a deployment that a person made runs on until a person stops it."""
    trials = store.trials_of(tx.session, event.project, event.data.id)

    decisions = [(row, domain.stop(row.view)) for row in trials]

    for row, decision in decisions:
        row.wanted = Wanted.DELETED.value if row.wanted == Wanted.DELETED else Wanted.STOPPED.value
        store.save(tx, row, decision)
