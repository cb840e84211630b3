"""GET over guarded connections: one object into one file, resumed where it broke off when it is still the same object.

It refuses redirects, so that nothing is fetched from where nobody granted it, and asks for no encoding: what is kept
is what was sent. Source: RFC 9110, sections 8.8.3 (ETag), 13.1.5 (If-Range), 14 (Range).
"""

from __future__ import annotations

import http.client
import re
import socket
import ssl
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from urllib.parse import urlsplit

from finery_contracts.errors import FineryError, InvalidRequest, TooLarge, Unavailable
from finery_contracts.sources import Limits
from finery_ml.sources.guard import connect
from finery_ml.sources.landing import Arrival, Landing, gone

PIECE = 256 * 2**10
TRIES = 5
PAUSE_S = 0.2
LATER = (408, 425, 429, 500, 502, 503, 504)
_RANGE = re.compile(r"bytes ([0-9]{1,18})-([0-9]{1,18})/(?:([0-9]{1,18})|\*)")
Signed = Callable[[str, str, Mapping[str, str]], Mapping[str, str]]
"""Method, target and headers → all headers to send."""


@dataclass(frozen=True)
class Place:
    """A server, and how requests to it are signed."""

    url: str
    limits: Limits
    sign: Signed = lambda method, target, headers: headers

    def open(self, target: str, headers: Mapping[str, str]) -> tuple[http.client.HTTPConnection, Answer]:
        """Send one GET. Raises Broken when the connection fails, InvalidRequest when it may not be made."""
        connection = _Guarded(self.url, self.limits)
        sent = {"Host": connection.shown, "User-Agent": "Finery/1", "Accept-Encoding": "identity", **headers}
        try:
            connection.putrequest("GET", target, skip_host=True, skip_accept_encoding=True)
            for name, value in self.sign("GET", target, sent).items():
                connection.putheader(name, value)
            connection.endheaders()
            return connection, connection.getresponse()
        except FineryError:
            connection.close()
            raise
        except (OSError, http.client.HTTPException) as fault:
            connection.close()
            raise Broken(_told(fault)) from fault


Answer = http.client.HTTPResponse


class Broken(Exception):
    """The connection did not last; it may be tried again."""


class _Guarded(http.client.HTTPConnection):
    """A connection whose address is judged when it is made; TLS is checked against the name."""

    def __init__(self, url: str, limits: Limits) -> None:
        split = urlsplit(url)
        self._tls, self._limits = split.scheme == "https", limits
        port = split.port or (443 if self._tls else 80)
        super().__init__(split.hostname or "", port)
        host = f"[{self.host}]" if ":" in self.host else self.host
        self.shown = host if port == (443 if self._tls else 80) else f"{host}:{port}"

    def connect(self) -> None:
        """See ``http.client``."""
        self.sock: socket.socket = connect(self.host, self.port, self._limits)
        if self._tls:
            self.sock = ssl.create_default_context().wrap_socket(self.sock, server_hostname=self.host)


def download(place: Place, target: str, landing: Landing, *, name: str) -> None:
    """One object into the landing.

    Raises:
        InvalidRequest: it is not there, or may not be read.
        TooLarge: it is more than may come.
        Unavailable: the server failed, or broke off, too often.
    """
    with landing.begin(name) as arrival:
        transfer = _Transfer(place, target, landing, arrival)
        reason, failures = "", 0
        while failures < TRIES:
            before = arrival.size_bytes
            try:
                transfer.go()
                return
            except Broken as fault:
                reason = str(fault)
                failures = 1 if arrival.size_bytes > before else failures + 1
                time.sleep(PAUSE_S * 2**failures)
        raise Unavailable(f"{name} could not be fetched: {reason}", code="source_unreachable")


class _Transfer:
    """One object that is being fetched; ``tag`` says which version of it."""

    def __init__(self, place: Place, target: str, landing: Landing, arrival: Arrival) -> None:
        self._place, self._target, self._landing, self._arrival = place, target, landing, arrival
        self._tag: str | None = None

    def go(self) -> None:
        """Ask for all of it, or for the rest. Raises Broken when it breaks off."""
        have, headers = self._arrival.size_bytes, dict[str, str]()
        if have and self._tag is not None:
            headers = {"Range": f"bytes={have}-", "If-Range": self._tag}
        connection, answer = self._place.open(self._target, headers)
        try:
            check_status(answer, self._target)
            if answer.status == 206 and headers:
                _check_range(answer, have)
            elif have:
                self._arrival.again()
            tag = answer.headers.get("ETag", "")
            self._tag = tag if tag.startswith('"') else None
            self._take(answer)
        finally:
            connection.close()

    def _take(self, answer: Answer) -> None:
        announced = answer.length
        if announced is not None:
            self._landing.expect(announced)
        taken = 0
        while piece := _read(answer):
            taken += len(piece)
            self._arrival.write(piece)
        if announced is not None and taken < announced:
            raise Broken(f"{announced - taken:,} of {announced:,} announced bytes did not come")


def fetch_small(place: Place, target: str, max_bytes: int) -> bytes:
    """A small answer, whole, tried again like a large one."""
    reason = ""
    for number in range(TRIES):
        try:
            connection, answer = place.open(target, {})
            try:
                check_status(answer, target)
                found = bytearray()
                while piece := _read(answer):
                    found += piece
                    if len(found) > max_bytes:
                        raise TooLarge(f"a list of more than {max_bytes:,} bytes came", code="source_too_large")
                return bytes(found)
            finally:
                connection.close()
        except Broken as fault:
            reason = str(fault)
            time.sleep(PAUSE_S * 2**number)
    raise Unavailable(f"the source could not be listed: {reason}", code="source_unreachable")


def check_status(answer: Answer, target: str) -> None:
    """Raises what an answer that is no success means; Broken when it may be tried again."""
    path = target.partition("?")[0]
    if answer.status in (200, 206):
        return
    if 300 <= answer.status < 400:
        raise InvalidRequest(
            f"{path} redirects to another place, and redirects are not followed; name the place itself: "
            f"{_plain(answer.headers.get('Location', ''))}",
            code="redirect_refused", param="source",
        )  # fmt: skip
    if answer.status == 404 or answer.status == 410:
        raise gone(path)
    if answer.status in LATER:
        raise Broken(f"the server answered {answer.status}")
    raise InvalidRequest(
        f"{path}: the server answered {answer.status} {answer.reason[:80]}; see whether it may be read there",
        code="source_refused", param="source",
    )  # fmt: skip


def _check_range(answer: Answer, have: int) -> None:
    matched = _RANGE.fullmatch(answer.headers.get("Content-Range", ""))
    if matched is None or int(matched[1]) != have:
        raise InvalidRequest(
            "the server sent another part than the one that was asked for", code="source_refused", param="source"
        )


def _read(answer: Answer) -> bytes:
    try:
        return answer.read1(PIECE)
    except (OSError, http.client.HTTPException, ValueError) as fault:
        raise Broken(_told(fault)) from fault


def _told(fault: Exception) -> str:
    if isinstance(fault, TimeoutError):
        return "the server fell silent"
    if isinstance(fault, ssl.SSLError):
        return f"TLS failed: {fault.reason or type(fault).__name__}"
    return f"the connection failed: {type(fault).__name__}"


def _plain(location: str) -> str:
    """A place without query, as far as it can be shown."""
    return "".join(sign for sign in location.partition("?")[0][:300] if sign.isascii() and sign.isprintable())
