"""Notifications: topics, subscriptions and what became of deliveries."""

from __future__ import annotations

from enum import StrEnum
from typing import Literal

from pydantic import Field

from finery_contracts.envelope import Event
from finery_contracts.model import Record, Request, UtcTime

TOPIC_NAME = r"^[A-Za-z0-9][A-Za-z0-9_-]{0,254}$"


class SubscriptionState(StrEnum):
    """Nothing is sent before its owner confirmed it."""

    PENDING = "pending"
    CONFIRMED = "confirmed"
    DISABLED = "disabled"
    UNSUBSCRIBED = "unsubscribed"


class TopicRequest(Request):
    """Make a topic."""

    name: str = Field(pattern=TOPIC_NAME)
    description: str = Field(default="", max_length=256)


class TopicView(Record):
    """A topic."""

    id: str
    project: str
    name: str
    description: str
    created_at: UtcTime


class SubscriptionRequest(Request):
    """Subscribe an endpoint to a topic."""

    topic: str = Field(description="topic name or id")
    kind: Literal["webhook"] = "webhook"
    url: str = Field(max_length=2048)
    events: list[str] = Field(default_factory=list, description="such as task.succeeded or task.*; empty: all")
    description: str = Field(default="", max_length=256)


class SubscriptionView(Record):
    """A subscription; ``secret`` is shown once, in the answer that made it."""

    id: str
    project: str
    topic: str
    kind: Literal["webhook"] = "webhook"
    url: str
    events: list[str]
    description: str = ""
    state: SubscriptionState
    version: int
    created_at: UtcTime
    secret: str | None = None


class DeliveryView(Record):
    """One event on its way to one subscription."""

    id: str
    project: str
    subscription: str
    event: str
    event_type: str
    state: Literal["waiting", "delivered", "dead"]
    attempts: int
    next_attempt_at: UtcTime | None = None
    delivered_at: UtcTime | None = None
    last_status: int | None = None
    last_error: str | None = None


class SubscriptionConfirmed(Event):
    """The owner of an endpoint agreed to hear; facts go there from now on."""

    NOUN = "notification"
    FACT = "subscription_confirmed"
    SAID_BY = "notifier"
    data: SubscriptionView


class DeliveryDied(Event):
    """A delivery was tried for three days in vain, or its endpoint is gone."""

    NOUN = "notification"
    FACT = "delivery_died"
    SAID_BY = "notifier"
    data: DeliveryView


class SubscriptionConfirmationData(Record):
    """What an endpoint's owner needs to agree: opening ``confirm_url`` is enough."""

    subscription: str
    topic: str
    confirm_url: str
    token: str


class SubscriptionConfirmation(Event):
    """The one message that goes to an unconfirmed endpoint. It carries a token, so it is never put on the bus."""

    NOUN = "subscription"
    FACT = "confirmation"
    SAID_BY = "notifier"
    data: SubscriptionConfirmationData


# --- requests to the notifier (finery.rpc.notifier.<verb>) ------------------------------------------------------------


class PageRequest(Request):
    """``topic.list`` and ``subscription.list``, oldest first: what comes after the id ``after``."""

    after: str | None = None
    limit: int = Field(default=20, ge=1, le=100)


class DeliveriesRequest(PageRequest):
    """``delivery.list``: the deliveries of one subscription, newest first."""

    subscription: str = Field(description="subscription id")


class TopicCommand(Request):
    """``topic.delete``."""

    topic: str = Field(description="topic id or name")


class SubscriptionCommand(Request):
    """``subscription.get`` and ``subscription.delete``."""

    subscription: str = Field(description="subscription id")


class ConfirmRequest(Request):
    """``subscription.confirm``: needs no actor, the token is the right."""

    token: str = Field(max_length=128)


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
