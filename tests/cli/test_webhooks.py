"""Webhook verification: what was signed is accepted, anything else is refused."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from standardwebhooks import Webhook, WebhookVerificationError

from finery.webhooks import verify
from finery_contracts.registry import UnknownEventType

SECRET = "whsec_" + "c2VjcmV0c2VjcmV0c2VjcmV0c2VjcmV0"
BODY = (
    b'{"specversion":"1.0","id":"evt_1","type":"io.finery.project.created.v1","source":"finery/studio",'
    b'"subject":"project/prj_1","time":"2026-11-21T08:00:00Z","project":"prj_1","nounversion":1,'
    b'"data":{"id":"prj_1","name":"p","version":1,"created_at":"2026-11-21T08:00:00Z"}}'
)


def headers(body: bytes, *, age_s: float = 0) -> dict[str, str]:
    at = datetime.now(UTC) - timedelta(seconds=age_s)
    return {
        "Webhook-Id": "evt_1",
        "Webhook-Timestamp": str(int(at.timestamp())),
        "Webhook-Signature": Webhook(SECRET).sign("evt_1", at, body.decode()),
    }


def test_a_signed_event_is_parsed() -> None:
    event = verify(BODY, headers(BODY), SECRET)
    assert (event.type, event.noun_id) == ("io.finery.project.created.v1", "prj_1")


@pytest.mark.parametrize(
    ("body", "age_s"),
    [(BODY.replace(b"prj_1", b"prj_2"), 0), (BODY, 3600)],
    ids=["changed body", "old"],
)
def test_what_was_changed_or_is_old_is_refused(body: bytes, age_s: float) -> None:
    with pytest.raises(WebhookVerificationError):
        verify(body, headers(BODY, age_s=age_s), SECRET)


def test_an_event_of_a_newer_finery_says_so() -> None:
    newer = BODY.replace(b"project.created.v1", b"project.painted.v1")
    with pytest.raises(UnknownEventType):
        verify(newer, headers(newer), SECRET)
