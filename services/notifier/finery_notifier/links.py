"""Links that carry their own right: signed with a key of the subscription's own, so nothing has to be stored. Pure."""

from __future__ import annotations

import hashlib
import hmac


def unsubscribe_url(public_url: str, subscription: str, key: str) -> str:
    """Where one click ends a subscription; empty for one that was made before there were such links."""
    return f"{public_url}/unsubscribe/{unsubscribe_token(subscription, key)}" if key else ""


def unsubscribe_token(subscription: str, key: str) -> str:
    """``<subscription>.<signature>``."""
    signature = hmac.new(key.encode(), f"unsubscribe:{subscription}".encode(), hashlib.sha256).hexdigest()
    return f"{subscription}.{signature}"


def subscription_of(token: str) -> str:
    """Whose link this claims to be."""
    return token.partition(".")[0]


def is_genuine(token: str, subscription: str, key: str) -> bool:
    """Whether we signed it."""
    return bool(key) and hmac.compare_digest(token.encode(), unsubscribe_token(subscription, key).encode())
