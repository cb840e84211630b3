"""Every way in which some parser takes a text for an internal address."""

from __future__ import annotations

from collections.abc import Iterator
from ipaddress import IPv4Address

PUBLIC = "93.184.216.34"
INTERNAL_V4 = (
    "0.0.0.0",
    "10.0.0.1",
    "10.255.255.254",
    "100.64.0.1",
    "100.100.100.200",
    "127.0.0.1",
    "127.0.0.53",
    "127.255.255.254",
    "168.63.129.16",
    "169.254.0.1",
    "169.254.169.254",
    "169.254.170.2",
    "172.16.0.1",
    "172.31.255.254",
    "192.0.0.192",
    "192.0.2.1",
    "192.88.99.1",
    "192.168.0.1",
    "192.168.255.254",
    "198.18.0.1",
    "198.51.100.7",
    "203.0.113.9",
    "224.0.0.1",
    "239.255.255.250",
    "240.0.0.1",
    "255.255.255.255",
)
SPELT = ("127.0.0.1", "169.254.169.254", "10.0.0.1", "192.168.1.1", "172.16.0.1", "0.0.0.0")
INTERNAL_V6 = (
    "::",
    "::1",
    "fc00::1",
    "fd00::1",
    "fd00:ec2::254",
    "fdff:ffff::1",
    "fe80::1",
    "fe80::a9fe:a9fe",
    "febf::1",
    "fec0::1",
    "ff01::1",
    "ff02::1",
    "ff05::2",
    "100::1",
    "2001::1",
    "2001:2::1",
    "2001:10::1",
    "2001:20::1",
    "2001:db8::1",
    "3fff::1",
    "4000::1",
    "5f00::1",
    "64:ff9b:1::1",
    "e000::1",
    "1::1",
    "::2",
)
FULL_WIDTH = str.maketrans("0123456789.", "０１２３４５６７８９．")
CIRCLED = str.maketrans("0123456789", "⓪①②③④⑤⑥⑦⑧⑨")
ARABIC = str.maketrans("0123456789", "٠١٢٣٤٥٦٧٨٩")
BOLD = str.maketrans("0123456789", "𝟎𝟏𝟐𝟑𝟒𝟓𝟔𝟕𝟖𝟗")
DOTS = ("。", "．", "｡", "%2e", "%2E", "․")


def odd_v4(text: str) -> Iterator[str]:
    """inet_aton's forms: octal, hexadecimal, fewer parts, zeros, one number, and numbers that wrap around."""
    address = IPv4Address(text)
    number, parts = int(address), [int(part) for part in text.split(".")]
    yield from (
        str(number),
        f"0x{number:x}",
        f"0X{number:08X}",
        f"0{number:o}",
        f"0x00000000{number:08x}",
        f"000{number:o}",
    )
    yield ".".join(f"0{part:o}" for part in parts)
    yield ".".join(f"0x{part:x}" for part in parts)
    yield ".".join(f"{part:03d}" for part in parts)
    yield ".".join(f"000{part:o}" for part in parts)
    yield ".".join([f"0x{parts[0]:x}", *map(str, parts[1:])])
    yield ".".join([f"0{parts[0]:o}", *map(str, parts[1:])])
    yield ".".join([*map(str, parts[:3]), f"0x{parts[3]:x}"])
    yield f"{parts[0]}.{number & 0xFFFFFF}"
    yield f"{parts[0]}.{parts[1]}.{number & 0xFFFF}"
    yield f"0x{parts[0]:x}.0{parts[1]:o}.{number & 0xFFFF}"
    yield f"{text}."
    yield str(number + (1 << 32))
    yield f"{parts[0] + 256}.{parts[1]}.{parts[2]}.{parts[3]}"


def inside_v6(text: str) -> Iterator[str]:
    """Mapped, compatible, translated, tunnelled."""
    number = int(IPv4Address(text))
    high, low = f"{number >> 16:x}", f"{number & 0xFFFF:x}"
    yield from (f"::ffff:{text}", f"::ffff:{high}:{low}", f"0:0:0:0:0:ffff:{high}:{low}", f"::FFFF:{text}")
    yield from (f"::{text}", f"::ffff:0:{text}", f"64:ff9b::{text}", f"64:ff9b::{high}:{low}", f"64:ff9b:1::{text}")
    yield from (f"2002:{high}:{low}::1", f"2001:0:{high}:{low}::1", f"2001::{0xFFFF - (number >> 16):x}:1")
    yield from (f"2606:4700::5efe:{text}", f"2606:4700::200:5efe:{text}", f"fe80::5efe:{text}")


def unicode_forms(text: str) -> Iterator[str]:
    """What NFKC or IDNA would turn into the address."""
    for table in (FULL_WIDTH, CIRCLED, ARABIC, BOLD):
        yield text.translate(table)
    for dot in DOTS:
        yield text.replace(".", dot)
