"""Notifications: topics, subscriptions, what became of deliveries, and what was sent for billing to count.

What people may ask of the notifier stands in ``notification_requests``.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Literal

from pydantic import Field

from finery_contracts.envelope import Event
from finery_contracts.model import Record, Request, UtcTime

Channel = Literal["webhook", "email", "channel"]
FilterValue = str | list[str]


class SubscriptionState(StrEnum):
    """Nothing is sent before its owner confirmed it."""

    PENDING = "pending"
    CONFIRMED = "confirmed"
    DISABLED = "disabled"
    UNSUBSCRIBED = "unsubscribed"


class Template(Request):
    """How a message reads: text with ``{{ data.name }}`` in it; for ``json`` the body is a document of such texts."""

    subject: str | None = Field(default=None, max_length=512, description="of e-mails")
    body: str | None = Field(default=None, max_length=16_384)
    format: Literal["text", "json"] = "text"


class TopicView(Record):
    """A topic."""

    id: str
    project: str
    name: str
    description: str
    created_at: UtcTime
    template: Template | None = None


class SubscriptionView(Record):
    """A subscription; ``secret`` is shown once, in the answer that made it or rotated it."""

    id: str
    project: str
    topic: str
    kind: Channel = "webhook"
    url: str = Field(description="where it goes: the endpoint, mailto:<address>, or channel:<name>")
    events: list[str]
    filter: dict[str, FilterValue] = Field(default_factory=dict[str, FilterValue])
    ordered: bool = False
    template: Template | None = None
    description: str = ""
    state: SubscriptionState
    why: str | None = Field(default=None, description="why it is disabled")
    version: int
    created_by: str = ""
    created_at: UtcTime
    confirmed_at: UtcTime | None = None
    failing_since: UtcTime | None = Field(default=None, description="nothing was delivered since then, all failed")
    backfill: Literal["asked", "running", "done"] | None = None
    secret: str | None = None


class DeliveryView(Record):
    """One event on its way to one subscription."""

    id: str
    project: str
    subscription: str
    event: str
    event_type: str
    event_time: UtcTime | None = None
    state: Literal["waiting", "delivered", "dead"]
    attempts: int
    next_attempt_at: UtcTime | None = None
    delivered_at: UtcTime | None = None
    last_status: int | None = None
    last_error: str | None = None


class DeliveryAttempt(Record):
    """One try, as the delivery log keeps it; signatures, tokens and cookies are masked."""

    number: int
    at: UtcTime
    duration_ms: float
    request_headers: dict[str, str] = Field(default_factory=dict[str, str])
    status: int | None = None
    answer_headers: dict[str, str] = Field(default_factory=dict[str, str])
    answer_body: str = Field(default="", description="the first 4 KiB")
    error: str | None = None


class DeliveryDetail(DeliveryView):
    """A delivery with all that was tried; the body that was sent is the event's, or what the template made of it."""

    size_bytes: int = 0
    log: list[DeliveryAttempt] = Field(default_factory=list[DeliveryAttempt])


class NotificationUsage(Record):
    """What was delivered to a project through one channel in one hour; ``key`` stays the same when it is said again."""

    key: str
    project: str
    channel: Channel
    count: int
    window_start: UtcTime
    window_end: UtcTime


class SubscriptionFact(Event):
    """A fact about a subscription."""

    NOUN = "notification"
    SAID_BY = "notifier"
    data: SubscriptionView


class SubscriptionConfirmed(SubscriptionFact):
    """The owner of an endpoint agreed to hear; facts go there from now on."""

    FACT = "subscription_confirmed"


class SubscriptionDisabled(SubscriptionFact):
    """An endpoint failed for long or is gone: nothing goes there until somebody enables it. ``why`` says more."""

    FACT = "subscription_disabled"


class SubscriptionEnabled(SubscriptionFact):
    """Somebody enabled a subscription again that was disabled."""

    FACT = "subscription_enabled"


class SubscriptionEnded(SubscriptionFact):
    """Who received unsubscribed; nothing goes there any more."""

    FACT = "subscription_ended"


class DeliveryDied(Event):
    """A delivery was tried for three days in vain, or its endpoint is gone."""

    NOUN = "notification"
    FACT = "delivery_died"
    SAID_BY = "notifier"
    data: DeliveryView


class NotificationMetered(Event):
    """How many notifications a project was delivered in an hour through a channel; billing counts this."""

    NOUN = "notification"
    FACT = "metered"
    SAID_BY = "notifier"
    data: NotificationUsage


class SubscriptionConfirmationData(Record):
    """What an endpoint's owner needs to agree: opening ``confirm_url`` is enough."""

    subscription: str
    topic: str
    confirm_url: str
    token: str
    unsubscribe_url: str = ""


class SubscriptionConfirmation(Event):
    """The one message that goes to an unconfirmed endpoint. It carries a token, so it is never put on the bus."""

    NOUN = "subscription"
    FACT = "confirmation"
    SAID_BY = "notifier"
    data: SubscriptionConfirmationData


class TopicPage(Record):
    """Topics; ``next`` is the ``after`` of the next page."""

    data: list[TopicView]
    has_more: bool = False
    next: str | None = None


class SubscriptionPage(Record):
    """Subscriptions, without their secrets."""

    data: list[SubscriptionView]
    has_more: bool = False
    next: str | None = None


class DeliveryPage(Record):
    """Deliveries; ``next`` is the ``after`` of the next page."""

    data: list[DeliveryView]
    has_more: bool = False
    next: str | None = None


class Redelivered(Record):
    """How many deliveries are on their way again."""

    count: int


class Unsubscribing(Record):
    """What a person sees before unsubscribing."""

    subscription: str
    topic: str
    to: str
    state: SubscriptionState
