"""Checks that a webhook came from your Finery and says what happened (Standard Webhooks, CloudEvents body)."""

from __future__ import annotations

from collections.abc import Mapping

from standardwebhooks import Webhook

from finery_contracts.envelope import Event
from finery_contracts.registry import parse_event


def verify(body: bytes, headers: Mapping[str, str], secret: str) -> Event:
    """The event of a delivery.

    Raises:
        standardwebhooks.WebhookVerificationError: not signed with this secret, or older than five minutes.
        finery_contracts.registry.UnknownEventType: a newer Finery's event.
    """
    lower = {name.lower(): value for name, value in headers.items()}
    Webhook(secret).verify(body.decode(), lower)
    return parse_event(body)
