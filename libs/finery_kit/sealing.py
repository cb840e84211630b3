"""Seals what must be kept but not read: authenticated encryption under the installation's secret.

Each seal has a key of its own, derived from the secret and from what it belongs to: a sealed text that was moved to
another row opens nothing. It refuses to say why a seal does not open.
"""

# PyNaCl's types are partial.
# pyright: reportUnknownMemberType=false
from __future__ import annotations

import base64
import hashlib
import hmac

from nacl.exceptions import CryptoError
from nacl.secret import SecretBox


class SealBroken(ValueError):
    """It was sealed under another secret, for another owner, or was changed since."""


def seal(secret: bytes, owner: str, text: str) -> str:
    """The text, readable for whoever holds the secret and knows whose it is."""
    return base64.b64encode(bytes(_box(secret, owner).encrypt(text.encode()))).decode()


def unseal(secret: bytes, owner: str, sealed: str) -> str:
    """The way back.

    Raises:
        SealBroken: it cannot be opened.
    """
    try:
        return _box(secret, owner).decrypt(base64.b64decode(sealed, validate=True)).decode()
    except (CryptoError, ValueError) as fault:
        raise SealBroken("the seal does not open with this installation's secret") from fault


def _box(secret: bytes, owner: str) -> SecretBox:
    return SecretBox(hmac.new(secret, f"seal:{owner}".encode(), hashlib.sha256).digest())
