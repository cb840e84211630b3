"""Connections to endpoints of strangers: guarded where they are made, kept for a while, and judged anew for each use.

What a name stands for is looked up for every exchange. A connection that was kept to another address is not used. No
proxy, no cookies, no redirects: there is no code for them. It refuses to connect to an address that was not checked.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
import time
from collections.abc import Sequence
from ipaddress import ip_address
from typing import NamedTuple

import aiohappyeyeballs

from finery_kit.netguard import (
    Address,
    GuardedLookup,
    Lookup,
    Network,
    Target,
    guarded_sockets,
    system_lookup,
)
from finery_notifier.wire import BUFFER_BYTES, Answer, Broken, Wire

IDLE_S = 15.0
MOST_IDLE = 1024
SECOND_ADDRESS_S = 0.25
"""RFC 8305: an address that is silent for so long gets company."""


class _Idle(NamedTuple):
    wire: Wire
    address: Address
    since: float


class Connections:
    """Made in the running event loop. ``allow``: internal networks that may be reached."""

    def __init__(self, allow: tuple[Network, ...], *, lookup: Lookup = system_lookup) -> None:
        self._guard = GuardedLookup(allow, lookup=lookup)
        self._socket = guarded_sockets(allow)
        self._tls = ssl.create_default_context()  # the system's authorities, or SSL_CERT_FILE
        self._tls.set_alpn_protocols(["http/1.1"])
        self._buffer = memoryview(bytearray(BUFFER_BYTES))
        self._idle = dict[str, list[_Idle]]()
        self._idle_count = 0
        self._sweeping: asyncio.TimerHandle | None = None
        self._closed = False

    async def exchange(self, target: Target, request: bytes) -> Answer:
        """Send a request to where the target is now.

        Raises:
            AddressRefused: it stands for an internal address now.
            OSError: it cannot be reached.
            Broken: it could, and gave no whole answer.
        """
        literal = target.literal
        addresses = (literal,) if literal else await self._guard.addresses(target.host, target.port)
        idle = self._taken(target.origin, addresses)
        if idle is not None:
            try:
                return await self._through(idle.wire, idle.address, target, request)
            except Broken as fault:
                # It closed an idle connection at the moment we used it: that is no failure of the endpoint.
                if not fault.unanswered:
                    raise
        wire, address = await self._connected(target, addresses)
        return await self._through(wire, address, target, request)

    async def close(self) -> None:
        """Close what is kept; when this returns the sockets are gone. From now on nothing is kept."""
        self._closed = True
        for line in self._idle.values():
            for idle in line:
                idle.wire.close()
        self._idle.clear()
        if self._sweeping is not None:
            self._sweeping.cancel()
        self._guard.close()
        await asyncio.sleep(0)  # asyncio closes them in its next turn

    async def _through(self, wire: Wire, address: Address, target: Target, request: bytes) -> Answer:
        answer = await wire.exchange(request)
        if wire.usable:
            self._keep(target.origin, _Idle(wire, address, time.monotonic()))
        return answer

    async def _connected(self, target: Target, addresses: Sequence[Address]) -> tuple[Wire, Address]:
        loop = asyncio.get_running_loop()
        made = await aiohappyeyeballs.start_connection(
            [_entry(address, target.port) for address in addresses],
            happy_eyeballs_delay=SECOND_ADDRESS_S, interleave=1, loop=loop, socket_factory=self._socket,
        )  # fmt: skip
        try:
            address = ip_address(made.getpeername()[0])
            secure = target.scheme == "https"
            _, wire = await loop.create_connection(
                lambda: Wire(self._buffer), sock=made,
                ssl=self._tls if secure else None, server_hostname=target.host if secure else None,
            )  # fmt: skip
        except BaseException:
            made.close()
            raise
        return wire, address

    def _taken(self, origin: str, addresses: Sequence[Address]) -> _Idle | None:
        """A kept connection to one of these addresses, the one that was used last; those to others are closed."""
        line, since = self._idle.get(origin), time.monotonic() - IDLE_S
        while line:
            idle = line.pop()
            self._idle_count -= 1
            if idle.wire.usable and idle.address in addresses and idle.since >= since:
                return idle
            idle.wire.close()
        return None

    def _keep(self, origin: str, idle: _Idle) -> None:
        if self._closed or self._idle_count >= MOST_IDLE:
            idle.wire.close()
            return
        self._idle.setdefault(origin, []).append(idle)
        self._idle_count += 1
        if self._sweeping is None:
            self._sweeping = asyncio.get_running_loop().call_later(IDLE_S, self._sweep)

    def _sweep(self) -> None:
        """Close what nobody used, as long as there is any."""
        since, kept = time.monotonic() - IDLE_S, dict[str, list[_Idle]]()
        for origin, line in self._idle.items():
            for idle in line:
                if idle.wire.usable and idle.since >= since:
                    kept.setdefault(origin, []).append(idle)
                else:
                    idle.wire.close()
        self._idle, self._idle_count = kept, sum(map(len, kept.values()))
        self._sweeping = asyncio.get_running_loop().call_later(IDLE_S, self._sweep) if kept else None


def _entry(address: Address, port: int) -> tuple[int, int, int, str, tuple[str, int]]:
    """As ``getaddrinfo`` would say it."""
    family = socket.AF_INET if address.version == 4 else socket.AF_INET6
    return family, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", (str(address), port)
