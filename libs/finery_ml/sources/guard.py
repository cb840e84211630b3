"""The one way out of an engine: a connection goes to an address that was judged a moment before, and to no other.

The judgement is the kit's, the same as for webhooks; a name is looked up once and what it stands for is connected to.
"""

from __future__ import annotations

import socket
from collections.abc import Sequence
from ipaddress import ip_address, ip_network

from finery_contracts.errors import InvalidRequest, Unavailable
from finery_contracts.sources import Limits
from finery_kit.netguard import refusal, system_lookup

CONNECT_S = 10.0


def addresses(host: str, port: int, limits: Limits) -> Sequence[str]:
    """What the host stands for; one internal address among them refuses all.

    Raises:
        InvalidRequest: ``address_not_allowed``.
        Unavailable: the name cannot be resolved.
    """
    allow = tuple(ip_network(text) for text in limits.allow_networks)
    try:
        found = list(system_lookup(host, port))
        judged = [(text, refusal(ip_address(text), allow)) for text in found]
    except (OSError, ValueError, UnicodeError) as fault:
        raise Unavailable(f"the host {host} cannot be resolved", code="source_unreachable") from fault
    if not judged:
        raise Unavailable(f"the host {host} has no address", code="source_unreachable")
    for text, reason in judged:
        if reason is not None:
            raise InvalidRequest(
                f"nothing was fetched: {host} stands for {text}, {reason}; the operator may allow internal networks "
                "with FINERY_SOURCES_ALLOW_NETWORKS",
                code="address_not_allowed", param="source",
            )  # fmt: skip
    return found


def connect(host: str, port: int, limits: Limits) -> socket.socket:
    """A connection to the first of them that answers; silence ends it.

    Raises:
        InvalidRequest, Unavailable: as ``addresses``, or none answers.
    """
    last: OSError | None = None
    for address in addresses(host, port, limits):
        try:
            opened = socket.create_connection((address, port), timeout=min(CONNECT_S, limits.stall_s))
        except OSError as fault:
            last = fault
            continue
        opened.settimeout(limits.stall_s)
        return opened
    raise Unavailable(
        f"cannot connect to {host}:{port}: {last.strerror if last else 'no address'}", code="source_unreachable"
    )
