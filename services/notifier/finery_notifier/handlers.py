"""What the notifier does with a fact, and with an endpoint's yes: plain functions of a transaction.

They refuse to send anything: a message is stored here together with the inbox, the courier carries it afterwards.
"""

from __future__ import annotations

from finery_contracts.deployments import DeploymentFact
from finery_contracts.envelope import Event
from finery_contracts.ids import new_id
from finery_contracts.notifications import DeliveryDied, SubscriptionConfirmed, SubscriptionState
from finery_contracts.tasks import NotifyChoice, TaskFact
from finery_kit.db import Transaction
from finery_kit.delivery import emit
from finery_kit.telemetry import current_traceparent
from finery_notifier import domain, store
from finery_notifier.domain import Purpose
from finery_notifier.store import DeliveryRow, SubscriptionRow

MAX_MESSAGE_BYTES = 256 * 1024


def on_chosen_fact(tx: Transaction, event: TaskFact | DeploymentFact, *, body: bytes) -> None:
    """A fact whose noun says which topic hears of it (SPEC NO2)."""
    _spread(tx, event, event.data.notify, body)


def on_other_fact(tx: Transaction, event: Event, *, body: bytes) -> None:
    """A fact that only the topic ``all`` hears."""
    _spread(tx, event, None, body)


def on_agreed(tx: Transaction, subscription: SubscriptionRow) -> None:
    """The endpoint's owner said yes; what happened before this moment is not sent."""
    question = store.confirmation_of(tx.session, subscription.id)

    subscription.state = domain.move(SubscriptionState(subscription.state), SubscriptionState.CONFIRMED)
    subscription.version += 1
    subscription.confirmed_at = tx.now
    if question is not None and question.state == "waiting":
        question.state, question.delivered_at, question.version = "delivered", tx.now, question.version + 1

    emit(
        tx, SubscriptionConfirmed, subscription.id, project=subscription.project, version=subscription.version,
        data=subscription.view(),
    )  # fmt: skip


def on_gone(tx: Transaction, subscription: SubscriptionRow) -> None:
    """The endpoint answered that it is gone: nothing goes there any more, and what waits is looked at now."""
    if subscription.state == SubscriptionState.DISABLED:
        return
    subscription.state = domain.move(SubscriptionState(subscription.state), SubscriptionState.DISABLED)
    subscription.version += 1
    store.hasten(tx, subscription.id)


def on_died(tx: Transaction, delivery: DeliveryRow) -> None:
    """A delivery will not be tried again; its project hears so."""
    emit(
        tx, DeliveryDied, delivery.id, project=delivery.project, version=delivery.version, data=delivery.view(),
        traceparent=delivery.traceparent,
    )  # fmt: skip


def _spread(tx: Transaction, event: Event, notify: NotifyChoice | None, body: bytes) -> None:
    fact = fact_of(type(event))
    topics = store.topic_ids(tx.session, event.project, domain.topics_of(fact, notify))
    listeners = store.confirmed(tx.session, event.project, topics)

    chosen = [
        row
        for row in listeners
        if domain.hears(row.events, fact) and row.confirmed_at is not None and row.confirmed_at <= event.time
    ]

    for row in chosen:
        delivery = delivery_of(tx, row, Purpose.FACT, event, body)
        tx.session.add(delivery)
        if delivery.state == "dead":
            on_died(tx, delivery)


def delivery_of(tx: Transaction, to: SubscriptionRow, purpose: Purpose, event: Event, body: bytes) -> DeliveryRow:
    """A message to an endpoint, due at once; one over the limit of SPEC NO1 is dead from the start, and says so."""
    row = DeliveryRow(
        id=new_id("dlv"), project=to.project, subscription_id=to.id, endpoint=to.endpoint, purpose=purpose.value,
        event_id=event.id, event_type=event.type, body=body, traceparent=event.traceparent or current_traceparent(),
        due_at=tx.now,
    )  # fmt: skip
    if len(body) > MAX_MESSAGE_BYTES:
        row.state, row.body = "dead", b""
        row.last_error = f"the message has {len(body):,} bytes, over the limit of {MAX_MESSAGE_BYTES:,}; read the event"
    return row


def fact_of(kind: type[Event]) -> str:
    """``task.succeeded``."""
    return f"{kind.NOUN}.{kind.FACT}"
