"""The notifier put together: which facts it hears, which requests it answers, what runs beside that."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import timedelta
from functools import partial
from typing import Any

from pydantic import BaseModel

from finery_contracts import autostop, budgets, datasets, deployments, models, notifications, packages, tasks
from finery_contracts import notification_requests as asks
from finery_contracts.access import Actor
from finery_contracts.envelope import Event
from finery_contracts.log import LogPage, LogRequest
from finery_contracts.streams import Durable
from finery_kit.bus import Rpc, answer_requests, ask
from finery_kit.db import Database
from finery_kit.delivery import DELIVERY_METADATA
from finery_kit.hot import Together, listen_in_batches
from finery_kit.service import Service
from finery_notifier import agreement, deliveries, handlers, redelivery, requests
from finery_notifier.adapters import Ways, WebhookMail
from finery_notifier.backfill import Backfill
from finery_notifier.channels import DeclaredChannels
from finery_notifier.courier import Courier, Mail
from finery_notifier.desk import Desk
from finery_notifier.domain import Patience
from finery_notifier.lanes import Lanes
from finery_notifier.metering import say_hours
from finery_notifier.settings import NotifierSettings
from finery_notifier.settling import Rules
from finery_notifier.smtp import Relay, SmtpMail
from finery_notifier.tables import NOTIFIER_METADATA

NAME = "notifier"
PRUNE_EVERY_S = 600.0
FACTS_OF_OTHERS = Together(handlers.on_facts, with_bytes=True)
DISABLED = Together(handlers.on_disabled_facts, with_bytes=True)

ROUTES: dict[type[Event], Together] = {
    tasks.TaskCreated: FACTS_OF_OTHERS,
    tasks.TaskQueued: FACTS_OF_OTHERS,
    tasks.TaskPreparing: FACTS_OF_OTHERS,
    tasks.TaskRunning: FACTS_OF_OTHERS,
    tasks.TaskRetrying: FACTS_OF_OTHERS,
    tasks.TaskPaused: FACTS_OF_OTHERS,
    tasks.TaskResumed: FACTS_OF_OTHERS,
    tasks.TaskSuspectedHang: FACTS_OF_OTHERS,
    tasks.TaskAutoStopSoon: FACTS_OF_OTHERS,
    tasks.TaskSucceeded: FACTS_OF_OTHERS,
    tasks.TaskFailed: FACTS_OF_OTHERS,
    tasks.TaskTerminated: FACTS_OF_OTHERS,
    tasks.TaskDeleted: FACTS_OF_OTHERS,
    deployments.DeploymentDeploying: FACTS_OF_OTHERS,
    deployments.DeploymentRunning: FACTS_OF_OTHERS,
    deployments.DeploymentStopping: FACTS_OF_OTHERS,
    deployments.DeploymentStopped: FACTS_OF_OTHERS,
    deployments.DeploymentFailed: FACTS_OF_OTHERS,
    deployments.DeploymentDeleted: FACTS_OF_OTHERS,
    deployments.DeploymentAutoStopSoon: FACTS_OF_OTHERS,
    datasets.DatasetUploaded: FACTS_OF_OTHERS,
    datasets.DatasetReady: FACTS_OF_OTHERS,
    datasets.DatasetRejected: FACTS_OF_OTHERS,
    datasets.DatasetDeleted: FACTS_OF_OTHERS,
    datasets.DatasetRestored: FACTS_OF_OTHERS,
    datasets.DatasetWithdrawn: FACTS_OF_OTHERS,
    datasets.DatasetFlagged: FACTS_OF_OTHERS,
    models.ModelCreated: FACTS_OF_OTHERS,
    models.ModelReady: FACTS_OF_OTHERS,
    models.ModelInvalid: FACTS_OF_OTHERS,
    models.ModelPublished: FACTS_OF_OTHERS,
    models.ModelExpiresSoon: FACTS_OF_OTHERS,
    models.ModelDeleted: FACTS_OF_OTHERS,
    models.ModelRestored: FACTS_OF_OTHERS,
    models.ModelMadeCurrent: FACTS_OF_OTHERS,
    models.ModelSteppedBack: FACTS_OF_OTHERS,
    models.ModelSigned: FACTS_OF_OTHERS,
    models.ModelFlagged: FACTS_OF_OTHERS,
    autostop.AutoStopWarned: FACTS_OF_OTHERS,
    budgets.BudgetAlerted: FACTS_OF_OTHERS,
    budgets.BudgetExhausted: FACTS_OF_OTHERS,
    budgets.BudgetRestored: FACTS_OF_OTHERS,
    packages.PackageBought: FACTS_OF_OTHERS,
    packages.PackageLow: FACTS_OF_OTHERS,
    packages.PackageUsedUp: FACTS_OF_OTHERS,
    packages.PackageExpired: FACTS_OF_OTHERS,
    notifications.SubscriptionDisabled: DISABLED,
}
FACTS = frozenset(handlers.fact_of(kind) for kind in ROUTES)
FIELDS = frozenset(name for kind in ROUTES for name in handlers.fields_of(kind))

Answer = Callable[[Desk, Any], Awaitable[BaseModel]]
REQUESTS: dict[str, tuple[type[BaseModel], Answer]] = {
    "topic.create": (asks.TopicRequest, requests.create_topic),
    "topic.list": (asks.PageRequest, requests.list_topics),
    "topic.delete": (asks.TopicCommand, requests.delete_topic),
    "subscription.create": (asks.SubscriptionRequest, requests.create_subscription),
    "subscription.list": (asks.PageRequest, requests.list_subscriptions),
    "subscription.get": (asks.SubscriptionCommand, requests.get_subscription),
    "subscription.delete": (asks.SubscriptionCommand, requests.delete_subscription),
    "subscription.confirm": (asks.ConfirmRequest, agreement.confirm_subscription),
    "subscription.unsubscribing": (asks.UnsubscribeRequest, agreement.unsubscribing),
    "subscription.unsubscribe": (asks.UnsubscribeRequest, agreement.unsubscribe),
    "subscription.enable": (asks.SubscriptionCommand, agreement.enable_subscription),
    "subscription.rotate": (asks.RotateRequest, agreement.rotate_secret),
    "subscription.redeliver": (asks.RedeliverRequest, redelivery.redeliver_since),
    "subscription.backfill": (asks.BackfillRequest, redelivery.ask_backfill),
    "delivery.list": (asks.DeliveriesRequest, redelivery.list_deliveries),
    "delivery.get": (asks.DeliveryCommand, redelivery.get_delivery),
    "delivery.redeliver": (asks.DeliveryCommand, redelivery.redeliver),
}


def build(settings: NotifierSettings) -> Service:
    """The service, ready to be started."""
    database = Database(settings.database_for(NAME), NOTIFIER_METADATA, DELIVERY_METADATA)
    service = Service(NAME, settings, database)
    courier = Courier(
        database, _ways(service, settings), rules=_rules(settings), lease_s=2 * settings.notifier_timeout_s + 40,
        lanes=Lanes(settings.notifier_concurrency, settings.notifier_per_endpoint), public_url=settings.public_url,
        wake_relay=service.wake_relay,
    )  # fmt: skip

    async def read_log(request: LogRequest, actor: Actor) -> LogPage:
        return await ask(service.client, "studio", "events", request, LogPage, actor=actor, traced=False)

    backfill = Backfill(database, read_log, ROUTES, wake_courier=courier.wake)
    desk = Desk(
        database=database, facts=FACTS, fields=FIELDS, allow=settings.notifier_allow_networks,
        public_url=settings.public_url, confirmation_ttl_s=settings.confirmation_ttl_s, wake_courier=courier.wake,
        wake_relay=service.wake_relay, wake_backfill=backfill.wake, email=settings.smtp_host is not None,
        channels=frozenset(settings.notifier_channels),
    )  # fmt: skip

    def after() -> None:
        courier.wake()
        service.wake_relay()

    listen_in_batches(service, Durable.NOTIFIER, ROUTES, after=after)
    answer_requests(
        service.broker, NAME, {verb: Rpc(body, partial(answer, desk)) for verb, (body, answer) in REQUESTS.items()}
    )

    async def metering() -> None:
        await say_hours(database, service.wake_relay)

    async def forgetting() -> None:
        await forget_old(database, timedelta(days=settings.retention.delivery_log_days))

    service.loops += [courier.run, backfill.run, metering, forgetting]
    service.before_stop.insert(0, courier.drain)
    return service


async def forget_old(database: Database, kept: timedelta) -> None:
    """The delivery log goes back as far as the policy says. Until cancelled."""
    while True:
        before = database.now() - kept
        while ids := await database.read(lambda session, before=before: deliveries.outlived(session, before)):
            await database.write(lambda tx, ids=ids, before=before: deliveries.prune(tx, ids, before))
        await asyncio.sleep(PRUNE_EVERY_S)


def _rules(settings: NotifierSettings) -> Rules:
    return Rules(
        settings.notifier_retry_schedule_s,
        Patience(failing_s=settings.notifier_off_after_s, dead_in_row=settings.notifier_off_after_dead),
    )


def _ways(service: Service, settings: NotifierSettings) -> Ways:
    """The ways out that the settings allow, opened and closed with the service."""
    timeout_s = settings.notifier_timeout_s
    webhook = WebhookMail(allow=settings.notifier_allow_networks, timeout_s=timeout_s)
    service.before_start.append(webhook.open)
    service.before_stop.append(webhook.close)
    ways: dict[str, Mail] = {"webhook": webhook}
    if settings.smtp_host is not None and settings.smtp_from is not None:
        password = settings.smtp_password.get_secret_value() if settings.smtp_password else None
        relay = Relay(
            settings.smtp_host, settings.smtp_port, settings.smtp_tls, settings.smtp_from, settings.smtp_user, password
        )
        ways["email"] = SmtpMail(relay, timeout_s=timeout_s)
    if settings.notifier_channels:
        urls = {name: url.get_secret_value() for name, url in settings.notifier_channels.items()}
        channels = DeclaredChannels(urls, timeout_s=timeout_s)
        service.before_stop.append(channels.close)
        ways["channel"] = channels
    return Ways(ways)
