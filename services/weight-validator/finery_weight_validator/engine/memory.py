"""How much memory this machine can still give: asked before something large is loaded, never relied on."""

from __future__ import annotations

from pathlib import Path


def free_bytes() -> int | None:
    """What Linux says is available; None elsewhere."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")), None)
