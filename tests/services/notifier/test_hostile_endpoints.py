"""Hundreds of hostile URLs: refused when somebody subscribes, and not connected to even if one had got in."""

import asyncio
import contextlib
import re
import socket
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

import pytest
from notifier_rig import LOOPBACK

from finery_contracts.errors import InvalidRequest
from finery_kit.netguard import check_url
from finery_notifier.adapters import WebhookMail
from finery_notifier.courier import Parcel
from finery_notifier.domain import Purpose
from finery_notifier.requests import new_secret
from tests.kit.hostile_urls import PUBLIC, by_category, lookup

CORPUS = by_category()
URLS = [url for urls in CORPUS.values() for url in urls]
LISTENING = ("127.0.0.1", "127.0.0.2", "127.0.0.53", "127.255.255.254", "::1")
GOOD = (
    "https://public.example/", "https://public.example", "http://public.example/hook", "HTTPS://PUBLIC.EXAMPLE/Hook",
    "https://public.example:8443/a/b?c=d&e=%20f#g", "http://public.example:1/", "http://public.example:65535/",
    "https://a.b-c.d_e.public.example/", "https://xn--bcher-kva.example/", "https://1.public.example/",
    "https://127.0.0.1.public.example/", "https://localhost.public.example/", "https://0x7f.public.example/",
    f"http://{PUBLIC}/", "http://1.1.1.1/", "http://8.8.8.8:53/", "http://172.15.255.255/", "http://172.32.0.1/",
    "http://192.167.0.1/", "http://11.0.0.1/", "http://126.255.255.255/", "http://128.0.0.1/", "http://100.63.0.1/",
    "http://100.128.0.1/", "http://169.253.0.1/", "http://223.255.255.254/", "http://[2606:4700::1111]/",
    "http://[2001:4860:4860::8888]:8080/x", "http://[64:ff9b::808:808]/", "http://[::ffff:8.8.8.8]/",
    "https://public.example/?u=http://127.0.0.1/", "https://public.example/@127.0.0.1", "https://public.example/a;b,c",
)  # fmt: skip


def knows_all(host: str, port: int) -> list[str]:
    return [PUBLIC]


def test_the_corpus_is_large_and_no_two_are_the_same():
    assert len(set(URLS)) == len(URLS) >= 700
    assert len(CORPUS) >= 20


@pytest.mark.parametrize("category", CORPUS)
async def test_a_hostile_url_is_refused_at_subscription(category: str):
    passed = []
    for url in CORPUS[category]:
        with contextlib.suppress(InvalidRequest):
            passed.append((url, (await check_url(url, lookup=lookup)).origin))

    assert passed == []


@pytest.mark.parametrize("url", GOOD)
async def test_a_good_url_raises_no_alarm(url: str):
    assert (await check_url(url, lookup=knows_all)).url == url


@dataclass
class Witnesses:
    """Listeners on every loopback address there is, on one port; they count who connects."""

    port: int = 0
    connections: list[str] = field(default_factory=list)

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections.append(str(writer.get_extra_info("sockname")))
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
        await writer.drain()
        writer.close()


@contextlib.asynccontextmanager
async def witnesses() -> AsyncIterator[Witnesses]:
    seen, servers = Witnesses(), []
    for host in LISTENING:
        with contextlib.suppress(OSError):  # a machine without IPv6
            family = socket.AF_INET6 if ":" in host else socket.AF_INET
            servers.append(await asyncio.start_server(seen.answer, host, seen.port, family=family))
            seen.port = seen.port or servers[0].sockets[0].getsockname()[1]
    try:
        yield seen
    finally:
        for server in servers:
            server.close()


def aimed(url: str, port: int) -> str:
    """The same host, at the witnesses' port."""
    return re.sub(r"^(https?://)([^/?#]*?)(:[0-9]{1,5})?([/?#]|$)", rf"http://\g<2>:{port}\g<4>", url, count=1)


def parcel(url: str) -> Parcel:
    return Parcel(
        delivery="dlv_1", version=1, number=1, channel="webhook", purpose=Purpose.FACT, event_id="evt_1", url=url,
        endpoint="x", subject="", content_type="application/json", body=b"{}", secrets=(new_secret(),),
        unsubscribe_url="", traceparent=None, refusal=None,
    )  # fmt: skip


@pytest.fixture
async def mail() -> AsyncIterator[WebhookMail]:
    made = WebhookMail(allow=(), timeout_s=5, lookup=inward)
    await made.open()
    yield made
    await made.close()


def inward(host: str, port: int) -> list[str]:
    """A resolver at its worst: every public name has turned to loopback meanwhile."""
    try:
        found = lookup(host, port)
    except OSError:
        return ["127.0.0.1"]
    return ["127.0.0.1" if address == PUBLIC else address for address in found]


@pytest.mark.parametrize("category", CORPUS)
async def test_nothing_connects_even_if_it_had_got_into_the_database(category: str, mail: WebhookMail):
    async with witnesses() as seen:
        outcomes = [await mail.send(parcel(aimed(url, seen.port))) for url in CORPUS[category]]

        assert seen.connections == []
    assert not any(outcome.delivered for outcome in outcomes)
    assert all(outcome.error for outcome in outcomes)


async def test_the_witnesses_see_who_is_allowed_to_connect():
    async with witnesses() as seen:
        made = WebhookMail(allow=LOOPBACK, timeout_s=5, lookup=lookup)
        await made.open()
        outcomes = [await made.send(parcel(f"http://{host}:{seen.port}/")) for host in LISTENING if ":" not in host]
        await made.close()

        assert len(seen.connections) == len(outcomes) == 4
    assert all(outcome.delivered for outcome in outcomes)
