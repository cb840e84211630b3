"""The home folder of an embedded installation: made private, with a secret of its own; locked while it is in use."""

from __future__ import annotations

import fcntl
import os
import secrets
from pathlib import Path
from typing import IO

from finery_contracts.errors import Conflict


def prepare_home(home: Path) -> Path:
    """Make the folder (0700) and the installation's secret, unless they are there."""
    home = home.resolve()
    home.mkdir(parents=True, exist_ok=True)
    home.chmod(0o700)
    if not (home / "secret").exists():
        write_private(home / "secret", secrets.token_hex(32))
    return home


def operator_key(home: Path) -> str:
    """The operator's key of the default project: made once, kept readable for the owner of the folder alone."""
    path = home / "api_key"
    if not path.exists():
        write_private(path, f"fk-{secrets.token_urlsafe(32)}")
    return path.read_text().strip()


def lock_home(home: Path) -> IO[str]:
    """Hold the folder as long as the returned file is open.

    Raises:
        Conflict: another Finery has it.
    """
    file = (home / "lock").open("w")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as fault:
        file.close()
        raise Conflict(
            f"another finery is running on {home}; stop it or take another --home", code="home_in_use"
        ) from fault
    file.write(str(os.getpid()))
    file.flush()
    return file


def write_private(path: Path, text: str) -> None:
    """Write a file that only its owner reads, by rename."""
    beside = path.with_name(f".{path.name}.part")
    descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(text)
    os.replace(beside, path)
