"""What lies between a delivery and a stranger's machine: names judged for each use, TLS, and answers under limits."""

import asyncio
import contextlib
import os
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from ipaddress import ip_network
from pathlib import Path

import pytest
from notifier_rig import LOOPBACK

from finery_kit.netguard import Lookup
from finery_notifier.adapters import WebhookMail
from finery_notifier.courier import Parcel
from finery_notifier.domain import Outcome, Purpose
from finery_notifier.requests import new_secret

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi"
CERTIFICATE = Path(__file__).with_name("endpoint.pem")
"""Self-signed, of good.example, with its key."""

Talk = Callable[["Endpoint", asyncio.StreamWriter], Awaitable[None]]


async def answers_ok(_: "Endpoint", writer: asyncio.StreamWriter) -> None:
    writer.write(OK)


@dataclass
class Endpoint:
    """A listener that speaks bytes: it reads a whole request, then talks. ``closed`` counts who left."""

    talk: Talk = answers_ok
    requests: list[bytes] = field(default_factory=list)
    connections: int = 0
    closed: int = 0
    port: int = 0
    left: asyncio.Event = field(default_factory=asyncio.Event)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                length = int(head.partition(b"Content-Length: ")[2].partition(b"\r\n")[0])
                self.requests.append(head + await reader.readexactly(length))
                await self.talk(self, writer)
                await writer.drain()
        self.closed += 1
        self.left.set()
        writer.transport.abort()


@contextlib.asynccontextmanager
async def endpoint(
    talk: Talk = answers_ok, *, host: str = "127.0.0.1", port: int = 0, secure: bool = False
) -> AsyncIterator[Endpoint]:
    made, tls = Endpoint(talk), None
    if secure:
        tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        tls.load_cert_chain(CERTIFICATE)
    server = await asyncio.start_server(made.serve, host, port, ssl=tls)
    made.port = server.sockets[0].getsockname()[1]
    try:
        yield made
    finally:
        server.close()
        async with asyncio.timeout(5):
            while made.closed < made.connections:  # who called has gone, and every handler has seen it
                await asyncio.sleep(0.001)


@contextlib.asynccontextmanager
async def mail(*, allow=LOOPBACK, timeout_s: float = 5, lookup: Lookup | None = None) -> AsyncIterator[WebhookMail]:
    made = WebhookMail(allow=allow, timeout_s=timeout_s, lookup=lookup or (lambda *_: ["127.0.0.1"]))
    await made.open()
    try:
        yield made
    finally:
        await made.close()


def parcel(url: str, **more) -> Parcel:
    plain = Parcel(
        delivery="dlv_1", version=1, number=1, channel="webhook", purpose=Purpose.FACT, event_id="evt_1", url=url,
        endpoint="x", subject="", content_type="application/json", body=b'{"a": 1}', secrets=(new_secret(),),
        unsubscribe_url="", traceparent=None, refusal=None,
    )  # fmt: skip
    return plain._replace(**more)


async def outcome_of(talk: Talk, *, timeout_s: float = 5) -> tuple[Outcome, Endpoint]:
    """Of one attempt at an endpoint that talks so."""
    async with endpoint(talk) as there, mail(timeout_s=timeout_s) as way:
        return await way.send(parcel(f"http://127.0.0.1:{there.port}/")), there


# --- where a connection goes ------------------------------------------------------------------------------------------


async def test_a_kept_connection_serves_the_next_delivery_and_the_name_is_looked_up_again():
    asked = []
    async with endpoint() as there, mail(lookup=lambda *name: asked.append(name) or ["127.0.0.1"]) as way:
        for _ in range(3):
            assert (await way.send(parcel(f"http://sink.example:{there.port}/"))).delivered

        assert (there.connections, len(there.requests)) == (1, 3)
        assert asked == [("sink.example", there.port)] * 3


async def test_a_connection_is_not_used_once_its_name_points_elsewhere():
    stands_for = ["127.0.0.1"]
    async with (
        endpoint() as one, endpoint(host="127.0.0.2", port=one.port) as two, mail(lookup=lambda *_: stands_for) as way
    ):  # fmt: skip
        url = f"http://moving.example:{one.port}/"
        await way.send(parcel(url))
        stands_for[:] = ["127.0.0.2"]
        await way.send(parcel(url))
        await asyncio.wait_for(one.left.wait(), 5)

        assert (len(one.requests), len(two.requests), one.closed) == (1, 1, 1)


async def test_nothing_goes_through_a_kept_connection_once_its_name_points_inside():
    stands_for, allow = ["127.0.0.1"], (ip_network("127.0.0.1/32"),)
    async with endpoint() as there, mail(allow=allow, lookup=lambda *_: stands_for) as way:
        url = f"http://moving.example:{there.port}/"
        first = await way.send(parcel(url))
        stands_for[:] = ["127.0.0.1", "10.0.0.1"]
        second = await way.send(parcel(url))

        assert (first.delivered, len(there.requests)) == (True, 1)
        assert second.error == "not connected: moving.example stands for 10.0.0.1, a private address"


