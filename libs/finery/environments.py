"""Engine environments: a virtual environment for each engine family, beside the control plane's own.

``.engines/<name>`` is a neighbour of ``.venv``, outside any home, so that all homes share it. A marker holds the hash
of what was installed: what is done already is done at once, and a half-made environment is made anew.
"""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
import time
import venv
from collections.abc import Callable
from importlib.metadata import Distribution, distribution, version
from importlib.resources import files
from pathlib import Path

from finery_contracts.errors import NotFound, Unavailable
from finery_kit.executor import LocalExecutor, environments_folder

TORCH_FIRST = "torch=="
ROOT = Path(__file__).resolve().parents[2]


def install(name: str, *, force: bool = False, tell: Callable[[str], None] = print) -> Path:
    """Make the environment ``name``, or find it made.

    Raises:
        NotFound: there is no lock of that name.
        Unavailable: the package installer failed; its last words are in the message.
    """
    lock = _lock(name)
    folder = environments_folder() / name
    marker = folder / ".installed"
    wanted = _fingerprint(lock)
    if not force and marker.exists() and marker.read_text() == wanted:
        tell(f"engine environment {name}: already there ({folder})")
        return folder
    began = time.monotonic()
    if force or not (folder / "bin" / "python").exists():
        shutil.rmtree(folder, ignore_errors=True)
        tell(f"engine environment {name}: making {folder}")
        venv.create(folder, with_pip=True)
    marker.unlink(missing_ok=True)
    for what, arguments in _steps(lock):
        tell(f"engine environment {name}: installing {what} … [{time.monotonic() - began:.0f} s]")
        _pip(folder, arguments)
    _install_finery(folder)
    marker.write_text(wanted)
    tell(f"engine environment {name}: ready in {time.monotonic() - began:.0f} s")
    return folder


def _steps(lock: Path) -> list[tuple[str, list[str]]]:
    """torch alone and first: a range that another package asks for would bring a build for accelerators instead."""
    torch = [line for line in lock.read_text().splitlines() if line.startswith(TORCH_FIRST)]
    steps = [(line, [line]) for line in torch]
    return [*steps, (f"what {lock.name} pins", ["-r", str(lock)])]


def _install_finery(folder: Path) -> None:
    """This very source, never one that an index has under our name: the checkout, or a copy of what is installed."""
    if _is_checkout():
        _pip(folder, ["--no-deps", "-e", str(ROOT)])
        return
    copy_distribution(distribution("finery"), LocalExecutor(folder.parent).site_packages(folder.name))


def copy_distribution(source: Distribution, target: Path) -> None:
    """Copy an installed distribution's packages into another environment's site-packages; programs are left out."""
    root = Path(str(source.locate_file(""))).resolve()
    for file in source.files or []:
        path = Path(str(file.locate())).resolve()
        if path.is_relative_to(root) and path.is_file() and "__pycache__" not in path.parts:
            place = target / path.relative_to(root)
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(path, place)


def _is_checkout() -> bool:
    return (ROOT / "pyproject.toml").exists()


def _pip(folder: Path, arguments: list[str]) -> None:
    command = [str(folder / "bin" / "python"), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    done = subprocess.run([*command, *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        last = "\n".join(done.stderr.strip().splitlines()[-8:])
        raise Unavailable(
            f"pip could not install {' '.join(arguments)} into {folder}: {last}", code="engine_install_failed"
        )


def _lock(name: str) -> Path:
    folder = Path(str(files("finery_kit.locks")))
    known = sorted(path.stem for path in folder.glob("*.txt") if path.stem != "control")
    if name not in known:
        raise NotFound(f"there is no engine environment {name!r}; there are {', '.join(known)}", code="engine_unknown")
    return folder / f"{name}.txt"


def _fingerprint(lock: Path) -> str:
    source = ROOT if _is_checkout() else version("finery")
    said = f"{sys.version_info[:3]} {source} ".encode() + lock.read_bytes()
    return hashlib.sha256(said).hexdigest()
