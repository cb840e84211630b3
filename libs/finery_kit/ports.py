"""Ports of loopback that nobody listens on now."""

from __future__ import annotations

import contextlib
import random
import socket

LOWEST, HIGHEST = 10_000, 30_000


def free_port() -> int:
    """A free port, below those that the system gives to outgoing connections meanwhile."""
    while True:
        port = random.randint(LOWEST, HIGHEST)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