async def test_the_second_address_is_tried_when_nobody_listens_at_the_first():
    async with endpoint(host="127.0.0.2") as there, mail(lookup=lambda *_: ["127.0.0.1", "127.0.0.2"]) as way:
        assert (await way.send(parcel(f"http://sink.example:{there.port}/"))).delivered


async def test_an_endpoint_that_does_not_listen_is_told_as_such():
    async with endpoint() as there:
        port = there.port
    async with mail() as way:
        outcome = await way.send(parcel(f"http://127.0.0.1:{port}/"))

    assert outcome.error is not None
    assert outcome.error.startswith("cannot connect: ")
    assert outcome.request_headers["webhook-id"] == "evt_1"


async def test_a_proxy_of_the_environment_is_not_asked(monkeypatch: pytest.MonkeyPatch):
    async with endpoint() as proxy, endpoint() as there, mail() as way:
        for name in ("http_proxy", "HTTP_PROXY", "ALL_PROXY", "all_proxy"):
            monkeypatch.setenv(name, f"http://127.0.0.1:{proxy.port}")
        assert (await way.send(parcel(f"http://127.0.0.1:{there.port}/"))).delivered

        assert (proxy.connections, there.connections) == (0, 1)


async def test_a_lookup_that_hangs_counts_against_the_time_of_the_attempt():
    release = asyncio.Event()
    loop = asyncio.get_running_loop()

    def hang(*_: object) -> list[str]:
        asyncio.run_coroutine_threadsafe(release.wait(), loop).result(30)
        return ["127.0.0.1"]

    async with mail(timeout_s=0.2, lookup=hang) as way:
        outcome = await way.send(parcel("http://slow.example/"))
        release.set()

    assert outcome.error == "no whole answer within 0.2 s"


# --- TLS --------------------------------------------------------------------------------------------------------------


