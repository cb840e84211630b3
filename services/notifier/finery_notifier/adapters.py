"""The way out: signed HTTP requests to endpoints of strangers.

Standard Webhooks signatures (standardwebhooks.com), the handshake of CloudEvents' HTTP 1.1 Web Hooks. It refuses to
connect to internal addresses, to follow redirects, to keep cookies and to read answers.
"""

from __future__ import annotations

from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

import aiohttp
from standardwebhooks import Webhook
from yarl import URL

from finery_contracts.envelope import CONTENT_TYPE
from finery_contracts.errors import Unavailable
from finery_kit.netguard import AddressRefused, GuardedResolver, Lookup, Network, guarded_sockets, system_lookup
from finery_kit.telemetry import current_traceparent
from finery_notifier.courier import Parcel
from finery_notifier.domain import Outcome, Purpose

ORIGIN = "finery"
# aiohttp stops reading from the socket at twice this; the body of an answer is thrown away.
READ_BUFFER_BYTES = 32 * 1024


class WebhookMail:
    """HTTP with the guard built in. ``open`` and ``close`` it in the running event loop."""

    def __init__(self, *, allow: tuple[Network, ...], timeout_s: float, lookup: Lookup = system_lookup) -> None:
        self._allow, self._timeout_s, self._lookup = allow, timeout_s, lookup
        self._resolver: GuardedResolver | None = None
        self._session: aiohttp.ClientSession | None = None

    async def open(self) -> None:
        """Make the session: no idle connections, no DNS cache, no proxy from the environment, no cookies."""
        self._resolver = GuardedResolver(self._allow, lookup=self._lookup)
        # A connection for each attempt: every one is checked, none fails because the endpoint closed an idle one.
        connector = aiohttp.TCPConnector(
            limit=0, force_close=True, use_dns_cache=False, resolver=self._resolver,
            socket_factory=guarded_sockets(self._allow),
        )  # fmt: skip
        self._session = aiohttp.ClientSession(
            connector=connector, cookie_jar=aiohttp.DummyCookieJar(), auto_decompress=False,
            timeout=aiohttp.ClientTimeout(total=self._timeout_s), read_bufsize=READ_BUFFER_BYTES,
            headers={"User-Agent": "Finery-Webhooks/1"},
        )  # fmt: skip

    async def close(self) -> None:
        """Close all connections, and the resolver: the session closes only one that it made itself."""
        if self._session is not None:
            await self._session.close()
        if self._resolver is not None:
            await self._resolver.close()

    async def send(self, parcel: Parcel) -> Outcome:
        """Try once. An endpoint that is to confirm is first asked by handshake, then by a signed message."""
        if parcel.purpose is Purpose.CONFIRMATION:
            answer = await self._request("OPTIONS", parcel.url, {"WebHook-Request-Origin": ORIGIN}, None)
            if answer.agreed:
                return answer
        return await self._request("POST", parcel.url, signed_headers(parcel, datetime.now(UTC)), parcel.body)

    async def _request(self, method: str, url: str, headers: dict[str, str], body: bytes | None) -> Outcome:
        if self._session is None:
            raise Unavailable("the way out is closed: the service is stopping")
        try:
            async with self._session.request(
                method, URL(url, encoded=True), headers=headers, data=body, allow_redirects=False
            ) as answer:
                return Outcome(
                    status=answer.status,
                    retry_after_s=_retry_after_s(answer.headers.get("Retry-After"), datetime.now(UTC)),
                    agreed=method == "OPTIONS" and _agrees(answer),
                )
        except TimeoutError:
            return Outcome(error=f"no answer within {self._timeout_s:g} s")
        except aiohttp.ClientConnectorError as fault:
            return Outcome(error=_connect_fault(fault.os_error))
        except (aiohttp.ClientError, OSError, ValueError) as fault:
            return Outcome(error=f"the connection failed: {type(fault).__name__}")


def signed_headers(parcel: Parcel, now: datetime) -> dict[str, str]:
    """The headers of a message; ``now`` in UTC (the library takes any other zone for UTC)."""
    headers = {
        "Content-Type": CONTENT_TYPE,
        "webhook-id": parcel.event_id,
        "webhook-timestamp": str(int(now.timestamp())),
        "webhook-signature": Webhook(parcel.secret).sign(parcel.event_id, now.astimezone(UTC), parcel.body.decode()),
    }
    traceparent = current_traceparent() or parcel.traceparent
    return headers | ({"traceparent": traceparent} if traceparent else {})


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
