"""``bill.verify``: proves the ledger against the event log, which another service keeps. It changes nothing.

What happened a moment ago may stand in one of the two and not yet in the other, so what is merely missing is looked for
again before it is called a difference.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from itertools import chain, islice

from pydantic import ValidationError

from finery_billing_meter.desk import Desk
from finery_billing_meter.ledger import bill
from finery_billing_meter.ledger.bill import Scope
from finery_billing_meter.ledger.domain import from_parts
from finery_billing_meter.ledger.proof import Evidence, differences, miscounted
from finery_billing_meter.ledger.rows import Row
from finery_contracts.access import Actor, Role
from finery_contracts.billing import Difference, Verification, VerifyRequest
from finery_contracts.deployments import DeploymentInstanceEnded
from finery_contracts.errors import Forbidden
from finery_contracts.log import LogRequest
from finery_contracts.notifications import NotificationMetered
from finery_contracts.packages import PackageBought, PackageExpired
from finery_contracts.registry import EVENTS
from finery_contracts.tasks import TaskAttemptEnded
from finery_contracts.usage import UsageRecorded
from finery_kit.bus import Call

KINDS = (TaskAttemptEnded, DeploymentInstanceEnded, UsageRecorded, NotificationMetered, PackageBought, PackageExpired)
PAGE, SHOWN = 1000, 100
LOOKS, PAUSE_S = 4, 1.0
ON_ITS_WAY = {"missing", "surplus"}


async def bill_verify(desk: Desk, call: Call[VerifyRequest]) -> Verification:
    """``bill.verify``.

    Raises:
        Forbidden: somebody other than the operator asks for all projects.
    """
    if call.body.all_projects and call.by.role is not Role.OPERATOR:
        raise Forbidden("only the operator may verify all projects", code="role_too_low", param="all_projects")
    project = None if call.body.all_projects else call.by.project
    for look in range(1, LOOKS + 1):
        evidence = await _heard(desk, call.by, project)
        rows, counts = await _rows(desk, project), await desk.database.read(lambda s: bill.counts(s, project))
        found = await asyncio.to_thread(_judged, evidence, rows, counts=counts, currency=desk.book.currency)
        waits = found.differences and {difference.what for difference in found.differences} <= ON_ITS_WAY
        if not waits or look == LOOKS:
            break
        await asyncio.sleep(PAUSE_S)
    return found


def _judged(evidence: Evidence, rows: list[Row], *, counts: list[Row], currency: str) -> Verification:
    expected = {line.key: line for line in evidence.lines()}
    every = chain(differences(evidence, expected, rows), miscounted(evidence.used.counts, counts))
    found: list[Difference] = [*evidence.unpriced, *islice(every, SHOWN + 1)]
    total_ledger, total_log = _sum(rows), from_parts(sum(line.amount_parts for line in expected.values()))
    return Verification(
        ok=not found and total_ledger == total_log, facts=evidence.facts, lines=len(rows), currency=currency,
        total_ledger=total_ledger, total_log=total_log, differences=found[:SHOWN], has_more=len(found) > SHOWN,
    )  # fmt: skip


def _sum(rows: Iterable[Row]):
    return from_parts(sum(row["amount_parts"] for row in rows))


async def _heard(desk: Desk, actor: Actor, project: str | None) -> Evidence:
    evidence, asked = Evidence(desk.book), LogRequest(
        types=[kind.type_name() for kind in KINDS], limit=PAGE, all_projects=project is None
    )  # fmt: skip
    while True:
        page = await desk.log.page(asked, actor)
        for logged in page.data:
            kind = EVENTS.get(str(logged.event.get("type")))
            if kind in KINDS:
                try:
                    evidence.hear(kind.model_validate(logged.event))
                except ValidationError as fault:
                    told = str(fault.errors()[0]["msg"])
                    evidence.unpriced.append(
                        Difference(key="", what="unreadable", log=told, event=str(logged.event.get("id")))
                    )
        if not page.has_more:
            return evidence
        asked = asked.model_copy(update={"after": page.next})


async def _rows(desk: Desk, project: str | None) -> list[Row]:
    rows: list[Row] = []
    while True:
        after = rows[-1]["id"] if rows else None
        some = await desk.database.read(
            lambda session, after=after: bill.rows(session, Scope(project), after=after, limit=10_000)
        )  # fmt: skip
        rows += some
        if len(some) < 10_000:
            return rows
