"""Where a subscription may go: a URL that the guard lets pass, a plain e-mail address, a channel of the operator's.

It refuses every spelling of an address that two programs could read differently.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from finery_contracts.errors import InvalidRequest
from finery_contracts.notification_requests import SubscriptionRequest
from finery_kit.netguard import check_url
from finery_notifier.desk import Desk

MAX_LOCAL, MAX_DOMAIN = 64, 253
_ATOM = r"[A-Za-z0-9!#$&'*+/=?^_`{|}~-]+"
_LOCAL = re.compile(rf"{_ATOM}(\.{_ATOM})*")
_LABEL = re.compile(r"[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?")


@dataclass(frozen=True)
class Address:
    """``url`` is what people see, ``endpoint`` what is sent to at a measured pace."""

    url: str
    endpoint: str


async def address_of(desk: Desk, wanted: SubscriptionRequest) -> Address:
    """Where it is to go.

    Raises:
        InvalidRequest: codes ``url_not_allowed``, ``email_invalid``, ``email_not_configured``, ``channel_unknown``.
    """
    if wanted.kind == "webhook":
        checked = await check_url(wanted.url, allow=desk.allow, lookup=desk.lookup)
        return Address(checked.url, checked.origin)
    if wanted.kind == "email":
        if not desk.email:
            raise InvalidRequest(
                "this installation sends no e-mail; the operator sets FINERY_SMTP_HOST and FINERY_SMTP_FROM",
                code="email_not_configured",
                param="kind",
            )
        return Address(f"mailto:{plain_address(wanted.email)}", "smtp://relay")
    if wanted.channel not in desk.channels:
        known = ", ".join(sorted(desk.channels)) or "none"
        raise InvalidRequest(
            f"there is no channel {wanted.channel!r}; the operator declared {known} (FINERY_NOTIFIER_CHANNELS)",
            code="channel_unknown",
            param="channel",
        )
    return Address(f"channel:{wanted.channel}", f"channel://{wanted.channel}")


def plain_address(text: str) -> str:
    """The address, its domain in lower case: ASCII, no quotes, comments, routes, names or IP literals.

    Raises:
        InvalidRequest: code ``email_invalid``.
    """
    local, at, domain = text.rpartition("@")
    labels = domain.lower().split(".")
    good = (
        at and len(local) <= MAX_LOCAL and len(domain) <= MAX_DOMAIN and len(labels) > 1
        and _LOCAL.fullmatch(local) and all(_LABEL.fullmatch(label) for label in labels)
        and not labels[-1].isdigit()
    )  # fmt: skip
    if not good:
        raise InvalidRequest(
            "this is no plain e-mail address; write name@example.com, an international domain in its xn-- form",
            code="email_invalid",
            param="email",
        )
    return f"{local}@{domain.lower()}"
