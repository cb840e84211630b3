"""The notifier put together: which facts it hears, which requests it answers, what runs beside that."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

from faststream.nats import NatsMessage
from opentelemetry.trace import SpanKind
from pydantic import BaseModel

from finery_contracts import datasets, deployments, models, notification_requests, tasks
from finery_contracts.envelope import Event
from finery_contracts.streams import EVENTS, Durable
from finery_kit.bus import Rpc, answer_requests, apply_once, parse_or_none, subscribe_pull
from finery_kit.db import Database, Transaction
from finery_kit.delivery import DELIVERY_METADATA
from finery_kit.service import Service
from finery_kit.telemetry import span_from
from finery_notifier import handlers, requests
from finery_notifier.adapters import WebhookMail
from finery_notifier.courier import Courier
from finery_notifier.requests import Desk
from finery_notifier.settings import NotifierSettings
from finery_notifier.store import NOTIFIER_METADATA

NAME = "notifier"

Handler = Callable[..., None]
ROUTES: dict[type[Event], Handler] = {
    tasks.TaskCreated: handlers.on_chosen_fact,
    tasks.TaskQueued: handlers.on_chosen_fact,
    tasks.TaskPreparing: handlers.on_chosen_fact,
    tasks.TaskRunning: handlers.on_chosen_fact,
    tasks.TaskRetrying: handlers.on_chosen_fact,
    tasks.TaskSucceeded: handlers.on_chosen_fact,
    tasks.TaskFailed: handlers.on_chosen_fact,
    tasks.TaskTerminated: handlers.on_chosen_fact,
    deployments.DeploymentDeploying: handlers.on_chosen_fact,
    deployments.DeploymentRunning: handlers.on_chosen_fact,
    deployments.DeploymentStopping: handlers.on_chosen_fact,
    deployments.DeploymentStopped: handlers.on_chosen_fact,
    deployments.DeploymentFailed: handlers.on_chosen_fact,
    deployments.DeploymentDeleted: handlers.on_chosen_fact,
    datasets.DatasetUploaded: handlers.on_other_fact,
    datasets.DatasetReady: handlers.on_other_fact,
    datasets.DatasetRejected: handlers.on_other_fact,
    datasets.DatasetDeleted: handlers.on_other_fact,
    models.ModelCreated: handlers.on_other_fact,
    models.ModelReady: handlers.on_other_fact,
    models.ModelInvalid: handlers.on_other_fact,
    models.ModelPublished: handlers.on_other_fact,
    models.ModelDeleted: handlers.on_other_fact,
}
FACTS = frozenset(handlers.fact_of(kind) for kind in ROUTES)

Answer = Callable[[Desk, Any], Awaitable[BaseModel]]
REQUESTS: dict[str, tuple[type[BaseModel], Answer]] = {
    "topic.create": (notification_requests.TopicRequest, requests.create_topic),
    "topic.list": (notification_requests.PageRequest, requests.list_topics),
    "topic.delete": (notification_requests.TopicCommand, requests.delete_topic),
    "subscription.create": (notification_requests.SubscriptionRequest, requests.create_subscription),
    "subscription.list": (notification_requests.PageRequest, requests.list_subscriptions),
    "subscription.get": (notification_requests.SubscriptionCommand, requests.get_subscription),
    "subscription.delete": (notification_requests.SubscriptionCommand, requests.delete_subscription),
    "subscription.confirm": (notification_requests.ConfirmRequest, requests.confirm_subscription),
    "delivery.list": (notification_requests.DeliveriesRequest, requests.list_deliveries),
}


def build(settings: NotifierSettings) -> Service:
    """The service, ready to be started."""
    database = Database(settings.database_for(NAME), NOTIFIER_METADATA, DELIVERY_METADATA)
    service = Service(NAME, settings, database)
    mail = WebhookMail(allow=settings.notifier_allow_networks, timeout_s=settings.notifier_timeout_s)
    courier = Courier(
        database, mail, schedule_s=settings.notifier_retry_schedule_s, concurrency=settings.notifier_concurrency,
        lease_s=2 * settings.notifier_timeout_s + 10, wake_relay=service.wake_relay,
    )  # fmt: skip
    desk = Desk(
        database=database, facts=FACTS, allow=settings.notifier_allow_networks, public_url=settings.public_url,
        confirmation_ttl_s=settings.confirmation_ttl_s, wake_courier=courier.wake, wake_relay=service.wake_relay,
    )  # fmt: skip
    hear = partial(hear_fact, database=database, after=courier.wake)
    subscribe_pull(service.broker, EVENTS.name, "finery.evt.>", Durable.NOTIFIER, hear)
    answer_requests(
        service.broker, NAME, {verb: Rpc(body, partial(answer, desk)) for verb, (body, answer) in REQUESTS.items()}
    )
    service.before_start.append(mail.open)
    service.loops.append(courier.run)
    service.before_stop += [courier.drain, mail.close]
    return service


async def hear_fact(body: bytes, msg: NatsMessage, *, database: Database, after: Callable[[], None]) -> None:
    """The kit's ``listen_to_facts``, with one difference: the handler gets the very bytes too, to send them on."""
    event = parse_or_none(body)
    if event is not None and type(event) in ROUTES:
        parent = (msg.headers or {}).get("traceparent") or event.traceparent
        with span_from(parent, NAME, f"process {event.type}", kind=SpanKind.CONSUMER, noun=event.subject):
            await database.write(partial(store_fact, event=event, body=body))
        after()
    await msg.ack()


def store_fact(tx: Transaction, event: Event, body: bytes) -> bool:
    """Inbox and deliveries in one transaction; False for a fact that was here before."""
    return apply_once(tx, event, partial(ROUTES[type(event)], body=body))
