"""Ledger lines as rows of CSV and of FOCUS 1.2 (all mandatory columns; with 1.3's provider columns). Pure.

The rows' billed costs sum to the bill. It refuses to let a cell be taken for a formula by a spreadsheet.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal

from finery_contracts.billing import LedgerLine

PROVIDER = "Finery"
FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n")
CSV = (
    "line", "key", "noun", "noun_id", "name", "description", "flavour", "quantity", "unit", "unit_price", "amount",
    "currency", "started_at", "ended_at", "created_at", "created_by", "package", "period", "corrects", "debit",
    "credit", "posted", "event", "cause",
)  # fmt: skip
FOCUS = (
    "BilledCost", "BillingAccountId", "BillingAccountName", "BillingAccountType", "BillingCurrency", "BillingPeriodEnd",
    "BillingPeriodStart", "ChargeCategory", "ChargeClass", "ChargeDescription", "ChargeFrequency", "ChargePeriodEnd",
    "ChargePeriodStart", "CommitmentDiscountCategory", "CommitmentDiscountId", "CommitmentDiscountName",
    "CommitmentDiscountQuantity", "CommitmentDiscountStatus", "CommitmentDiscountType", "CommitmentDiscountUnit",
    "ConsumedQuantity", "ConsumedUnit", "ContractedCost", "ContractedUnitPrice", "EffectiveCost", "HostProviderName",
    "InvoiceId", "InvoiceIssuerName", "ListCost", "ListUnitPrice", "PricingCategory", "PricingCurrency",
    "PricingQuantity", "PricingUnit", "ProviderName", "PublisherName", "RegionId", "RegionName", "ResourceId",
    "ResourceName", "ResourceType", "ServiceCategory", "ServiceName", "ServiceProviderName", "ServiceSubcategory",
    "SkuId", "SkuMeter", "SkuPriceDetails", "SkuPriceId", "SubAccountId", "SubAccountName", "SubAccountType", "Tags",
    "x_EventIds", "x_LineId", "x_LineKey",
)  # fmt: skip
SERVICES = {
    "task": ("AI and Machine Learning", "Machine Learning", "Model tasks"),
    "deployment": ("AI and Machine Learning", "Generative AI", "Deployments"),
    "tokens": ("AI and Machine Learning", "Generative AI", "Tokens"),
    "notifications": ("Integration", "Messaging", "Notifications"),
    "package": ("AI and Machine Learning", "AI Platforms", "Packages"),
}
UNITS = {"hour": "Hours", "token": "Tokens", "message": "Messages", "package": "Packages"}
SHORTEST = timedelta(seconds=1)


def csv_row(line: LedgerLine) -> list[str]:
    """One line, in the order of ``CSV``."""
    values = {"line": line.id, **line.model_dump()}
    return [cell(values[name]) for name in CSV]


@dataclass(frozen=True)
class Commitment:
    """A package: all hours of all its periods, and what was paid for them."""

    hours: Decimal
    price: Decimal


def focus_row(line: LedgerLine, *, project_name: str, commitments: Mapping[str, Commitment]) -> list[str]:
    """One line, in the order of ``FOCUS``. ``commitments``: the packages of the project."""
    purchase, covered = line.unit == "package", line.package is not None
    month = line.started_at.replace(day=1, hour=0, minute=0, second=0, microsecond=0)
    listed = line.quantity * line.unit_price
    category, subcategory, service = SERVICES[line.noun]
    values: dict[str, object] = {
        "BilledCost": line.amount, "EffectiveCost": _effective(line), "ListCost": listed, "ContractedCost": listed,
        "ListUnitPrice": line.unit_price, "ContractedUnitPrice": line.unit_price,
        "BillingAccountId": line.project, "BillingAccountName": project_name, "BillingAccountType": "Project",
        "BillingCurrency": line.currency, "PricingCurrency": line.currency,
        "BillingPeriodStart": month, "BillingPeriodEnd": (month + timedelta(days=32)).replace(day=1),
        "ChargePeriodStart": line.started_at,
        "ChargePeriodEnd": max(line.ended_at or line.started_at, line.started_at + SHORTEST),
        "ChargeCategory": "Purchase" if purchase and line.quantity else "Usage",
        "ChargeClass": "Correction" if _corrects_a_closed_month(line) else None,
        "ChargeDescription": line.description, "ChargeFrequency": "One-Time" if purchase else "Usage-Based",
        "PricingCategory": "Committed" if covered else "Standard",
        "PricingQuantity": line.quantity, "PricingUnit": UNITS[line.unit],
        "ProviderName": PROVIDER, "PublisherName": PROVIDER, "InvoiceIssuerName": PROVIDER,
        "ServiceProviderName": PROVIDER, "HostProviderName": PROVIDER,
        "InvoiceId": f"{line.project}-{month:%Y-%m}", "ResourceId": line.noun_id, "ResourceName": line.name or None,
        "ResourceType": line.noun, "ServiceCategory": category, "ServiceName": service,
        "ServiceSubcategory": subcategory, "SkuId": line.flavour or line.noun_id, "SkuMeter": UNITS[line.unit],
        "SkuPriceId": f"{line.flavour or line.noun_id}/{_plain(line.unit_price)}",
        "Tags": json.dumps({"user": line.created_by}) if line.created_by else None,
        "x_EventIds": json.dumps([event for event in (line.event, line.cause) if event]), "x_LineId": line.id,
        "x_LineKey": line.key,
    }  # fmt: skip
    if not purchase:
        values |= {"ConsumedQuantity": line.quantity, "ConsumedUnit": UNITS[line.unit]}
    if covered or purchase:
        values |= _commitment(line, commitments.get(line.package or line.noun_id))
    return [cell(values.get(name)) for name in FOCUS]


def cell(value: object) -> str:
    """Text for a table: numbers without exponent, times in UTC, nothing that a spreadsheet would run."""
    if value is None:
        return ""
    if isinstance(value, Decimal):
        return _plain(value)
    if isinstance(value, datetime):
        return value.isoformat(timespec="seconds").replace("+00:00", "Z")
    text = str(value)
    return f"'{text}" if text.startswith(FORMULA) else text


def _effective(line: LedgerLine) -> Decimal:
    """The cost with what was paid in advance spread over its use: a purchase is none, its hours and its rest are."""
    return Decimal(0) if line.debit == "receivable" and line.unit == "package" else line.posted


def _commitment(line: LedgerLine, bought: Commitment | None) -> dict[str, object]:
    """Of one package always in hours: those that were bought, used, or left when it expired."""
    hours: Decimal | None = line.quantity
    status = "Used" if line.package else None
    if line.unit == "package":
        status = None if line.quantity else "Unused"
        hours = bought.hours if bought is not None else None
        if status is not None and bought is not None:
            hours = (bought.hours * line.posted / bought.price).quantize(Decimal("1e-9"))
    return {
        "CommitmentDiscountCategory": "Usage", "CommitmentDiscountId": line.package or line.noun_id,
        "CommitmentDiscountType": "Package", "CommitmentDiscountStatus": status,
        "CommitmentDiscountQuantity": hours, "CommitmentDiscountUnit": UNITS["hour"],
    }  # fmt: skip


def _corrects_a_closed_month(line: LedgerLine) -> bool:
    later = (line.created_at.year, line.created_at.month) > (line.started_at.year, line.started_at.month)
    return later and (line.corrects is not None or line.cause is not None)


def _plain(value: Decimal) -> str:
    text = f"{value:f}"
    return (text.rstrip("0").rstrip(".") or "0") if "." in text else text
