"""Where fetched bytes land: files in the job folder, counted, hashed, and cut off at the limits.

It refuses to fill the disk: what may come is bounded, and some room is always left to others.
"""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

from finery_contracts.errors import FineryError, Forbidden, InvalidRequest, StorageFull, TooLarge, Unavailable
from finery_contracts.jobs import Phase
from finery_contracts.sources import FetchedBytes, Limits, Origin
from finery_ml.job import JobFolder, Terminated

RESERVE_BYTES = 512 * 2**20
REPORT_EVERY = 8 * 2**20
FULL = (errno.ENOSPC, errno.EDQUOT)


@dataclass(frozen=True)
class Landed:
    """One file that came: ``name`` is what people know it by."""

    path: Path
    name: str
    size_bytes: int
    sha256: str


@dataclass
class Landing:
    """The folder that files are fetched into, and how much has come."""

    work: JobFolder
    limits: Limits
    expected_bytes: int = 0
    skipped: int = 0
    landed: list[Landed] = field(default_factory=list[Landed])
    _come: int = 0
    _told: int = 0

    @property
    def folder(self) -> Path:
        """Beside ``out/``, so that nothing of it is kept."""
        folder = self.work.folder / "fetched"
        folder.mkdir(exist_ok=True)
        return folder

    def begin(self, name: str) -> Arrival:
        """A file begins to come.

        Raises:
            TooLarge: there are too many.
        """
        self.check_files(len(self.landed) + 1)
        return Arrival(self, self.folder / f"{len(self.landed):06}", name)

    def expect(self, size_bytes: int) -> None:
        """So much more was announced.

        Raises:
            TooLarge, StorageFull: before any of it comes.
        """
        self.check(self._come + size_bytes)
        if shutil.disk_usage(self.folder).free < size_bytes + RESERVE_BYTES:
            raise _full()
        self.expected_bytes = max(self.expected_bytes, self._come + size_bytes)

    def check(self, size_bytes: int) -> None:
        """Raises TooLarge when so much in all is more than may come."""
        if size_bytes > self.limits.max_bytes:
            raise TooLarge(
                f"the source has more than the {self.limits.max_bytes:,} bytes that may be fetched; split it",
                code="source_too_large",
            )

    def check_files(self, files: int) -> None:
        """Raises TooLarge when so many are more than may come."""
        if files > self.limits.max_files:
            raise TooLarge(
                f"the source has more than {self.limits.max_files:,} files; name a narrower folder, prefix or pattern",
                code="too_many_files",
            )

    def count(self, size_bytes: int) -> None:
        """So much has come (negative: is thrown away again). Looks at limits, disk and the wish to stop."""
        self._come += size_bytes
        self.check(self._come)
        if self.work.stop_requested.is_set():
            raise Terminated
        if self._come - self._told >= REPORT_EVERY or self._come < self._told:
            self._told = self._come
            if shutil.disk_usage(self.work.folder).free < RESERVE_BYTES:
                raise _full()
            self.tell()

    def tell(self) -> None:
        """Progress in bytes; fetching is preparation, so it is not billed as running."""
        self.work.progress(
            phase=Phase.PREPARING, step=self._come, total=max(self.expected_bytes, self._come), message="fetching",
            metrics={"fetched_bytes": self._come, "fetched_files": len(self.landed)},
        )  # fmt: skip

    def summary(self) -> FetchedBytes:
        """What came in all: one file's own hash, or that of the names and hashes of many.

        Raises:
            InvalidRequest: nothing came.
        """
        if not self.landed or not self._come:
            raise InvalidRequest("the source holds no bytes; there is nothing to read", code="source_empty")
        ordered = self.in_order()
        if len(ordered) == 1:
            digest = ordered[0].sha256
        else:
            listed = "".join(f"{one.sha256}  {one.name}\n" for one in ordered)
            digest = hashlib.sha256(listed.encode("utf-8", "surrogateescape")).hexdigest()
        size = sum(one.size_bytes for one in ordered)
        return FetchedBytes(files=len(ordered), size_bytes=size, sha256=digest, skipped=self.skipped)

    def in_order(self) -> list[Landed]:
        """By name."""
        return sorted(self.landed, key=lambda one: one.name)


