"""The way out: signed HTTP requests to endpoints of strangers.

Standard Webhooks signatures (standardwebhooks.com), the handshake of CloudEvents' HTTP 1.1 Web Hooks. It refuses to
follow redirects, to write a header that is two, and to call a URL that is not spelt plainly.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from functools import lru_cache
from typing import NamedTuple

from standardwebhooks import Webhook

from finery_contracts.errors import InvalidRequest, Unavailable
from finery_kit.netguard import PORTS, AddressRefused, Lookup, Network, Target, system_lookup, target_of
from finery_kit.telemetry import current_traceparent
from finery_notifier.connections import Connections
from finery_notifier.courier import Mail, Parcel
from finery_notifier.domain import Outcome, Purpose
from finery_notifier.wire import Answer, Broken

ORIGIN = "finery"
KEPT_HEADERS, KEPT_HEADER_CHARS = 40, 512
MASKED = {"webhook-signature", "list-unsubscribe", "set-cookie", "set-cookie2", "authorization", "cookie"}


class _Request(NamedTuple):
    """One request of an attempt, and when it began."""

    method: str
    url: str
    headers: dict[str, str]
    body: bytes
    began: float

    @property
    def age_s(self) -> float:
        return time.monotonic() - self.began

    def failed(self, error: str) -> Outcome:
        """It got no answer."""
        return Outcome(error=error, duration_s=self.age_s, request_headers=shown_headers(self.headers))


@dataclass(frozen=True)
class Ways:
    """Each delivery by its channel."""

    ways: Mapping[str, Mail]

    async def send(self, parcel: Parcel) -> Outcome:
        """Try once."""
        way = self.ways.get(parcel.channel)
        if way is None:
            return Outcome(error=f"this installation has no way for {parcel.channel} any more")
        return await way.send(parcel)


class WebhookMail:
    """HTTP with the guard built in. ``open`` and ``close`` it in the running event loop."""

    def __init__(self, *, allow: tuple[Network, ...], timeout_s: float, lookup: Lookup = system_lookup) -> None:
        self._allow, self._timeout_s, self._lookup = allow, timeout_s, lookup
        self._connections: Connections | None = None

    async def open(self) -> None:
        """Get ready."""
        self._connections = Connections(self._allow, lookup=self._lookup)

    async def close(self) -> None:
        """Close all connections."""
        if self._connections is not None:
            await self._connections.close()

    async def send(self, parcel: Parcel) -> Outcome:
        """Try once. An endpoint that is to confirm is first asked by handshake, then by a signed message."""
        if parcel.purpose is Purpose.CONFIRMATION:
            answer = await self._timed("OPTIONS", parcel.url, {"WebHook-Request-Origin": ORIGIN}, b"")
            if answer.agreed:
                return answer
        return await self._timed("POST", parcel.url, signed_headers(parcel, datetime.now(UTC)), parcel.body)

    async def _timed(self, method: str, url: str, headers: dict[str, str], body: bytes) -> Outcome:
        """Everything together, from the lookup to the last byte of the answer, has ``timeout_s``."""
        request = _Request(method, url, headers, body, time.monotonic())
        try:
            async with asyncio.timeout(self._timeout_s):
                return await self._request(request)
        except TimeoutError:
            return request.failed(f"no whole answer within {self._timeout_s:g} s")

    async def _request(self, request: _Request) -> Outcome:
        if self._connections is None:
            raise Unavailable("the way out is closed: the service is stopping")
        try:
            target = target_of(request.url)
            answer = await self._connections.exchange(target, _written(request, target))
        except InvalidRequest as fault:
            return request.failed(f"not connected: {fault.message}")
        except TimeoutError:
            raise
        except OSError as fault:
            return request.failed(_connect_fault(fault))
        except (Broken, ValueError) as fault:
            return request.failed(f"the connection failed: {fault}")
        return _outcome(request, answer)


def _written(request: _Request, target: Target) -> bytes:
    """The request as it goes over the wire.

    Raises:
        ValueError: a header would end before its end.
    """
    lines = [f"{name}: {value}" for name, value in request.headers.items()]
    head = "\r\n".join((_opening(request.method, target), *lines, f"Content-Length: {len(request.body)}", "", ""))
    ends = OPENING_LINES + len(lines) + 2
    if head.count("\r") != ends or head.count("\n") != ends or "\0" in head:
        raise ValueError("a header holds the end of a line")
    return head.encode() + request.body


OPENING_LINES = 5


@lru_cache(maxsize=4096)
def _opening(method: str, target: Target) -> str:
    """What every request to a place begins with."""
    host = target.origin.partition("://")[2]
    host = host.removesuffix(f":{PORTS[target.scheme]}")
    return "\r\n".join((
        f"{method} {target.path} HTTP/1.1", f"Host: {host}", "User-Agent: Finery-Webhooks/1", "Accept: */*",
        "Accept-Encoding: identity",
    ))  # fmt: skip


def _outcome(request: _Request, answer: Answer) -> Outcome:
    later = answer.header(b"retry-after") if answer.status >= 300 else None
    return Outcome(
        status=answer.status, retry_after_s=_retry_after_s(later, datetime.now(UTC)) if later is not None else None,
        agreed=request.method == "OPTIONS" and _agrees(answer),
        duration_s=request.age_s, request_headers=shown_headers(request.headers),
        answer_headers=shown_headers(
            {name.decode("latin-1"): value.decode("latin-1") for name, value in answer.headers}
        ),
        answer_body=answer.body,
    )  # fmt: skip


def signed_headers(parcel: Parcel, now: datetime) -> dict[str, str]:
    """The headers of a message; ``now`` in UTC (the library takes any other zone for UTC).

    While secrets overlap each signs, the newest first, with spaces between.
    """
    text, utc = parcel.body.decode(), now.astimezone(UTC)
    headers = {
        "Content-Type": parcel.content_type,
        "webhook-id": parcel.event_id,
        "webhook-timestamp": str(int(now.timestamp())),
        "webhook-signature": " ".join(
            _signer(secret).sign(parcel.event_id, utc, text) for secret in parcel.secrets
        ),
    }  # fmt: skip
    if parcel.unsubscribe_url:
        headers["List-Unsubscribe"] = f"<{parcel.unsubscribe_url}>"
        headers["List-Unsubscribe-Post"] = "List-Unsubscribe=One-Click"
    traceparent = current_traceparent() or parcel.traceparent
    return headers | ({"traceparent": traceparent} if traceparent else {})


def shown_headers(headers: Mapping[str, str]) -> dict[str, str]:
    """As the delivery log keeps them: what is secret is masked, what is long is cut."""
    return {
        name: "***" if name.lower() in MASKED else value[:KEPT_HEADER_CHARS]
        for name, value in list(headers.items())[:KEPT_HEADERS]
    }


@lru_cache(maxsize=1024)
def _signer(secret: str) -> Webhook:
    return Webhook(secret)


def _agrees(answer: Answer) -> bool:
    """CloudEvents HTTP 1.1 Web Hooks, section 4.2: the endpoint allows our origin, or every one."""
    allowed = answer.header(b"webhook-allowed-origin") or ""
    return 200 <= answer.status < 300 and allowed.strip() in ("*", ORIGIN)


def _retry_after_s(value: str | None, now: datetime) -> float | None:
    """RFC 9110, 10.2.3: seconds or a date; anything else is as if it were not there."""
    if value is None:
        return None
    if value.isascii() and value.isdigit() and len(value) < 10:
        return float(value)
    try:
        until = parsedate_to_datetime(value)
    except ValueError:
        return None
    aware = until if until.tzinfo else until.replace(tzinfo=UTC)
    return max(0.0, (aware - now).total_seconds())


def _connect_fault(fault: OSError) -> str:
    if isinstance(fault, AddressRefused):
        return f"not connected: {fault}"
    return f"cannot connect: {fault.strerror or type(fault).__name__}"
