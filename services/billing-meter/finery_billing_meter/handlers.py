"""What the billing meter does with what it hears: each fact becomes its charges, once."""

from __future__ import annotations

from finery_billing_meter import domain, store
from finery_billing_meter.domain import Charge
from finery_contracts.billing import BillingCharged
from finery_contracts.deployments import DeploymentInstanceEnded
from finery_contracts.envelope import Event
from finery_contracts.prices import PriceList
from finery_contracts.tasks import TaskAttemptEnded
from finery_contracts.usage import UsageRecorded
from finery_kit.db import Transaction
from finery_kit.delivery import emit


def on_attempt_ended(tx: Transaction, event: TaskAttemptEnded, *, prices: PriceList) -> None:
    """A task's running time."""
    charge = domain.charge_of_attempt(event, prices)

    if charge is not None:
        _write(tx, event, charge)


def on_instance_ended(tx: Transaction, event: DeploymentInstanceEnded, *, prices: PriceList) -> None:
    """An instance's running time."""
    charge = domain.charge_of_instance(event, prices)

    if charge is not None:
        _write(tx, event, charge)


def on_usage_recorded(tx: Transaction, event: UsageRecorded, *, prices: PriceList) -> None:
    """Tokens: counted always, charged where they cost something."""
    counts = domain.counts_of(event)

    charges = [domain.charge_of_tokens(count, prices) for count in counts]

    for count in counts:
        store.add_count(tx.session, count, project=event.project)
    for charge in charges:
        if charge is not None:
            _write(tx, event, charge)


def _write(tx: Transaction, event: Event, charge: Charge) -> None:
    line = store.add_line(tx.session, charge, project=event.project, event=event.id, now=tx.now)
    if line is not None:
        emit(
            tx, BillingCharged, line.id, project=line.project, version=1, data=line, traceparent=event.traceparent
        )  # fmt: skip
