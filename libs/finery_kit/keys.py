"""How an API key is kept: only its keyed hash, so that a stolen table opens nothing."""

from __future__ import annotations

import hashlib
import hmac


def key_hash(secret: bytes, key: str) -> str:
    """HMAC-SHA256 of an API key, as 64 hex digits: the key's name in the KV bucket ``keys`` and in studio's table."""
    return hmac.new(secret, key.encode("utf-8", "surrogatepass"), hashlib.sha256).hexdigest()
