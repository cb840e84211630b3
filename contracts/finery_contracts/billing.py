"""Billing: ledger lines, made from facts only."""

from __future__ import annotations

from decimal import Decimal
from typing import Literal

from pydantic import Field

from finery_contracts.envelope import Event
from finery_contracts.model import Record, UtcTime


class LedgerLine(Record):
    """One charge. ``key`` makes it unique: the same fact twice is the same line."""

    id: str
    project: str
    key: str
    noun: str = Field(description="task, deployment or tokens")
    noun_id: str
    description: str
    quantity: Decimal
    unit: Literal["hour", "token"]
    unit_price: Decimal
    amount: Decimal
    currency: str
    started_at: UtcTime
    created_at: UtcTime
    event: str
    created_by: str = ""


class BillingCharged(Event):
    """A line was written into the ledger."""

    NOUN = "billing"
    FACT = "charged"
    SAID_BY = "billing-meter"
    data: LedgerLine
