"""An installation for a recipe: ``finery up`` as a child process on a free port, ended by its own pid."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import time
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from finery_contracts.errors import Unavailable
from finery_kit.ports import free_port

STOP_S = 60


@dataclass(frozen=True)
class Installation:
    """What ``finery up --json`` said."""

    url: str
    api_key: str
    home: Path


@contextlib.contextmanager
def installation(home: Path, console: Console) -> Generator[Installation]:
    """Start, yield, end.

    Raises:
        Unavailable: it did not get ready; its own words on standard error say why.
    """
    command = [
        sys.executable, "-m", "finery.cli.app", "up", "--home", str(home), "--port", str(free_port()), "--json",
        "--allow-webhook-network", "127.0.0.0/8",
    ]  # fmt: skip
    began = time.monotonic()
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        if not line.strip():
            raise Unavailable(
                f"finery up left with status {process.wait(STOP_S)}; see above, and {home}/finery.log",
                code="did_not_start",
            )
        said = json.loads(line)
        console.print(f"finery up: ready in {time.monotonic() - began:.1f} s at {said['url']}, state in {home}")
        yield Installation(said["url"], said["api_key"], home)
    finally:
        process.terminate()
        try:
            process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(STOP_S)
        if process.stdout is not None:
            process.stdout.close()
