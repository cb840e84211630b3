"""A real `finery up`, started as a user starts it."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import psutil

from finery_kit.ports import free_port

FINERY = Path(sys.prefix) / "bin" / "finery"


@dataclass
class House:
    """A running installation."""

    process: subprocess.Popen[str]
    ready: dict[str, Any]
    ready_s: float
    home: Path

    @property
    def client(self) -> httpx.Client:
        """With the operator's key."""
        return httpx.Client(
            base_url=self.ready["url"], headers={"authorization": f"Bearer {self.ready['api_key']}"}, timeout=60
        )

    @property
    def memory_mb(self) -> float:
        """Resident memory of the process and its children, in MB of 10^6 bytes."""
        whole = psutil.Process(self.process.pid)
        return sum(p.memory_info().rss for p in [whole, *whole.children(recursive=True)]) / 1e6


@contextlib.contextmanager
def house(*extra: str) -> Iterator[House]:
    """Start on a fresh home, wait for its JSON line, end it by its own pid."""
    with tempfile.TemporaryDirectory(prefix="finery-bench-") as home:
        port = free_port()
        began = time.monotonic()
        command = [str(FINERY), "up", "--home", home, "--port", str(port), "--json", *extra]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            yield House(process, json.loads(line), time.monotonic() - began, Path(home))
        finally:
            process.terminate()
            process.wait(60)
            if process.stdout is not None:
                process.stdout.close()
