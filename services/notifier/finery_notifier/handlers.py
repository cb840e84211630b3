"""What the notifier does with facts, and with what becomes of a subscription: plain functions of a transaction.

They refuse to send anything: a message is stored here together with the inbox, the courier carries it afterwards.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from finery_contracts.envelope import Event
from finery_contracts.ids import new_id
from finery_contracts.notifications import (
    DeliveryDied,
    SubscriptionConfirmed,
    SubscriptionDisabled,
    SubscriptionEnabled,
    SubscriptionEnded,
    SubscriptionFact,
    SubscriptionState,
    Template,
)
from finery_contracts.tasks import NotifyChoice
from finery_kit.db import Transaction
from finery_kit.delivery import emit
from finery_kit.hot import Heard
from finery_kit.telemetry import current_traceparent
from finery_notifier import deliveries, domain, filters, letters, store
from finery_notifier.domain import Purpose
from finery_notifier.tables import DeliveryRow, SubscriptionRow, TopicRow

Listener = tuple[SubscriptionRow, TopicRow]


def on_facts(tx: Transaction, heard: Sequence[Heard]) -> None:
    """Facts for who listens: by the topic that the noun names (SPEC NO2), and by the topic that hears all."""
    listeners = _listeners(tx, [fact.event for fact in heard])

    rows = [
        delivery_of(tx, listener, fact.event, fact.body)
        for fact in heard
        for listener in listeners[fact.event.project]
        if wants(listener, fact.event) and _since_it_agreed(listener[0], fact.event)
    ]

    deliveries.add(tx, rows)
    for row in rows:
        if row.state == "dead":
            on_died(tx, row)


def on_disabled_facts(tx: Transaction, heard: Sequence[Heard]) -> None:
    """An endpoint was switched off: its owner is told through what else of the project hears."""
    rows = list[DeliveryRow]()
    for fact in heard:
        event: Any = fact.event
        for listener in store.confirmed_of_project(tx.session, event.project):
            row, topic = listener
            near = row.created_by == event.data.created_by or topic.id == event.data.topic
            asked = domain.hears(row.events, "notification.subscription_disabled")
            if asked and (near or topic.name == domain.ALL_TOPIC) and _since_it_agreed(row, event):
                rows.append(delivery_of(tx, listener, event, fact.body))

    deliveries.add(tx, rows)


def wants(listener: Listener, event: Event) -> bool:
    """Whether a subscription hears this fact: its topic, its events, its filter."""
    row, topic = listener
    fact = fact_of(type(event))
    notify: NotifyChoice | None = getattr(event.data, "notify", None)
    named = domain.topics_of(fact, notify)
    return (
        (topic.id in named or topic.name in named)
        and domain.hears(row.events, fact)
        and filters.fits(row.filter, event.data)
    )


def on_agreed(tx: Transaction, subscription: SubscriptionRow) -> None:
    """The endpoint's owner said yes; what happened before this moment is not sent, unless it was asked for."""
    question = store.confirmation_of(tx.session, subscription.id)

    subscription.confirmed_at = tx.now
    _move(tx, subscription, SubscriptionState.CONFIRMED, SubscriptionConfirmed)
    if question is not None and question.state == "waiting":
        question.state, question.delivered_at, question.version = "delivered", tx.now, question.version + 1
        question.due_at = tx.now


def on_hopeless(tx: Transaction, subscription: SubscriptionRow, why: str) -> None:
    """The endpoint is gone or failed for long: nothing goes there any more, and what waits is looked at now."""
    if subscription.state in (SubscriptionState.DISABLED, SubscriptionState.UNSUBSCRIBED):
        return
    subscription.why = why[:500]
    _move(tx, subscription, SubscriptionState.DISABLED, SubscriptionDisabled)
    deliveries.hasten(tx, subscription.id)


