"""What may be asked of the notifier: the bodies of ``finery.rpc.notifier.<verb>``."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from finery_contracts.model import Request, UtcTime
from finery_contracts.notifications import Channel, FilterValue, Template

TOPIC_NAME = r"^[A-Za-z0-9][A-Za-z0-9_-]{0,254}$"
MAX_OVERLAP_S = 7 * 86_400


class TopicRequest(Request):
    """Make a topic; its template is for subscriptions that have none."""

    name: str = Field(pattern=TOPIC_NAME)
    description: str = Field(default="", max_length=256)
    template: Template | None = None


class SubscriptionRequest(Request):
    """Subscribe an endpoint, an e-mail address, or one of the operator's channels to a topic."""

    topic: str = Field(description="topic name or id")
    kind: Channel = "webhook"
    url: str = Field(default="", max_length=2048, description="of a webhook")
    email: str = Field(default="", max_length=320, description="address, for kind email")
    channel: str = Field(default="", max_length=64, description="name of a channel that the operator declared")
    events: list[str] = Field(default_factory=list, description="such as task.succeeded or task.*; empty: all")
    filter: dict[str, FilterValue] = Field(
        default_factory=dict[str, FilterValue],
        description="field of the data → what it may be, with * for anything: "
        '{"kind": ["tune"], "name": "nightly-*", "metadata.team": "a"}; every field must fit',
    )
    ordered: bool = Field(default=False, description="the next fact of a thing waits until the one before has arrived")
    template: Template | None = None
    backfill_since: UtcTime | None = Field(default=None, description="once confirmed, facts from then on are sent, too")
    description: str = Field(default="", max_length=256)

    @model_validator(mode="after")
    def _one_address(self) -> SubscriptionRequest:
        given = {"webhook": self.url, "email": self.email, "channel": self.channel}
        if not given.pop(self.kind):
            field = "url" if self.kind == "webhook" else self.kind
            raise ValueError(f"a subscription of kind {self.kind} needs {field}")
        if any(given.values()):
            raise ValueError(f"a subscription of kind {self.kind} takes one address only")
        return self


class PageRequest(Request):
    """``topic.list`` and ``subscription.list``, oldest first: what comes after the id ``after``."""

    after: str | None = None
    limit: int = Field(default=20, ge=1, le=100)


class DeliveriesRequest(PageRequest):
    """``delivery.list``: the deliveries of one subscription, newest first."""

    subscription: str = Field(description="subscription id")
    state: Literal["waiting", "delivered", "dead"] | None = None


class DeliveryCommand(Request):
    """``delivery.get`` and ``delivery.redeliver``."""

    delivery: str = Field(description="delivery id")


class TopicCommand(Request):
    """``topic.delete``."""

    topic: str = Field(description="topic id or name")


class SubscriptionCommand(Request):
    """``subscription.get``, ``subscription.enable`` and ``subscription.delete``."""

    subscription: str = Field(description="subscription id")


class RotateRequest(SubscriptionCommand):
    """``subscription.rotate``: a new secret; both sign until the overlap is over."""

    overlap_s: float = Field(
        default=86_400.0, ge=0, le=MAX_OVERLAP_S, description="0: the old one is worthless at once"
    )


class RedeliverRequest(SubscriptionCommand):
    """``subscription.redeliver``: everything since a time, once more."""

    since: UtcTime
    state: Literal["dead", "delivered", "all"] = "dead"


class BackfillRequest(SubscriptionCommand):
    """``subscription.backfill``: facts of the past, from the event log, each at most once."""

    since: UtcTime


class ConfirmRequest(Request):
    """``subscription.confirm``: needs no actor, the token is the right."""

    token: str = Field(max_length=128)


class UnsubscribeRequest(Request):
    """``subscription.unsubscribe`` and ``subscription.unsubscribing``: need no actor, the signed link is the right."""

    token: str = Field(max_length=256)


__all__ = [
    "MAX_OVERLAP_S", "TOPIC_NAME", "BackfillRequest", "ConfirmRequest", "DeliveriesRequest", "DeliveryCommand",
    "PageRequest", "RedeliverRequest", "RotateRequest", "SubscriptionCommand", "SubscriptionRequest", "TopicCommand",
    "TopicRequest", "UnsubscribeRequest",
]  # fmt: skip
