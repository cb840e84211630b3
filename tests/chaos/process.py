"""What becomes of a child process of the house: one service as ``finery run`` starts it, with quick engines."""

from __future__ import annotations

import importlib
import os
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

WRAPPER = """#!/bin/sh
export PYTHONPATH={path}
exec {python} "$@"
"""


def make_engines(folder: Path) -> None:
    """An engine environment that is the tests' own interpreter: fork server, life line and all are the real ones."""
    python = folder / "ml" / "bin" / "python"
    python.parent.mkdir(parents=True)
    (folder / "ml" / "lib" / "python3" / "site-packages").mkdir(parents=True)
    python.write_text(WRAPPER.format(path=":".join(filter(None, sys.path)), python=sys.executable))
    python.chmod(0o755)


def serve(service: str, environment: dict[str, str], log: Path, engines: Path) -> None:
    """Until it is killed or told to stop."""
    os.setsid()
    with log.open("ab") as out:
        os.dup2(out.fileno(), 1)
        os.dup2(out.fileno(), 2)
    os.environ.update(environment)
    from finery.cli import house
    from finery_kit.executor import LocalExecutor

    app: Any = importlib.import_module(f"finery_{service.replace('-', '_')}.app")
    offered = getattr(app, "ENGINES", {})
    for kind, found in offered.items():
        offered[kind] = replace(found, module="tests.chaos.engine")
    if offered:
        app.LocalExecutor = partial(LocalExecutor, engines)
    house.run_service(service)


__all__ = ["make_engines", "serve"]
