"""Files of this machine under an allowed root, copied so that nobody changes them while they are read.

It walks from the root down, one name at a time, and follows no link: what is checked is what is opened.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import PurePosixPath

from finery_contracts.errors import Forbidden, InvalidRequest
from finery_contracts.sources import FileSource, Origin
from finery_ml.sources.landing import Landing, gone, name_of

PIECE = 1 << 20
MAX_DEPTH = 32


def fetch(source: FileSource, origin: Origin, landing: Landing) -> None:
    """The file, or every file below the folder; links and what is no plain file are left out."""
    with opened(source.url, origin.limits.roots) as descriptor:
        if stat.S_ISREG(os.fstat(descriptor).st_mode):
            copy(descriptor, landing, name=name_of(PurePosixPath(source.url).name))
            return
        for relative, file in below(descriptor):
            copy(file, landing, name=name_of(relative))


@contextmanager
def opened(url: str, roots: Sequence[str]) -> Iterator[int]:
    """A descriptor of the file or folder.

    Raises:
        Forbidden: it lies under no root, or a link stands on the way.
        InvalidRequest: there is no such file.
    """
    path = PurePosixPath(url.removeprefix("file://"))
    root = next((PurePosixPath(root) for root in roots if path.is_relative_to(root)), None)
    if root is None or ".." in path.parts:
        raise Forbidden(f"{path} lies under no allowed root", code="path_not_allowed", param="source")
    descriptor = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        for part in path.relative_to(root).parts:
            following = _step(descriptor, part, path)
            os.close(descriptor)
            descriptor = following
        yield descriptor
    finally:
        os.close(descriptor)


def below(folder: int, *, prefix: str = "", depth: int = 0) -> Iterator[tuple[str, int]]:
    """Every plain file under an open folder, by name, each open while the caller has it; hidden ones are left out."""
    if depth > MAX_DEPTH:
        raise InvalidRequest(f"{prefix}: folders in folders, {MAX_DEPTH} deep; flatten them", code="too_deep")
    for name in sorted(os.listdir(folder)):
        if name.startswith("."):
            continue
        try:
            inner = _open(folder, name)
        except OSError:
            continue
        try:
            mode = os.fstat(inner).st_mode
            if stat.S_ISDIR(mode):
                yield from below(inner, prefix=f"{prefix}{name}/", depth=depth + 1)
            elif stat.S_ISREG(mode):
                yield f"{prefix}{name}", inner
        finally:
            os.close(inner)


def copy(file: int, landing: Landing, *, name: str) -> None:
    """One open file."""
    landing.expect(os.fstat(file).st_size)
    with landing.begin(name) as arrival:
        while piece := os.read(file, PIECE):
            arrival.write(piece)


def _step(folder: int, name: str, path: PurePosixPath) -> int:
    try:
        descriptor = _open(folder, name)
    except FileNotFoundError as fault:
        raise gone(str(path)) from fault
    except OSError as fault:
        raise Forbidden(
            f"{path} cannot be opened: {name} is a link, or this service may not read it ({fault.strerror})",
            code="path_not_allowed", param="source",
        ) from fault  # fmt: skip
    if stat.S_IFMT(os.fstat(descriptor).st_mode) not in (stat.S_IFREG, stat.S_IFDIR):
        os.close(descriptor)
        raise Forbidden(f"{path} is neither file nor folder", code="path_not_allowed", param="source")
    return descriptor


def _open(folder: int, name: str) -> int:
    # Without O_NONBLOCK a pipe would hold us up until somebody writes to it.
    return os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=folder)
