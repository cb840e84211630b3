"""Hostile URLs by category, made from what they attack: every one is another spelling, place or trick.

An address is spelt in every way that some parser takes for it; names are answered by a resolver that lies.
"""

from __future__ import annotations

import socket
from collections.abc import Iterable
from ipaddress import IPv6Address

from tests.kit.address_spellings import INTERNAL_V4, INTERNAL_V6, PUBLIC, SPELT, inside_v6, odd_v4, unicode_forms

NAMES = {
    "public.example": [PUBLIC],
    "localhost": ["127.0.0.1", "::1"],
    "mixed.example": [PUBLIC, "127.0.0.1"],
    "mixed-six.example": ["2606:4700::1111", "::1"],
    "mapped.example": ["::ffff:127.0.0.1"],
    "nat.example": ["64:ff9b::7f00:1"],
    "cname-to-localhost.example": ["127.0.0.1"],
    "nothing.example": [],
}
WILDCARDS = ("nip.io", "sslip.io", "xip.io", "localtest.me", "lvh.me", "vcap.me", "traefik.me", "rebind.network")


def lookup(host: str, port: int) -> list[str]:
    """A resolver that knows these names, wildcards that spell their answer, and numbers as the system's does."""
    if host in NAMES:
        return NAMES[host]
    wild = next((zone for zone in WILDCARDS if host.endswith(f".{zone}")), None)
    if wild is not None:
        return [_spelt_in(host.removesuffix(f".{wild}"))]
    if host.endswith((".localhost", ".local", ".internal", ".home.arpa", ".svc.cluster.local")):
        return ["10.96.0.1"]
    try:
        return [socket.inet_ntoa(socket.inet_aton(host))]
    except OSError:
        raise socket.gaierror(socket.EAI_NONAME, "unknown") from None


def _spelt_in(label: str) -> str:
    """As such services answer: the last address in the name, or loopback."""
    parts = label.replace("-", ".").split(".")
    for start in range(len(parts) - 3):
        four = parts[start : start + 4]
        if all(part.isdigit() and int(part) < 256 for part in four):
            return ".".join(four)
    return "127.0.0.1"


def by_category() -> dict[str, list[str]]:
    """Category → URLs, no URL twice in all of them."""
    seen = set[str]()
    made = dict[str, list[str]]()
    for category, urls in ALL.items():
        made[category] = [url for url in urls if not (url in seen or seen.add(url))]
    return made