async def test_a_certificate_of_a_known_authority_and_the_right_name_is_taken(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("SSL_CERT_FILE", str(CERTIFICATE))
    async with endpoint(secure=True) as there, mail() as way:
        outcomes = [await way.send(parcel(f"https://good.example:{there.port}/")) for _ in range(2)]

        assert [outcome.status for outcome in outcomes] == [200, 200]
        assert there.connections == 1


@pytest.mark.parametrize(
    ("host", "known", "why"),
    [("bad.example", True, "Hostname mismatch"), ("127.0.0.1", True, "IP address mismatch"),
     ("good.example", False, "self-signed certificate")],
)  # fmt: skip
async def test_any_other_certificate_is_refused_and_nothing_is_sent(
    host: str, known: bool, why: str, monkeypatch: pytest.MonkeyPatch
):
    if known:
        monkeypatch.setenv("SSL_CERT_FILE", str(CERTIFICATE))
    async with endpoint(secure=True) as there, mail() as way:
        outcome = await way.send(parcel(f"https://{host}:{there.port}/"))

        assert there.requests == []
    assert outcome.status is None
    assert outcome.error is not None
    assert why in outcome.error


# --- what is asked ----------------------------------------------------------------------------------------------------


async def test_path_and_query_go_out_as_they_were_given():
    async with endpoint() as there, mail() as way:
        await way.send(parcel(f"http://127.0.0.1:{there.port}/a/../b//%7Ec;d?e=%2f+g&&h=#fragment"))

        head, _, body = there.requests[0].partition(b"\r\n\r\n")
        assert head.split(b"\r\n")[:2] == [
            b"POST /a/../b//%7Ec;d?e=%2f+g&&h= HTTP/1.1", f"Host: 127.0.0.1:{there.port}".encode(),
        ]  # fmt: skip
        assert body == b'{"a": 1}'


@pytest.mark.parametrize("end", ["\r\n", "\n", "\r", "\0"])
@pytest.mark.parametrize("place", ["content_type", "event_id", "traceparent", "unsubscribe_url"])
async def test_a_header_cannot_become_two(place: str, end: str):
    async with endpoint() as there, mail() as way:
        outcome = await way.send(parcel(f"http://127.0.0.1:{there.port}/", **{place: f"a{end}X-Mine: 1"}))

        assert (there.connections, outcome.delivered) == (0, False)


# --- what comes back --------------------------------------------------------------------------------------------------


def says(*pieces: bytes, close: bool = False) -> Talk:
    async def talk(_: Endpoint, writer: asyncio.StreamWriter) -> None:
        for piece in pieces:
            writer.write(piece)
            await writer.drain()
        if close:
            writer.close()

    return talk


def repeats(first: bytes, again: bytes) -> Talk:
    async def talk(_: Endpoint, writer: asyncio.StreamWriter) -> None:
        writer.write(first)
        while not writer.transport.is_closing():
            writer.write(again)
            await writer.drain()

    return talk


CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"


async def test_a_chunked_answer_without_end_is_cut_where_the_log_ends():
    outcome, there = await outcome_of(repeats(CHUNKED, b"a\r\n0123456789\r\n"))

    assert (outcome.status, len(outcome.answer_body), there.closed) == (200, 4096, 1)
    assert outcome.answer_body.startswith(b"01234567890")


@pytest.mark.parametrize(
    "talk",
    [
        repeats(b"HTTP/1.1 200 OK\r\n", b"X-Flood: " + b"x" * 100 + b"\r\n"),
        repeats(b"HTTP/1.1 200 OK\r\nX-Long: ", b"x" * 1000),
        repeats(b"HTTP/1.1 200 ", b"x" * 1000),
        repeats(b"", b"HTTP/1.1 100 Continue\r\n\r\n"),
        repeats(CHUNKED + b"1;", b"x" * 1000),
        repeats(CHUNKED + b"0\r\n", b"X-Trailer: " + b"x" * 100 + b"\r\n"),
        says(b"HTTP/1.1 200 OK\r\n" + b"".join(b"X-%d: 1\r\n" % number for number in range(200)) + b"X-Last: "),
    ],
    ids=["headers", "header", "reason", "interim", "extension", "trailers", "number"],
)
async def test_an_answer_that_is_all_frame_is_cut(talk: Talk):
    outcome, there = await outcome_of(talk)

    assert outcome.error == "the connection failed: the head of the answer, or what frames its body, is too long"
    assert (outcome.status, there.closed) == (None, 1)


async def test_an_answer_that_drips_ends_with_the_time_and_its_connection_too():
    async def drips(there: Endpoint, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n")
        while not writer.transport.is_closing():
            writer.write(b".")
            await asyncio.sleep(0.02)

    outcome, there = await outcome_of(drips, timeout_s=0.3)

    assert (outcome.error, outcome.status, there.closed) == ("no whole answer within 0.3 s", None, 1)


@pytest.mark.parametrize(
    "said",
    [b"", b"SSH-2.0-OpenSSH_9.7\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf", CHUNKED + b"5\r\nhal",
     b"HTTP/1.1 200 OK\r\nContent-Le", b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\nhi",
     b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nhi", b"HTTP/1.1 200 OK\nX: y\n\nhi"],
)  # fmt: skip
async def test_what_is_no_whole_answer_is_a_failure(said: bytes):
    outcome, _ = await outcome_of(says(said, close=True))

    assert outcome.status is None
    assert outcome.error is not None
    assert outcome.error.startswith("the connection failed: ")


@pytest.mark.parametrize(
    ("said", "status", "body"),
    [
        (b"HTTP/1.1 200 OK\r\n\r\nall of it", 200, b"all of it"),
        (b"HTTP/1.0 202 Accepted\r\n\r\n", 202, b""),
        (CHUNKED + b"3\r\nabc\r\n2\r\nde\r\n0\r\nX-Trailer: 1\r\n\r\n", 200, b"abcde"),
        (b"HTTP/1.1 102 Wait\r\nX-Not: me\r\n\r\nHTTP/1.1 204 No Content\r\n\r\n", 204, b""),
        (b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: Upgrade\r\n\r\nzzz", 101, b""),
        (b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 3\r\n\r\n\x1f\x8b\x08", 200, b"\x1f\x8b\x08"),
    ],
    ids=["until the end", "old", "chunked", "interim", "upgrade", "packed"],
)  # fmt: skip
async def test_an_answer_of_any_framing_is_read(said: bytes, status: int, body: bytes):
    outcome, _ = await outcome_of(says(said, close=True))

    assert (outcome.status, outcome.answer_body, outcome.error) == (status, body, None)
    assert "X-Not" not in outcome.answer_headers
    assert "X-Trailer" not in outcome.answer_headers


async def test_a_second_answer_behind_the_first_is_nobodys():
    smuggled = OK + b"HTTP/1.1 410 Gone\r\nContent-Length: 0\r\n\r\n"
    async with endpoint(says(smuggled)) as there, mail() as way:
        outcomes = [await way.send(parcel(f"http://127.0.0.1:{there.port}/")) for _ in range(2)]

        assert [outcome.status for outcome in outcomes] == [200, 200]
        assert there.connections == 2


async def test_an_endpoint_that_says_close_is_called_anew():
    said = b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"
    async with endpoint(says(said)) as there, mail() as way:
        outcomes = [await way.send(parcel(f"http://127.0.0.1:{there.port}/")) for _ in range(2)]

        assert [outcome.status for outcome in outcomes] == [200, 200]
        assert there.connections == 2


async def test_attempts_that_are_cancelled_leave_no_socket_and_no_answer_to_others():
    async def hangs(there: Endpoint, writer: asyncio.StreamWriter) -> None:
        if len(there.requests) > 20:
            writer.write(OK)

    async with mail() as way, endpoint(hangs) as there:
        url = f"http://127.0.0.1:{there.port}/"
        before = len(os.listdir("/proc/self/fd"))
        flights = [asyncio.create_task(way.send(parcel(url))) for _ in range(20)]
        while len(there.requests) < 20:
            await asyncio.sleep(0)
        for flight in flights:
            flight.cancel()
        told = await asyncio.gather(*flights, return_exceptions=True)
        async with asyncio.timeout(5):
            while len(os.listdir("/proc/self/fd")) > before:
                await asyncio.sleep(0.001)

        assert {type(one) for one in told} == {asyncio.CancelledError}
        assert there.closed == 20
        assert (await way.send(parcel(url))).delivered
        await way.close()
