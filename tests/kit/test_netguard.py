"""The guard against internal addresses: hostile spellings, names that change their mind, and a listener as witness."""

import asyncio
import socket
from ipaddress import ip_address, ip_network

import pytest

from finery_contracts.errors import InvalidRequest
from finery_kit.netguard import (
    AddressRefused,
    GuardedLookup,
    Lookup,
    check_url,
    guarded_sockets,
    refusal,
    target_of,
)

PUBLIC = "93.184.216.34"
LOOPBACK = (ip_network("127.0.0.0/8"),)

HOSTILE_TEXT = """
http://127.0.0.1/ http://127.0.0.1:8080/x http://127.1/ http://127.0.1/ http://2130706433/ http://017700000001/
http://0x7f000001/ http://0x7f.0.0.1/ http://0177.0.0.1/ http://127.0.0.01/ http://127.0.0.1./ http://127.000.000.001/
http://0/ http://0.0.0.0/ http://0x0/ http://00/ http://0.1.2.3/ http://10.0.0.1/ http://10.1/ http://172.16.0.1/
http://172.31.255.255/ http://192.168.1.1/ http://192.168.257/ http://169.254.169.254/latest/meta-data/
http://169.254.1.1/ http://2852039166/ http://0xa9fea9fe/ http://0251.0376.0251.0376/ http://100.64.0.1/
http://100.100.100.200/ http://168.63.129.16/ http://192.0.0.192/ http://192.0.2.1/ http://198.18.0.1/
http://198.51.100.7/ http://203.0.113.9/ http://224.0.0.1/ http://239.255.255.255/ http://240.0.0.1/
http://255.255.255.255/ http://192.88.99.1/ http://256.256.256.256/ http://1.2.3.4.5/ http://08.8.8.8/ http://0x/
http://[::1]/ http://[::]/ http://[0:0:0:0:0:0:0:1]/ http://[::ffff:127.0.0.1]/ http://[::ffff:7f00:1]/
http://[::ffff:10.0.0.1]/ http://[::ffff:0:127.0.0.1]/ http://[::127.0.0.1]/ http://[64:ff9b::127.0.0.1]/
http://[64:ff9b::a9fe:a9fe]/ http://[64:ff9b:1::7f00:1]/ http://[2002:7f00:1::]/ http://[2002:a00:1::1]/
http://[2001::1]/ http://[2001:db8::1]/ http://[fc00::1]/ http://[fd00:ec2::254]/ http://[fe80::1]/
http://[fe80::1%25eth0]/ http://[fe80::1%eth0]/ http://[fec0::1]/ http://[ff02::1]/ http://[100::1]/ http://[3fff::1]/
http://[4000::1]/ http://[::1 http://::1/ http://[127.0.0.1]/ http://[v1.fe80]/ http://[::1]x/ http://[]/
http://localhost/ http://LOCALHOST/ http://localhost./ http://localhost:0/ http://internal.example/ http://mixed.example/
http://mapped.example/ http://nothing.example/ http://unknown.example/
http://user@public.example/ http://user:pass@public.example/ http://public.example@127.0.0.1/ http://@public.example/
http://127.0.0.1#@public.example/ http://127.0.0.1?@public.example/ http://127.0.0.1\\@public.example/
http://public.example\\@127.0.0.1/ http://public.example:0/ http://public.example:65536/ http://public.example:x/
http://public.example:-1/ http://public.example:80:80/ http://public.example./ http://public..example/
http://-public.example/ http://%31%32%37.0.0.1/ http://public%2eexample/ http://127。0。0。1/ http://①②⑦.⓪.⓪.①/
http://ⓛocalhost/ http://bücher.example/ http://١٢٧.0.0.1/ http://public.example/ü ftp://public.example/
file:///etc/passwd gopher://public.example/ javascript:alert(1) data:text/plain,x //public.example/ public.example
http:public.example http:/public.example/ http:///public.example/ http:// http://?x https://#x http://./ http://../ ://x
unix:///var/run/docker.sock http+unix://x/ jar:http://public.example/
"""
HOSTILE = [url for line in HOSTILE_TEXT.splitlines() for url in line.split()]
WITH_SPACE_OR_LONG = ["http://127.0.0.1 .example/", " http://public.example/", "http://public.example/\t", "http://pub\nlic/",
                  "http://public.example/\x00", "http://public.example/ x", "http://" + "a" * 64 + ".example/",
                  "http://public.example/" + "a" * 2048, ""]  # fmt: skip

NAMES = {
    "public.example": [PUBLIC],
    "localhost": ["127.0.0.1", "::1"],
    "internal.example": ["10.0.0.7"],
    "mixed.example": [PUBLIC, "127.0.0.1"],
    "mapped.example": ["::ffff:127.0.0.1"],
    "nothing.example": [],
}


def lookup(host: str, port: int) -> list[str]:
    """A resolver that knows a few names, and numbers in every spelling, as the system's does."""
    if host in NAMES:
        return NAMES[host]
    try:
        return [socket.inet_ntoa(socket.inet_aton(host))]
    except OSError:
        raise socket.gaierror(socket.EAI_NONAME, "unknown") from None


@pytest.mark.parametrize("url", HOSTILE + WITH_SPACE_OR_LONG)
async def test_a_hostile_spelling_is_refused_with_its_reason_and_the_remedy(url: str):
    with pytest.raises(InvalidRequest) as refused:
        await check_url(url, lookup=lookup)

    assert refused.value.error_code == "url_not_allowed"
    assert refused.value.param == "url"
    assert "FINERY_NOTIFIER_ALLOW_NETWORKS" in refused.value.message


def test_the_table_of_hostile_spellings_is_long_and_without_doubles():
    assert len(set(HOSTILE + WITH_SPACE_OR_LONG)) == len(HOSTILE + WITH_SPACE_OR_LONG) >= 60