ALL: dict[str, Iterable[str]] = {
    "internal v4": [f"http://{text}/hook" for text in INTERNAL_V4],
    "internal v4 with a port": [f"https://{text}:8443/" for text in INTERNAL_V4],
    "v4 spelt oddly": [f"http://{host}/" for text in SPELT for host in odd_v4(text)],
    "internal v6": [f"http://[{text}]/" for text in INTERNAL_V6],
    "v6 in full": [f"http://[{IPv6Address(text).exploded}]/" for text in INTERNAL_V6],
    "v6 in capitals": [f"http://[{text.upper()}]:80/" for text in INTERNAL_V6],
    "v4 inside v6": [f"http://[{host}]/" for text in SPELT for host in inside_v6(text)],
    "zone ids": [
        f"http://[{text}%{zone}]/"
        for text in ("fe80::1", "::1", "2606:4700::1111")
        for zone in ("eth0", "25eth0", "1", "25lo", "")
    ],
    "bad brackets": [
        "http://[::1",
        "http://::1/",
        "http://[127.0.0.1]/",
        "http://[v1.fe80]/",
        "http://[::1]x/",
        "http://[]/",
        "http://[[::1]]/",
        "http://[::1].example/",
        "http://x[::1]/",
        "http://[::1]]/",
        "http://[::g]/",
        "http://[1:2:3]/",
        "http://[::ffff:127.1]/",
        "http://[::ffff:0177.0.0.1]/",
    ],
    "unicode": [f"http://{host}/" for text in SPELT for host in unicode_forms(text)],
    "unicode names": [
        f"http://{name}/"
        for name in (
            "ⓛocalhost",
            "ｌｏｃａｌｈｏｓｔ",
            "localhoſt",
            "lоcalhost",
            "bücher.example",
            "public。example",
            "pub\u00adlic.example",
            "pub\u200blic.example",
            "public.example\u2044x",
            "public.example\uff0fx",
            "\u202epublic.example",
            "ﬀ.example",
        )
    ],
    "percent": [
        f"http://{host}/"
        for host in (
            "%31%32%37.0.0.1",
            "127%2e0%2e0%2e1",
            "%6c%6f%63%61%6c%68%6f%73%74",
            "public%2eexample",
            "public.example%00",
            "127.0.0.1%23.public.example",
            "127.0.0.1%2f.example",
            "%5b::1%5d",
            "127.0.0.1%20",
            "public.example%0d%0aHost:x",
            "%",
            "%zz.example",
        )
    ],
    "userinfo": (
        f"http://{prefix}@{host}/"
        for prefix in ("user", "user:pass", "", ":", "public.example", "a@b", "public.example:80", "%40", "1.1.1.1")
        for host in ("public.example", "127.0.0.1", "[::1]")
    ),
    "parser confusion": [
        f"http://{text}"
        for text in (
            "127.0.0.1#@public.example/",
            "127.0.0.1?@public.example/",
            "127.0.0.1\\@public.example/",
            "public.example\\@127.0.0.1/",
            "127.0.0.1:80#\\@public.example/",
            "127.0.0.1\\.public.example/",
            "public.example\\127.0.0.1/",
            "\\127.0.0.1/",
            "127.0.0.1:80\\x",
            "public.example:80:80/",
            "127.0.0.1:80@public.example:80/",
            "127.0.0.1;public.example/",
            "127.0.0.1,public.example/",
            "127.0.0.1&public.example/",
            "(127.0.0.1)/",
            "{127.0.0.1}/",
            "<127.0.0.1>/",
            "127.0.0.1|public.example/",
            "127.0.0.1^/",
            "`127.0.0.1`/",
            "'127.0.0.1'/",
            '"127.0.0.1"/',
            "$127.0.0.1/",
            "127.0.0.1!/",
            "*/",
            "127.0.0.1=/",
            "+127.0.0.1/",
            "~/",
        )
    ],
    "white and control": [
        url
        for char in (" ", "\t", "\n", "\r", "\r\n", "\x00", "\x0b", "\x1f", "\x7f", "\x85", "\u2028", "\u3000")
        for url in (
            f"http://public.example{char}/",
            f"http://{char}127.0.0.1/",
            f"{char}http://public.example/",
            f"http://public.example/{char}x",
        )
    ],
    "ports": [
        f"http://public.example:{port}/"
        for port in (
            "0",
            "00",
            "65536",
            "99999",
            "100000",
            "-1",
            "+80",
            "x",
            "80a",
            "0x50",
            "8e1",
            "80.0",
            "",
            "８０",
            "٨٠",
            " 80",
            "80:443",
        )
    ],
    "schemes": [
        f"{scheme}public.example/"
        for scheme in (
            "ftp://",
            "file://",
            "gopher://",
            "dict://",
            "ldap://",
            "tftp://",
            "sftp://",
            "ssh://",
            "ws://",
            "wss://",
            "jar:http://",
            "netdoc://",
            "unix://",
            "data://",
            "http+unix://",
            "javascript://",
            "mailto://",
            "smb://",
            "php://",
            "expect://",
            "view-source:http://",
            "blob:http://",
            "httpx://",
            "htt\tp://",
            "http;//",
            "//",
            "",
            "http:",
            "http:/",
            "http:///",
            "http:\\\\",
            "http:/\\",
            "://",
            "h://",
            "redis://",
            "memcached://",
            "rtsp://",
            "telnet://",
            "vbscript:",
            "feed:http://",
            "cid:",
            "about:",
            "nfs://",
            "imap://",
            "smtp://",
            "amqp://",
            "mysql://",
            "s3://",
        )
    ],
    "files and nothing": [
        "file:///etc/passwd",
        "file://localhost/etc/passwd",
        "unix:///var/run/docker.sock",
        "javascript:alert(1)",
        "data:text/plain,x",
        "",
        "http://",
        "http://?x",
        "https://#x",
        "http:",
        "http://./",
        "http://../",
        "http://.../",
        "/hook",
        "?",
        "#",
        "\\\\127.0.0.1\\share",
    ],
    "names that are none": [
        f"http://{name}/"
        for name in (
            "public.example.",
            "public..example",
            ".public.example",
            "-public.example",
            "public-.example",
            "a" * 64 + ".example",
            ".".join(["a" * 60] * 5),
            "public.example..",
            "localhost.",
            "LOCALHOST.",
            "127.0.0.1.",
            "1.2.3.4.5",
            "256.1.1.1",
            "1.1.1.256",
            "0x",
            "0x7f.1.",
            "08.8.8.8",
            "8.8.8.08",
            "1.2.3",
            "1",
            "9999999999",
            "4294967296",
            "-1",
            "0x1ffffffff",
            "public.0x7f",
            "public.127",
            "a.b.c.4",
            "public.example:",
            "xn--.-example",
        )
    ],
    "names that lie": [
        f"http://{name}/"
        for name in (
            "localhost",
            "LocalHost",
            "mixed.example",
            "mixed-six.example",
            "mapped.example",
            "nat.example",
            "nothing.example",
            "cname-to-localhost.example",
            "unknown.example",
            "app.localhost",
            "printer.local",
            "metadata.google.internal",
            "vault.internal",
            "router.home.arpa",
            "kubernetes.default.svc.cluster.local",
            "MIXED.example",
            "db.localhost",
        )
    ],
    "wildcard names": [
        f"http://{text}.{zone}/"
        for zone in WILDCARDS
        for text in ("127.0.0.1", "10-0-0-1", "app.169.254.169.254", "customer1.192-168-1-1", "x")
    ],
    "long": [
        "http://public.example/" + "a" * 2048,
        "http://" + "a." * 200 + "example/",
        "http://public.example/?" + "b" * 4000,
        "http://127.0.0.1/" + "c" * 3000,
        "https://" + "d" * 254 + "/",
    ],
}
