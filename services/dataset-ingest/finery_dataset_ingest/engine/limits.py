"""A ceiling on the memory that an ingest may take, as the last line behind all other limits: running into it is an
error with a code, not a machine that swaps.
"""

from __future__ import annotations

import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from finery_contracts.errors import TooLarge

MEMORY_BYTES = 2 * 2**30


@contextmanager
def limited_memory(name: str) -> Iterator[None]:
    """Let the process take up to 2 GiB more than it has; raises TooLarge ``memory_limit`` where more was wanted."""
    soft, hard = resource.getrlimit(resource.RLIMIT_DATA)
    wanted = _data_bytes() + MEMORY_BYTES
    if soft == resource.RLIM_INFINITY or wanted < soft:
        ceiling = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_DATA, (ceiling, hard))
    try:
        yield
    except MemoryError as fault:
        raise TooLarge(
            f"{name} needs more than {MEMORY_BYTES} bytes of memory to be read; split its records.",
            code="memory_limit",
            param=name,
        ) from fault
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, (soft, hard))


def _data_bytes() -> int:
    """What the kernel counts against the limit now."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmData:"):
            return int(line.split()[1]) * 1024
    return 0
