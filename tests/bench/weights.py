"""What weight-validator's engine takes: the verdict on the headers of 50 GB, and reading every weight against hashing.

The engine runs in its own environment; `weight_files` is what is started there, and prints the values as JSON.
"""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

from finery_kit.executor import LocalExecutor

HEADER_GOAL_MS, FULL_GOAL = 5.0, 0.6
_LONGEST_S = 300


def header_ms() -> list[float]:
    """Milliseconds of each verdict on a folder whose one file of 50 GB is sound, sparse, and never read."""
    return _measured("headers")


def full_vs_sha256() -> list[float]:
    """Speed of dtype, NaN, infinity and sha256 in one pass, as a share of sha256 alone on the same file."""
    return _measured("full")


def _measured(what: str) -> list[float]:
    done = subprocess.run(
        [str(LocalExecutor().python("ml")), "-m", "tests.bench.weight_files", what],
        cwd=Path(__file__).parents[2], capture_output=True, text=True, timeout=_LONGEST_S, check=True,
    )  # fmt: skip
    return json.loads(done.stdout.splitlines()[-1])
