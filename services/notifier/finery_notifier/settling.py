"""What is written when attempts ended: many deliveries in one transaction, the log, the metering, and who was told.

An attempt that was overtaken (its lease had ended and another replica took over) changes nothing.
"""

from __future__ import annotations

import random
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, NamedTuple

from finery_contracts.notifications import SubscriptionState
from finery_kit.db import Transaction
from finery_notifier import deliveries, domain, metering, store
from finery_notifier.deliveries import AtHand
from finery_notifier.domain import Outcome, Patience, Purpose, Settled
from finery_notifier.handlers import on_agreed, on_died, on_hopeless
from finery_notifier.tables import DeliveryRow

if TYPE_CHECKING:
    from finery_notifier.courier import Parcel


@dataclass(frozen=True)
class Rules:
    """How often to try, and when to stop believing in an endpoint."""

    schedule_s: Sequence[float]
    patience: Patience


class Ended(NamedTuple):
    """An attempt that ended, when it did."""

    parcel: Parcel
    outcome: Outcome
    at: datetime


def settle(tx: Transaction, ended: Sequence[Ended], rules: Rules) -> bool:
    """Apply what came of attempts; True when a fact was said."""
    if not ended:
        return False
    rows = deliveries.at_hand(tx, {one.parcel.delivery for one in ended})

    changes, logged, rare = list[dict[str, Any]](), list[dict[str, Any]](), list[tuple[Ended, AtHand, Settled]]()
    arrived, counts = defaultdict[int | None, list[AtHand]](list), Counter[metering.Counted]()
    for one in ended:
        row = rows.pop(one.parcel.delivery, None)
        if row is None or row.version != one.parcel.version:
            continue
        if not one.parcel.refusal:
            logged.append(_logged(one, row))
        if one.outcome.delivered and not one.parcel.refusal and row.purpose == Purpose.FACT:
            arrived[one.outcome.status].append(row)
            counts[metering.Counted(row.project, row.channel)] += 1
            continue
        settled = _decide(one, row, rules, tx.now)
        changes.append(_change(one, row, settled))
        if settled.state != "delivered" or one.outcome.agreed:
            rare.append((one, row, settled))

    for status in arrived:
        deliveries.arrived(tx, [row.id for row in arrived[status]], status)
    deliveries.change(tx, changes)
    deliveries.keep_log(tx, logged)
    metering.count(tx, counts)
    store.answering_again(tx, {row.subscription_id for some in arrived.values() for row in some})
    told = [_tell(tx, one, row.id, settled, rules) for one, row, settled in rare]
    return any(told)


def _decide(one: Ended, row: AtHand, rules: Rules, now: datetime) -> Settled:
    if one.parcel.refusal is not None:
        return Settled("dead", now, f"not sent: {one.parcel.refusal}")
    return domain.settle(
        one.outcome, attempts=one.parcel.number - row.round_start, schedule_s=rules.schedule_s, now=one.at,
        jitter=random.random(),
    )  # fmt: skip


def _change(one: Ended, row: AtHand, settled: Settled) -> dict[str, Any]:
    return {
        "which": row.id, "new_state": settled.state, "new_due_at": settled.due_at, "new_version": row.version + 1,
        "new_attempts": row.attempts + (0 if one.parcel.refusal else 1),
        "new_delivered_at": one.at if settled.state == "delivered" else None,
        "new_last_status": one.outcome.status if not one.parcel.refusal else row.last_status,
        "new_last_error": settled.error,
    }  # fmt: skip


def _logged(one: Ended, row: AtHand) -> dict[str, Any]:
    """The line of the log. Of the answer to a question nothing is kept: it might repeat the token."""
    asked = row.purpose == Purpose.CONFIRMATION
    outcome = one.outcome
    return {
        "delivery_id": row.id, "number": one.parcel.number, "duration_ms": round(outcome.duration_s * 1000, 3),
        "at": one.at - timedelta(seconds=outcome.duration_s), "request_headers": outcome.request_headers,
        "status": outcome.status, "answer_headers": {} if asked else outcome.answer_headers,
        "answer_body": b"" if asked else outcome.answer_body, "error": outcome.error,
    }  # fmt: skip


def _tell(tx: Transaction, one: Ended, delivery_id: str, settled: Settled, rules: Rules) -> bool:
    """What an attempt means for its subscription: agreed, gone, failing for long. True when a fact was said."""
    delivery = tx.session.get_one(DeliveryRow, delivery_id, populate_existing=True)
    if settled.state == "dead":
        on_died(tx, delivery)
    subscription = store.locked_subscription(tx.session, delivery.subscription_id)
    if subscription is None or one.parcel.refusal:
        return settled.state == "dead"
    if one.outcome.agreed and subscription.state == SubscriptionState.PENDING:
        on_agreed(tx, subscription)
        return True
    if domain.is_gone(one.outcome):
        on_hopeless(tx, subscription, settled.error or "it is gone")
        return True
    if delivery.purpose != Purpose.FACT or subscription.state != SubscriptionState.CONFIRMED:
        return settled.state == "dead"
    subscription.failing_since = subscription.failing_since or one.at
    subscription.dead_in_row += settled.state == "dead"
    tx.session.add(subscription)
    why = rules.patience.ended(subscription.failing_since, subscription.dead_in_row, tx.now)
    if why is not None:
        on_hopeless(tx, subscription, f"{why}; the last said: {one.outcome.error or one.outcome.status}")
    return settled.state == "dead" or why is not None


__all__ = ["Ended", "Rules", "settle"]
