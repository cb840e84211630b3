"""Exports: each line with its event ids, the sum that of the bill, FOCUS's columns and values, and no formulas."""

from __future__ import annotations

import json
import re
from datetime import datetime, timedelta
from decimal import Decimal

import pytest
from billing_rig import AT, PRICES, Rig, attempt_ended, call_of, instance_ended, notifications_metered, usage_recorded
from test_billing_packages import OFFERS

from finery_billing_meter.ledger.export import FOCUS, cell
from finery_billing_meter.packages import handlers as packages

MANDATORY = {
    "BilledCost", "BillingAccountId", "BillingAccountName", "BillingCurrency", "BillingPeriodEnd",
    "BillingPeriodStart", "ChargeCategory", "ChargeClass", "ChargeDescription", "ChargePeriodEnd", "ChargePeriodStart",
    "ContractedCost", "EffectiveCost", "InvoiceIssuerName", "ListCost", "PricingQuantity", "PricingUnit",
    "ProviderName", "PublisherName", "ServiceCategory", "ServiceName",
}  # fmt: skip
NULL_ALLOWED = {"ChargeClass", "ChargeDescription", "PricingQuantity", "PricingUnit"}
ALLOWED = {
    "ChargeCategory": {"Usage", "Purchase", "Tax", "Credit", "Adjustment"},
    "ChargeClass": {"", "Correction"},
    "ChargeFrequency": {"One-Time", "Recurring", "Usage-Based"},
    "PricingCategory": {"Standard", "Dynamic", "Committed", "Other", ""},
    "CommitmentDiscountCategory": {"Spend", "Usage", ""},
    "CommitmentDiscountStatus": {"Used", "Unused", ""},
    "ServiceCategory": {
        "AI and Machine Learning", "Analytics", "Business Applications", "Compute", "Databases", "Developer Tools",
        "Multicloud", "Identity", "Integration", "Internet of Things", "Management and Governance", "Media",
        "Migration", "Mobile", "Networking", "Security", "Storage", "Web", "Other",
    },
}  # fmt: skip
COSTS = ("BilledCost", "EffectiveCost", "ListCost", "ContractedCost")


async def a_month(rig: Rig) -> Rig:
    rig.prices = PRICES.model_copy(update={"packages": OFFERS})
    rig.clock.now = AT
    await rig.ask("package.buy", offer="small")
    await rig.hear_all(
        [
            attempt_ended("late", running_s=8 * 3600.0, flavour="gpu", started_at=AT + timedelta(hours=9)),
            attempt_ended("task_2", running_s=100.0), instance_ended(), notifications_metered("k"),
            usage_recorded([call_of("dep_1", "key_1", 1000, 10)]),
        ]
    )  # fmt: skip
    rig.clock.now = AT + timedelta(days=40)
    await rig.hear(attempt_ended("early", running_s=5 * 3600.0, flavour="gpu", started_at=AT + timedelta(hours=1)))
    await rig.database.write(packages.expire)
    return rig


async def table(rig: Rig, form: str) -> list[dict[str, str]]:
    found, page = [], await rig.ask("bill.export", format=form, limit=3)
    while True:
        found += [dict(zip(page.columns, row, strict=True)) for row in page.rows]
        if page.next is None:
            return found
        page = await rig.ask("bill.export", format=form, limit=3, after=page.next)


@pytest.mark.parametrize(("form", "cost"), [("csv", "amount"), ("focus", "BilledCost")])
async def test_the_exported_lines_sum_to_the_bill_and_name_their_events(rig: Rig, form: str, cost: str):
    await a_month(rig)

    rows = await table(rig, form)
    lines = await rig.lines()

    assert sum(Decimal(row[cost]) for row in rows) == (await rig.ask("bill.summary")).total != 0
    assert len(rows) == len(lines)
    events = {line.id: [event for event in (line.event, line.cause) if event] for line in lines}
    if form == "focus":
        assert {row["x_LineId"]: json.loads(row["x_EventIds"]) for row in rows} == events
    else:
        assert {row["line"]: [e for e in (row["event"], row["cause"]) if e] for row in rows} == events


async def test_focus_has_all_mandatory_columns_with_values_that_are_allowed(rig: Rig):
    rows = await table(await a_month(rig), "focus")

    assert set(FOCUS) >= MANDATORY | {"ServiceProviderName", "HostProviderName"}
    for row in rows:
        assert [name for name in MANDATORY - NULL_ALLOWED if row[name] == ""] == []
        for name, values in ALLOWED.items():
            assert row[name] in values, name
        for name in (*COSTS, "ListUnitPrice", "ContractedUnitPrice", "PricingQuantity"):
            assert re.fullmatch(r"-?\d+(\.\d+)?", row[name]), name
        assert re.fullmatch(r"[A-Z]{3}", row["BillingCurrency"])
        for name in ("BillingPeriod", "ChargePeriod"):
            start, end = (datetime.fromisoformat(row[f"{name}{side}"]) for side in ("Start", "End"))
            assert start < end
            assert row[f"{name}Start"].endswith("Z")


async def test_focus_spreads_what_was_paid_in_advance_over_its_use(rig: Rig):
    rows = await table(await a_month(rig), "focus")

    bought = [row for row in rows if row["ChargeCategory"] == "Purchase"]
    committed = [row for row in rows if row["CommitmentDiscountStatus"]]

    assert [(row["BilledCost"], row["EffectiveCost"]) for row in bought] == [("20", "0")]
    assert sum(Decimal(row["EffectiveCost"]) for row in committed) == 20
    assert {row["ChargeClass"] for row in rows} == {"", "Correction"}


async def test_focus_counts_a_package_in_hours_from_its_purchase_to_its_end(rig: Rig):
    await a_month(rig)
    await rig.ask("package.buy", offer="odd")
    await rig.hear(attempt_ended("task_3", running_s=3600.0, flavour="gpu", started_at=rig.clock.now))
    rig.clock.now += timedelta(days=10)
    await rig.database.write(packages.expire)
    rows = [row for row in await table(rig, "focus") if row["CommitmentDiscountId"]]
    hours = {"": Decimal(0), "Used": Decimal(0), "Unused": Decimal(0)}
    for row in rows:
        assert row["CommitmentDiscountUnit"] == "Hours"
        hours[row["CommitmentDiscountStatus"]] += Decimal(row["CommitmentDiscountQuantity"])

    assert hours == {"": 13, "Used": 11, "Unused": 2}


async def test_focus_lists_what_its_quantity_and_price_give(rig: Rig):
    for row in await table(await a_month(rig), "focus"):
        for kind in ("List", "Contracted"):
            assert Decimal(row[f"{kind}Cost"]) == Decimal(row["PricingQuantity"]) * Decimal(row[f"{kind}UnitPrice"])


@pytest.mark.parametrize("text", ["=1+1", "+1", "-2+3", "@SUM(A1)", "\t=1", "\r=1", '=HYPERLINK("http://x")'])
def test_a_cell_is_never_a_formula(text: str):
    assert cell(text) == f"'{text}"


def test_numbers_stay_numbers():
    assert [cell(Decimal(n)) for n in ("-1.50", "0E-9", "1E+3", "0.000000001")] == ["-1.5", "0", "1000", "0.000000001"]