@pytest.mark.parametrize(
    ("url", "origin"),
    [
        ("https://public.example/hook?x=1", "https://public.example:443"),
        ("HTTP://Public.Example:8080/hook", "http://public.example:8080"),
        (f"http://{PUBLIC}/", f"http://{PUBLIC}:80"),
        ("http://[2606:4700::1111]:81/", "http://[2606:4700::1111]:81"),
        ("http://[2606:4700:0:0::1111]/", "http://[2606:4700::1111]:80"),
        ("http://[64:ff9b::808:808]/", "http://[64:ff9b::808:808]:80"),
    ],
)
async def test_a_plain_url_of_a_public_endpoint_is_allowed(url: str, origin: str):
    checked = await check_url(url, lookup=lookup)

    assert (checked.url, checked.origin) == (url, origin)


@pytest.mark.parametrize("url", ["http://127.0.0.1:9/", "http://[::ffff:127.0.0.1]:9/", "http://internal.example/"])
async def test_the_operator_may_allow_networks(url: str):
    allow = (*LOOPBACK, ip_network("10.0.0.0/24"))

    checked = await check_url(url, allow=allow, lookup=lookup)

    assert checked.addresses


async def test_one_address_outside_the_allowed_networks_refuses_the_name():
    with pytest.raises(InvalidRequest, match=r"::1, a loopback address"):
        await check_url("http://localhost/", allow=LOOPBACK, lookup=lookup)


async def test_a_refusal_does_not_repeat_credentials_of_the_url():
    with pytest.raises(InvalidRequest) as refused:
        await check_url("http://me:hunter2@public.example/", lookup=lookup)

    assert "hunter2" not in refused.value.message


@pytest.mark.parametrize("text", ["8.8.8.8", "1.1.1.1", "2606:4700::1111", "::ffff:8.8.8.8", "64:ff9b::8.8.8.8"])
def test_public_addresses_are_not_refused(text: str):
    assert refusal(ip_address(text)) is None


class Witness:
    """A listener on loopback that counts who connects."""

    def __init__(self) -> None:
        self.connections = 0
        self.port = 0

    async def __aenter__(self) -> "Witness":
        self._server = await asyncio.start_server(self._answer, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        await self._server.wait_closed()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
        await writer.drain()
        writer.close()
        await writer.wait_closed()


async def fetch(url: str, lookup: Lookup, allow=()) -> bytes:
    """As whoever calls a stranger's URL does it: spelling, lookup, socket; each has its guard."""
    target = target_of(url)
    guard = GuardedLookup(allow, lookup=lookup)
    try:
        found = (target.literal,) if target.literal else await guard.addresses(target.host, target.port)
    finally:
        guard.close()
    family = socket.AF_INET6 if found[0].version == 6 else socket.AF_INET
    entry = (family, socket.SOCK_STREAM, 0, "", (str(found[0]), target.port))
    with guarded_sockets(allow)(entry) as made:
        made.setblocking(False)
        loop = asyncio.get_running_loop()
        await loop.sock_connect(made, entry[4])
        await loop.sock_sendall(made, b"GET / HTTP/1.1\r\n\r\n")
        return await loop.sock_recv(made, 4096)


@pytest.mark.parametrize(
    "host", ["127.0.0.1", "[::ffff:127.0.0.1]", "rebound.example", "mixed.example", "2130706433", "localhost"]
)
async def test_no_connection_is_made_to_an_internal_address_however_it_is_named(host: str):
    names = NAMES | {"rebound.example": ["127.0.0.1"]}
    async with Witness() as witness:
        with pytest.raises((AddressRefused, InvalidRequest)):
            await fetch(f"http://{host}:{witness.port}/", lambda name, _: names[name])

        assert witness.connections == 0


async def test_a_name_that_points_elsewhere_the_second_time_gains_nothing():
    answers = iter([[PUBLIC], ["127.0.0.1"]])
    async with Witness() as witness:
        url = f"http://rebound.example:{witness.port}/"
        checked = await check_url(url, lookup=lambda *_: next(answers))

        with pytest.raises(AddressRefused, match=r"rebound\.example stands for 127\.0\.0\.1, a loopback address"):
            await fetch(checked.url, lambda *_: next(answers))

        assert witness.connections == 0


async def test_a_name_without_an_address_is_not_connected_to():
    guard = GuardedLookup(lookup=lambda *_: [])

    with pytest.raises(OSError, match=r"the host nowhere\.example has no address"):
        await guard.addresses("nowhere.example", 80)

    guard.close()


@pytest.mark.parametrize(
    ("url", "host", "port", "path", "origin"),
    [
        ("https://Public.Example", "public.example", 443, "/", "https://public.example:443"),
        ("http://public.example?a=%2F..#f", "public.example", 80, "/?a=%2F..", "http://public.example:80"),
        (
            "HTTP://public.example:8080/a/../b//c/?",
            "public.example",
            8080,
            "/a/../b//c/?",
            "http://public.example:8080",
        ),
        ("http://[2606:4700::1111]:81/x;y=%7e", "2606:4700::1111", 81, "/x;y=%7e", "http://[2606:4700::1111]:81"),
    ],
)
def test_path_and_query_stay_as_they_are_written(url: str, host: str, port: int, path: str, origin: str):
    target = target_of(url)

    assert (target.host, target.port, target.path, target.origin) == (host, port, path, origin)


async def test_the_witness_sees_a_connection_once_the_network_is_allowed():
    async with Witness() as witness:
        answer = await fetch(f"http://sink.example:{witness.port}/", lambda *_: ["127.0.0.1"], LOOPBACK)

        assert (answer[:15], witness.connections) == (b"HTTP/1.1 200 OK", 1)
