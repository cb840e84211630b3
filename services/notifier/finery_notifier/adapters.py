"""The way out: signed HTTP requests to endpoints of strangers.

Standard Webhooks signatures (standardwebhooks.com), the handshake of CloudEvents' HTTP 1.1 Web Hooks. Connections are
kept, each to the address that was checked when it was made. It refuses to connect to internal addresses, to follow
redirects, to keep cookies, and to read more of an answer than the log keeps.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import NamedTuple

import aiohttp
from standardwebhooks import Webhook
from yarl import URL

from finery_contracts.errors import Unavailable
from finery_kit.netguard import (
    AddressRefused,
    GuardedResolver,
    Lookup,
    Network,
    guarded_sockets,
    literal_of,
    system_lookup,
)
from finery_kit.telemetry import current_traceparent
from finery_notifier.courier import Mail, Parcel
from finery_notifier.domain import Outcome, Purpose

ORIGIN = "finery"
READ_BUFFER_BYTES = 16 * 1024
KEPT_BODY_BYTES = 4096
KEPT_HEADERS, KEPT_HEADER_CHARS = 40, 512
IDLE_S = 15.0
REMEMBERED = 10_000
MASKED = {"webhook-signature", "list-unsubscribe", "set-cookie", "set-cookie2", "authorization", "cookie"}


class _Request(NamedTuple):
    """One request of an attempt, and when it began."""

    method: str
    url: str
    headers: dict[str, str]
    body: bytes | None
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
        self._resolver: GuardedResolver | None = None
        self._kept: aiohttp.ClientSession | None = None
        self._fresh: aiohttp.ClientSession | None = None
        self._answered = dict[URL, float]()

    async def open(self) -> None:
        """Make the sessions: no DNS cache, no proxy from the environment, no cookies."""
        self._resolver = GuardedResolver(self._allow, lookup=self._lookup)
        self._kept = self._session(aiohttp.TCPConnector(
            limit=0, keepalive_timeout=IDLE_S, use_dns_cache=False, resolver=self._resolver,
            socket_factory=guarded_sockets(self._allow),
        ))  # fmt: skip
        self._fresh = self._session(aiohttp.TCPConnector(
            limit=0, force_close=True, use_dns_cache=False, resolver=self._resolver,
            socket_factory=guarded_sockets(self._allow),
        ))  # fmt: skip

    async def close(self) -> None:
        """Close all connections, and the resolver: a session closes only one that it made itself."""
        for session in (self._kept, self._fresh):
            if session is not None:
                await session.close()
        if self._resolver is not None:
            await self._resolver.close()

    async def send(self, parcel: Parcel) -> Outcome:
        """Try once. An endpoint that is to confirm is first asked by handshake, then by a signed message."""
        if parcel.purpose is Purpose.CONFIRMATION:
            answer = await self._timed("OPTIONS", parcel.url, {"WebHook-Request-Origin": ORIGIN}, None)
            if answer.agreed:
                return answer
        return await self._timed("POST", parcel.url, signed_headers(parcel, datetime.now(UTC)), parcel.body)

    def _session(self, connector: aiohttp.TCPConnector) -> aiohttp.ClientSession:
        return aiohttp.ClientSession(
            connector=connector, cookie_jar=aiohttp.DummyCookieJar(), auto_decompress=False,
            timeout=aiohttp.ClientTimeout(total=None), read_bufsize=READ_BUFFER_BYTES, trust_env=False,
            headers={"User-Agent": "Finery-Webhooks/1"},
        )  # fmt: skip

    async def _timed(self, method: str, url: str, headers: dict[str, str], body: bytes | None) -> Outcome:
        """Everything together, from the lookup to the last byte of the answer, has ``timeout_s``."""
        request = _Request(method, url, headers, body, time.monotonic())
        try:
            async with asyncio.timeout(self._timeout_s):
                return await self._request(request)
        except TimeoutError:
            return request.failed(f"no whole answer within {self._timeout_s:g} s")

    async def _request(self, request: _Request) -> Outcome:
        if self._kept is None or self._fresh is None:
            raise Unavailable("the way out is closed: the service is stopping")
        try:
            target = URL(request.url, encoded=True)
            await self._check_again(target)
            origin = target.origin()
            try:
                outcome = await _exchange(self._kept, target, request)
            except (aiohttp.ServerDisconnectedError, aiohttp.ClientOSError) as fault:
                # It closed an idle connection at the moment we used it: that is no failure of the endpoint.
                if isinstance(fault, aiohttp.ClientConnectorError) or not self._may_be_kept(origin):
                    raise
                self._answered.pop(origin, None)
                outcome = await _exchange(self._fresh, target, request)
            self._remember(origin)
            return outcome
        except aiohttp.ClientConnectorError as fault:
            return request.failed(_connect_fault(fault.os_error))
        except TimeoutError:
            raise
        except OSError as fault:
            return request.failed(_connect_fault(fault))
        except (aiohttp.ClientError, ValueError) as fault:
            return request.failed(f"the connection failed: {type(fault).__name__}")

    def _may_be_kept(self, origin: URL) -> bool:
        """Whether it answered so lately that the connection may have been an old one."""
        return time.monotonic() - self._answered.get(origin, float("-inf")) <= IDLE_S + self._timeout_s

    def _remember(self, origin: URL) -> None:
        self._answered[origin] = time.monotonic()
        if len(self._answered) > REMEMBERED:
            self._answered.clear()

    async def _check_again(self, url: URL) -> None:
        """What a name stands for now is judged for every attempt, also where a connection is kept.

        Raises:
            AddressRefused: it stands for an internal address now.
        """
        host = url.host or ""
        if self._resolver is not None and literal_of(host) is None:
            await self._resolver.resolve(host, url.port or 0)


async def _exchange(session: aiohttp.ClientSession, url: URL, request: _Request) -> Outcome:
    async with session.request(
        request.method, url, headers=request.headers, data=request.body, allow_redirects=False
    ) as answer:
        content = answer.content
        head = await content.read(KEPT_BODY_BYTES) if not content.at_eof() else b""
        while not content.at_eof() and len(head) < KEPT_BODY_BYTES:
            head += await content.read(KEPT_BODY_BYTES - len(head))
        if not content.at_eof():
            answer.close()  # the rest is not wanted
        later = answer.headers.get("Retry-After")
        return Outcome(
            status=answer.status,
            retry_after_s=_retry_after_s(later, datetime.now(UTC)) if later is not None else None,
            agreed=request.method == "OPTIONS" and _agrees(answer),
            duration_s=request.age_s, request_headers=shown_headers(request.headers),
            answer_headers=shown_headers(answer.headers), answer_body=head,
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
            Webhook(secret).sign(parcel.event_id, utc, text) for secret in parcel.secrets
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


def _agrees(answer: aiohttp.ClientResponse) -> bool:
    """CloudEvents HTTP 1.1 Web Hooks, section 4.2: the endpoint allows our origin, or every one."""
    return 200 <= answer.status < 300 and answer.headers.get("WebHook-Allowed-Origin", "").strip() in ("*", ORIGIN)


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
