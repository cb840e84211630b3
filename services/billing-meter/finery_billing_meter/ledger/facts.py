"""Says what was written into the ledger: one fact for each project and write, not one for each line."""

from __future__ import annotations

from collections.abc import Iterable

from finery_billing_meter.ledger.domain import from_parts
from finery_billing_meter.ledger.rows import Row
from finery_billing_meter.ledger.store import view
from finery_contracts.billing import BillingCharged, LinesWritten
from finery_contracts.ids import new_id
from finery_kit.db import Transaction
from finery_kit.delivery import emit

LINES = 100  # in one fact, so that it fits into a webhook


def announce(tx: Transaction, rows: Iterable[Row], *, traceparent: str | None = None) -> None:
    """``billing.charged`` for these rows."""
    projects: dict[str, list[Row]] = {}
    for row in rows:
        projects.setdefault(row["project"], []).append(row)
    for project, written in projects.items():
        for place in range(0, len(written), LINES):
            some = written[place : place + LINES]
            data = LinesWritten.model_construct(
                project=project, currency=some[0]["currency"],
                total=from_parts(sum(row["amount_parts"] for row in some)), lines=[view(row) for row in some],
            )  # fmt: skip
            emit(tx, BillingCharged, new_id("charge"), project=project, version=1, data=data, traceparent=traceparent)
