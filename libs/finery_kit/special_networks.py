"""Which addresses are nobody's business from outside: one table, and the question whether an address is in it. Pure.

It judges IPv4 inside IPv6 as what it is.
"""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_network

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network

# IANA's special-purpose registries (RFC 6890 and later), and the metadata services of clouds that lie elsewhere.
_REFUSED: tuple[tuple[Network, str], ...] = tuple(
    (ip_network(text), reason)
    for text, reason in (
        ("0.0.0.0/32", "an unspecified address"),
        ("0.0.0.0/8", "an address of this very network"),
        ("10.0.0.0/8", "a private address"),
        ("100.64.0.0/10", "a carrier's shared address"),
        ("127.0.0.0/8", "a loopback address"),
        ("168.63.129.16/32", "a cloud's metadata service"),
        ("169.254.169.254/32", "a cloud's metadata service"),
        ("169.254.0.0/16", "a link-local address"),
        ("172.16.0.0/12", "a private address"),
        ("192.0.0.0/24", "a reserved address"),
        ("192.0.2.0/24", "a documentation address"),
        ("192.88.99.0/24", "a 6to4 relay address"),
        ("192.168.0.0/16", "a private address"),
        ("198.18.0.0/15", "a benchmarking address"),
        ("198.51.100.0/24", "a documentation address"),
        ("203.0.113.0/24", "a documentation address"),
        ("224.0.0.0/4", "a multicast address"),
        ("240.0.0.0/4", "a reserved address"),
        ("::/128", "an unspecified address"),
        ("::1/128", "a loopback address"),
        ("fc00::/7", "a private address"),
        ("fe80::/10", "a link-local address"),
        ("fec0::/10", "a site-local address"),
        ("ff00::/8", "a multicast address"),
        ("2001::/23", "a reserved or Teredo address"),
        ("2001:db8::/32", "a documentation address"),
        ("2002::/16", "a 6to4 address"),
        ("3fff::/20", "a documentation address"),
    )
)
_GLOBAL_V6 = IPv6Network("2000::/3")
_NAT64 = IPv6Network("64:ff9b::/96")


def refusal(address: Address, allow: tuple[Network, ...] = ()) -> str | None:
    """Why nothing may connect to this address, or None when it may. IPv4 inside IPv6 is judged as what it is."""
    if isinstance(address, IPv6Address):
        inner = _embedded(address)
        if inner is not None:
            return refusal(inner, allow)
        tunnelled = _isatap(address)
        if tunnelled is not None and (reason := refusal(tunnelled, allow)) is not None:
            return f"{reason} behind ISATAP"
    if any(address in network for network in allow):
        return None
    for network, reason in _REFUSED:
        if address in network:
            return reason
    if isinstance(address, IPv6Address) and (address not in _GLOBAL_V6 or address.scope_id is not None):
        return "a reserved address"
    return None


def _embedded(address: IPv6Address) -> IPv4Address | None:
    """The IPv4 address that a packet to this one ends up at (RFC 4291 2.5.5.2, RFC 6052 2.1)."""
    if address.ipv4_mapped is not None:
        return address.ipv4_mapped
    return IPv4Address(int(address) & 0xFFFFFFFF) if address in _NAT64 else None


def _isatap(address: IPv6Address) -> IPv4Address | None:
    """The IPv4 address that an interface id of RFC 5214 6.1 carries, under whatever prefix."""
    low = int(address) & 0xFFFFFFFFFFFFFFFF
    return IPv4Address(low & 0xFFFFFFFF) if low >> 32 in (0x00005EFE, 0x02005EFE) else None
