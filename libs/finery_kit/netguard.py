"""The guard between a URL that a stranger wrote and the network this installation stands in.

It refuses every internal address in every spelling, when the URL is given and again for the very address a connection
goes to, so that a name which points elsewhere the second time gains nothing. It refuses rather than repairs: a host is
a plain name, a dotted quad or an IPv6 literal, or it is nothing.
"""

from __future__ import annotations

import asyncio
import re
import socket
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from ipaddress import IPv6Address, ip_address
from typing import Any, NamedTuple
from urllib.parse import SplitResult, urlsplit

from finery_contracts.errors import InvalidRequest
from finery_kit.special_networks import Address as Address
from finery_kit.special_networks import Network as Network
from finery_kit.special_networks import refusal as refusal

Lookup = Callable[[str, int], Sequence[str]]

LOOKUP_TIMEOUT_S = 5.0
MAX_URL_CHARS = 2048
PORTS = {"http": 80, "https": 443}
_LABEL = re.compile(r"[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?")
_NUMBER = re.compile(r"[0-9]+|0x[0-9a-f]*")
_AUTHORITY = re.compile(r"(\[[0-9a-fA-F:.]+\]|[^\[\]:]+)(?::([0-9]{1,5}))?")
_REMEDY = (
    "give the http or https URL of an endpoint that is reachable from the internet; the operator may allow internal "
    "networks, such as 127.0.0.0/8, with FINERY_NOTIFIER_ALLOW_NETWORKS for webhooks and "
    "FINERY_SOURCES_ALLOW_NETWORKS for data and weights"
)


class AddressRefused(OSError):
    """A connection would have gone to an address that is not allowed; nothing was sent."""


class Target(NamedTuple):
    """What a URL names. ``host``: lower case, no brackets. ``path``: with the query, as it stands.

    ``origin`` is ``scheme://host:port``.
    """

    scheme: str
    host: str
    port: int
    path: str
    literal: Address | None
    origin: str


@dataclass(frozen=True)
class CheckedUrl:
    """A URL that may be called; ``addresses`` is what the host stands for now."""

    url: str
    host: str
    port: int
    origin: str
    addresses: tuple[Address, ...]


def system_lookup(host: str, port: int) -> Sequence[str]:
    """What the system's resolver says; blocking, so it is called in a thread."""
    infos = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(info[4][0]) for info in infos))


async def check_url(url: str, *, allow: tuple[Network, ...] = (), lookup: Lookup = system_lookup) -> CheckedUrl:
    """The URL, if it may be called: its spelling is plain and all addresses of its host are allowed.

    Raises:
        InvalidRequest: code ``url_not_allowed``, with the reason and the remedy; nothing was connected to.
    """
    target = target_of(url)
    if target.literal is not None:
        addresses: tuple[Address, ...] = (target.literal,)
    else:
        addresses = await _addresses(target.host, target.port, lookup)
    for address in addresses:
        reason = refusal(address, allow)
        if reason is not None:
            raise _not_allowed(f"{target.host} stands for {address}, {reason}")
    return CheckedUrl(url, target.host, target.port, target.origin, addresses)


@lru_cache(maxsize=4096)
def target_of(url: str) -> Target:
    """Where a URL leads that every parser reads the same way.

    Raises:
        InvalidRequest: code ``url_not_allowed``; it is not spelt plainly.
    """
    if len(url) > MAX_URL_CHARS:
        raise _not_allowed(f"the URL is longer than {MAX_URL_CHARS} characters")
    if not url.isascii() or not url.isprintable() or " " in url or "\\" in url:
        raise _not_allowed(
            "the URL contains a space, a backslash, a control or a non-ASCII character; write an international "
            "host name in its xn-- form and encode the rest with %"
        )
    try:
        split = urlsplit(url)
    except ValueError as fault:
        raise _not_allowed("the URL cannot be parsed") from fault
    scheme = split.scheme.lower()
    if scheme not in PORTS or not url[len(scheme) :].startswith("://"):
        raise _not_allowed(f"the scheme {scheme or '(none)'!r} is not http or https")
    host, port = _host_and_port(split, PORTS[scheme])
    literal = literal_of(host)
    if literal is None:
        _check_name(host)
    rest = url[len(scheme) + len("://") + len(split.netloc) :].partition("#")[0]
    origin = f"{scheme}://{f'[{host}]' if ':' in host else host}:{port}"
    return Target(scheme, host, port, rest if rest.startswith("/") else f"/{rest}", literal, origin)