def on_enabled(tx: Transaction, subscription: SubscriptionRow) -> None:
    """Somebody believes in it again; what died meanwhile is sent when that is asked for."""
    subscription.why, subscription.failing_since, subscription.dead_in_row = None, None, 0
    _move(tx, subscription, SubscriptionState.CONFIRMED, SubscriptionEnabled)


def on_unsubscribed(tx: Transaction, subscription: SubscriptionRow) -> None:
    """Who receives wants no more; for good: only a new subscription asks again."""
    if subscription.state == SubscriptionState.UNSUBSCRIBED:
        return
    _move(tx, subscription, SubscriptionState.UNSUBSCRIBED, SubscriptionEnded)
    subscription.backfill_after = None
    deliveries.hasten(tx, subscription.id)


def on_died(tx: Transaction, delivery: DeliveryRow) -> None:
    """A delivery will not be tried again; its project hears so."""
    emit(
        tx, DeliveryDied, delivery.id, project=delivery.project, version=delivery.version, data=delivery.view(),
        traceparent=delivery.traceparent,
    )  # fmt: skip


def delivery_of(tx: Transaction, to: Listener, event: Event, body: bytes) -> DeliveryRow:
    """A fact on its way, due at once; one over the limit of SPEC NO1 is dead from the start, and says so."""
    row, topic = to
    template = row.template or topic.template
    made = _row(tx, row, Purpose.FACT, event)
    try:
        chosen = Template.model_validate(template) if template else None
        letter = letters.letter_of(event, body, row.kind, chosen)
    except letters.TooLong as fault:
        made.state, made.last_error = "dead", str(fault)
        return made
    made.subject, made.content_type, made.body = letter.subject, letter.content_type, letter.body
    return made


def question_of(tx: Transaction, to: SubscriptionRow, event: Event, letter: letters.Letter) -> DeliveryRow:
    """The question whether an endpoint wants to hear."""
    made = _row(tx, to, Purpose.CONFIRMATION, event)
    made.subject, made.content_type, made.body = letter.subject, letter.content_type, letter.body
    return made


def fact_of(kind: type[Event]) -> str:
    """``task.succeeded``."""
    return f"{kind.NOUN}.{kind.FACT}"


def fields_of(kind: type[Event]) -> set[str]:
    """What a filter may name of this fact's data."""
    data: Any = kind.model_fields["data"].annotation
    return set(data.model_fields)


def _row(tx: Transaction, to: SubscriptionRow, purpose: Purpose, event: Event) -> DeliveryRow:
    return DeliveryRow(
        id=new_id("dlv"), project=to.project, subscription_id=to.id, channel=to.kind, endpoint=to.endpoint,
        purpose=purpose.value, event_id=event.id, event_type=event.type, event_at=event.time, noun=event.subject,
        noun_version=event.nounversion, ordered=to.ordered, body=b"",
        traceparent=event.traceparent or current_traceparent(), due_at=tx.now,
    )  # fmt: skip


def _listeners(tx: Transaction, events: Sequence[Event]) -> defaultdict[str, list[Listener]]:
    """Who may listen to these facts, by project; read once for all of them."""
    refs = {domain.ALL_TOPIC}
    for event in events:
        notify: NotifyChoice | None = getattr(event.data, "notify", None)
        refs |= domain.topics_of(fact_of(type(event)), notify)
    found = defaultdict[str, list[Listener]](list)
    for row, topic in store.listeners(tx.session, {event.project for event in events}, refs):
        found[row.project].append((row, topic))
    return found


def _since_it_agreed(row: SubscriptionRow, event: Event) -> bool:
    return row.confirmed_at is not None and row.confirmed_at <= event.time


def _move(tx: Transaction, subscription: SubscriptionRow, to: SubscriptionState, kind: type[SubscriptionFact]) -> None:
    subscription.state = domain.move(SubscriptionState(subscription.state), to)
    subscription.version += 1
    tx.session.add(subscription)
    emit(
        tx, kind, subscription.id, project=subscription.project, version=subscription.version, data=subscription.view()
    )