class Arrival:
    """One file on its way in; used as a context, at whose end it has landed."""

    def __init__(self, landing: Landing, path: Path, name: str) -> None:
        self._landing, self._path, self._name = landing, path, name
        self._digest, self.size_bytes = hashlib.sha256(), 0

    def __enter__(self) -> Arrival:
        self._file = self._path.open("wb")
        return self

    def write(self, piece: bytes) -> None:
        """Some more of it.

        Raises:
            TooLarge, StorageFull, Terminated.
        """
        try:
            self._file.write(piece)
        except OSError as fault:
            if fault.errno in FULL:
                raise _full() from fault
            raise
        self._digest.update(piece)
        self.size_bytes += len(piece)
        self._landing.count(len(piece))

    def again(self) -> None:
        """It comes once more, from its beginning."""
        self._file.seek(0)
        self._file.truncate()
        self._landing.count(-self.size_bytes)
        self._digest, self.size_bytes = hashlib.sha256(), 0

    def __exit__(self, kind: type[BaseException] | None, fault: BaseException | None, trace: object) -> None:
        self._file.close()
        if fault is None:
            digest = self._digest.hexdigest()
            self._landing.landed.append(Landed(self._path, self._name, self.size_bytes, digest))


def bring(
    work: JobFolder, origin: Origin, fetch: Callable[[Any, Origin, Landing], None]
) -> tuple[Landing, FetchedBytes]:
    """All of an origin, by what fetches its kind, under one limit of time; what an earlier try left is thrown away.

    Raises:
        Forbidden: a grant or a connection has gone since the task was submitted.
        FineryError: it cannot be fetched.
    """
    if origin.denied is not None or origin.secret is None:
        raise Forbidden(origin.denied or "nothing opens this source", code="source_denied", param="source")
    shutil.rmtree(work.folder / "fetched", ignore_errors=True)
    landing = Landing(work, origin.limits)
    with work.span("fetch", kind=origin.source.kind) as facts, within(origin.limits.timeout_s, too_slow(origin.limits)):
        fetch(origin.source, origin, landing)
        summary = landing.summary()
        facts.update(files=summary.files, bytes=summary.size_bytes)
    landing.tell()
    return landing, summary


@contextmanager
def within(seconds: float, late: FineryError) -> Iterator[None]:
    """``late`` is raised when the block takes longer, wherever it stands: also inside a regular expression.

    In the main thread only. A limit that was running before goes on afterwards.
    """

    def ring(_number: int, _frame: FrameType | None) -> None:
        raise late

    began, before = time.monotonic(), signal.signal(signal.SIGALRM, ring)
    rest, interval = signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
        if rest:
            signal.setitimer(signal.ITIMER_REAL, max(rest - (time.monotonic() - began), 0.001), interval)


def name_of(relative: str) -> str:
    """A file's name as it is told: without what no terminal should see."""
    plain = "".join(sign if sign.isprintable() else "\ufffd" for sign in relative)
    return os.fsencode(plain).decode("utf-8", "replace")[:512]


def too_slow(limits: Limits) -> Unavailable:
    """The whole fetch took too long."""
    return Unavailable(
        f"the source was not fetched within {limits.timeout_s:g} s; fetch less at a time, or ask the operator for more",
        code="source_too_slow",
    )


def gone(what: str) -> InvalidRequest:
    """The place is known, and nothing is there."""
    return InvalidRequest(f"{what}: there is nothing", code="source_not_found", param="source")


def _full() -> StorageFull:
    return StorageFull(
        "the worker's disk has no room for the source; an operator must free some, then submit the task again",
        code="storage_full",
    )