def check_spelling(url: str, *, allow: tuple[Network, ...] = ()) -> str:
    """The URL's origin, ``scheme://host:port``, if nothing but its name can still be refused; nothing is looked up.

    Raises:
        InvalidRequest: code ``url_not_allowed``: it is not spelt plainly, or spells out an internal address.
    """
    target = target_of(url)
    reason = refusal(target.literal, allow) if target.literal is not None else None
    if reason is not None:
        raise _not_allowed(f"{target.host} is {reason}")
    return target.origin


def literal_of(host: str) -> Address | None:
    """The address that this host spells out in the one canonical way, or None for anything else."""
    try:
        address = ip_address(host)
    except ValueError:
        return None
    canonical = isinstance(address, IPv6Address) or str(address) == host
    return address if canonical else None


class GuardedLookup:
    """What names stand for, judged at the moment of connecting.

    Lookups run in threads of its own: names that hang hold up nobody else's. Literals are looked up nowhere, so who
    connects needs ``guarded_sockets`` too.
    """

    def __init__(self, allow: tuple[Network, ...] = (), *, lookup: Lookup = system_lookup, threads: int = 64) -> None:
        self._allow, self._lookup = allow, lookup
        self._pool = ThreadPoolExecutor(max_workers=threads, thread_name_prefix="lookup")

    async def addresses(self, host: str, port: int) -> tuple[Address, ...]:
        """The addresses of a name; one internal address among them refuses all.

        Raises:
            AddressRefused: the name stands for an internal address now.
            OSError: it stands for none.
        """
        found = await asyncio.get_running_loop().run_in_executor(self._pool, self._lookup, host, port)
        addresses = tuple(ip_address(text) for text in found)
        if not addresses:
            raise OSError(f"the host {host} has no address")
        for address in addresses:
            reason = refusal(address, self._allow)
            if reason is not None:
                raise AddressRefused(f"{host} stands for {address}, {reason}")
        return addresses

    def close(self) -> None:
        """Let the threads go; a lookup under way is not waited for."""
        self._pool.shutdown(wait=False, cancel_futures=True)


def guarded_sockets(allow: tuple[Network, ...] = ()) -> Callable[[Any], socket.socket]:
    """Makes the socket of an entry as ``getaddrinfo`` gives it: the last gate, for names and literals alike."""

    def make(info: Any) -> socket.socket:
        family, kind, protocol, _, target = info
        reason = refusal(ip_address(target[0]), allow)
        if reason is not None:
            raise AddressRefused(f"{target[0]} is {reason}")
        return socket.socket(family=family, type=kind, proto=protocol)

    return make


def _host_and_port(split: SplitResult, default_port: int) -> tuple[str, int]:
    if "@" in split.netloc:
        raise _not_allowed("the URL carries credentials before an @; the signature proves who sends")
    matched = _AUTHORITY.fullmatch(split.netloc)
    if matched is None:
        raise _not_allowed("the URL names no host, or host and port are not spelt plainly")
    host, port = matched[1].lower(), int(matched[2] or default_port)
    if not 1 <= port <= 65535:
        raise _not_allowed(f"the port {port} does not exist")
    if not host.startswith("["):
        return host, port
    literal = literal_of(host[1:-1])
    if not isinstance(literal, IPv6Address):
        raise _not_allowed("what stands in brackets is no IPv6 address")
    return str(literal), port


def _check_name(host: str) -> None:
    labels = host.split(".")
    if len(host) > 253 or not all(_LABEL.fullmatch(label) for label in labels):
        raise _not_allowed("the host is no plain name: labels of letters, digits and - between dots, no dot at the end")
    if _NUMBER.fullmatch(labels[-1]):
        raise _not_allowed(
            "the host is an address in an odd spelling; write four decimal numbers without leading zeros"
        )


async def _addresses(host: str, port: int, lookup: Lookup) -> tuple[Address, ...]:
    try:
        found = await asyncio.wait_for(asyncio.to_thread(lookup, host, port), LOOKUP_TIMEOUT_S)
        addresses = tuple(ip_address(text) for text in found)
    except TimeoutError as fault:
        raise _not_allowed(f"no answer to the question for the host {host} in {LOOKUP_TIMEOUT_S:g} s") from fault
    except (OSError, ValueError, UnicodeError) as fault:
        raise _not_allowed(f"the host {host} cannot be resolved") from fault
    if not addresses:
        raise _not_allowed(f"the host {host} has no address")
    return addresses


def _not_allowed(reason: str) -> InvalidRequest:
    return InvalidRequest(f"this URL may not be called: {reason}; {_REMEDY}", code="url_not_allowed", param="url")
