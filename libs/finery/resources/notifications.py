"""Topics, subscriptions and deliveries: who hears of what, and what became of each message."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Literal

from finery.resources.tasks import FIRST_POLL_S, LAST_POLL_S
from finery.transport import Page, Transport
from finery_contracts.notifications import (
    DeliveryDetail,
    DeliveryView,
    Redelivered,
    SubscriptionState,
    SubscriptionView,
    Template,
    TopicView,
)

TOPICS, SUBSCRIPTIONS, DELIVERIES = "/api/v1/topics", "/api/v1/subscriptions", "/api/v1/deliveries"
Moment = datetime | str
"""A time with its zone, or an ISO text such as 2026-11-21T08:00:00Z."""


class Topics:
    """``client.topics``."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def create(
        self, name: str, *, description: str = "", template: Template | Mapping[str, Any] | None = None
    ) -> TopicView:
        """Make a topic; tasks and deployments name it in ``notify``. One of the name ``all`` hears everything.

        ``template``: how messages read to subscriptions without one of their own.
        """
        body = {"name": name, "description": description, "template": _plain(template)}
        return self._transport.view(TopicView, "POST", TOPICS, json=body)

    def list(self, *, limit: int = 20, after: str | None = None) -> Page[TopicView]:
        """Oldest first."""
        return self._transport.page(TopicView, TOPICS, limit=limit, after=after)

    def delete(self, ref: str) -> TopicView:
        """Remove it with its subscriptions."""
        return self._transport.view(TopicView, "DELETE", f"{TOPICS}/{ref}")


class Subscriptions:
    """``client.subscriptions``."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def create(
        self, topic: str, url: str = "", *, email: str = "", channel: str = "", events: Sequence[str] = (),
        filter: Mapping[str, str | Sequence[str]] | None = None, ordered: bool = False,  # noqa: A002 - as the field is named
        template: Template | Mapping[str, Any] | None = None, backfill_since: Moment | None = None,
        description: str = "",
    ) -> SubscriptionView:  # fmt: skip
        """Subscribe a webhook at ``url``, an e-mail address, or a channel that the operator declared: one of the three.

        Nothing is sent before its owner has confirmed. For a webhook the answer alone carries ``secret``; keep it for
        ``finery.webhooks.verify``.

        Args:
            events: such as ``task.succeeded`` or ``task.*``; empty: all.
            filter: field of the data → what it may be: ``{"kind": ["tune"], "name": "nightly-*"}``; all must fit.
            ordered: the next fact of a task waits until the one before has arrived.
            backfill_since: once confirmed, facts from then on are sent, too.
        """
        kind = "email" if email and not url else "channel" if channel and not url else "webhook"
        body = {
            "topic": topic, "kind": kind, "url": url, "email": email, "channel": channel, "events": list(events),
            "filter": dict(filter or {}), "ordered": ordered, "template": _plain(template), "description": description,
            "backfill_since": _told(backfill_since),
        }  # fmt: skip
        return self._transport.view(SubscriptionView, "POST", SUBSCRIPTIONS, json=body)

    def get(self, ref: str) -> SubscriptionView:
        """One subscription."""
        return self._transport.view(SubscriptionView, "GET", f"{SUBSCRIPTIONS}/{ref}")

    def list(self, *, limit: int = 20, after: str | None = None) -> Page[SubscriptionView]:
        """Oldest first."""
        return self._transport.page(SubscriptionView, SUBSCRIPTIONS, limit=limit, after=after)

    def delete(self, ref: str) -> SubscriptionView:
        """Remove it; what was on its way is dropped."""
        return self._transport.view(SubscriptionView, "DELETE", f"{SUBSCRIPTIONS}/{ref}")

    def enable(self, ref: str) -> SubscriptionView:
        """Send there again, after it was switched off. What died meanwhile is sent when ``redeliver`` asks for it."""
        return self._transport.view(SubscriptionView, "POST", f"{SUBSCRIPTIONS}/{ref}/enable")

    def rotate(self, ref: str, *, overlap_s: float = 86_400.0) -> SubscriptionView:
        """A new secret, in this answer alone. Until the overlap (at most 7 days) is over, both sign; 0: at once."""
        path = f"{SUBSCRIPTIONS}/{ref}/rotate"
        return self._transport.view(SubscriptionView, "POST", path, json={"overlap_s": overlap_s})

    def redeliver(
        self, ref: str, *, since: Moment, state: Literal["dead", "delivered", "all"] = "dead"
    ) -> Redelivered:  # fmt: skip
        """Send everything once more that happened since then and ended so; ``count`` says how many."""
        body = {"since": _told(since), "state": state}
        return self._transport.view(Redelivered, "POST", f"{SUBSCRIPTIONS}/{ref}/redeliver", json=body)

    def backfill(self, ref: str, *, since: Moment) -> SubscriptionView:
        """Send facts from before it was there, from the event log; what it was sent already is left out."""
        path = f"{SUBSCRIPTIONS}/{ref}/backfill"
        return self._transport.view(SubscriptionView, "POST", path, json={"since": _told(since)})

    def deliveries(
        self, ref: str, *, limit: int = 20, after: str | None = None,
        state: Literal["waiting", "delivered", "dead"] | None = None,
    ) -> Page[DeliveryView]:  # fmt: skip
        """What was sent, newest first."""
        path = f"{SUBSCRIPTIONS}/{ref}/deliveries"
        return self._transport.page(DeliveryView, path, limit=limit, after=after, state=state)

    def wait(self, ref: str, state: SubscriptionState, *, timeout_s: float = 30.0) -> SubscriptionView:
        """The subscription, once it is in ``state``.

        Raises:
            TimeoutError: it is in another state still.
        """
        until, pause_s = time.monotonic() + timeout_s, FIRST_POLL_S
        while (view := self.get(ref)).state is not state:
            if time.monotonic() > until:
                raise TimeoutError(f"subscription {ref} is {view.state} after {timeout_s:g} s, not {state}")
            time.sleep(pause_s)
            pause_s = min(LAST_POLL_S, pause_s * 1.25)
        return view


class Deliveries:
    """``client.deliveries``: the delivery log; ``client.subscriptions.deliveries`` lists."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def get(self, ref: str) -> DeliveryDetail:
        """One delivery with request, answer and time of every attempt."""
        return self._transport.view(DeliveryDetail, "GET", f"{DELIVERIES}/{ref}")

    def redeliver(self, ref: str) -> DeliveryView:
        """Send it once more, at once, under its old ``webhook-id``, and by the whole schedule again."""
        return self._transport.view(DeliveryView, "POST", f"{DELIVERIES}/{ref}/redeliver")


def _plain(template: Template | Mapping[str, Any] | None) -> dict[str, Any] | None:
    return template.model_dump() if isinstance(template, Template) else None if template is None else dict(template)


def _told(moment: Moment | None) -> str | None:
    return moment.isoformat() if isinstance(moment, datetime) else moment
