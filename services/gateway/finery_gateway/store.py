"""The usage journal: what was answered, on disk before the last byte of the answer goes out.

One gateway owns the folder, under a lock. Lines that wait at the same moment share one flush. A segment is never
changed once a later one was begun, and stays after it was shipped, with the batches it was shipped in: should the bus
lose them, the very same messages are said again. It refuses to hold prompts or answers: a line is a ``CallUsage``.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from pydantic import ValidationError
from ulid import ULID

from finery_contracts.errors import Unavailable
from finery_contracts.model import Record
from finery_contracts.usage import CallUsage

SUFFIX, CLAIMS = ".jsonl", ".claims"


class Claim(Record):
    """One batch: these bytes of this segment are being put on the bus, everything before them was.

    It is written down before they are sent, so that after a crash the same bytes make the same message again.
    """

    segment: str
    start: int
    end: int


@dataclass
class _Waiting:
    line: bytes
    written: asyncio.Future[None]


class Journal:
    """Segments in a folder, appended by the gateway, read and removed by the shipper."""

    def __init__(self, folder: Path, *, segment_bytes: int) -> None:
        self._folder, self._segment_bytes = folder, segment_bytes
        self._waiting: list[_Waiting] = []
        self._flush: asyncio.Task[None] | None = None
        self._lock: BinaryIO | None = None
        self._file: BinaryIO | None = None
        self.active = ""
        self.committed = 0

    def open(self) -> None:
        """Take the folder and begin a segment.

        Raises:
            Unavailable: another gateway has the folder.
        """
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        lock = (self._folder / "lock").open("ab")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as fault:
            lock.close()
            raise Unavailable(
                f"another gateway writes its usage journal in {self._folder}; give this one a home of its own",
                code="journal_taken",
            ) from fault
        self._lock = lock
        for path in self._folder.glob(f"*{CLAIMS}"):
            _cut_torn_end(path)
        self._begin_segment()

    async def close(self) -> None:
        """Write what waits, then let the folder go."""
        if self._flush is not None:
            await self._flush
        for file in (self._file, self._lock):
            if file is not None:
                file.close()
        self._file = self._lock = None

    def post(self, usage: CallUsage) -> asyncio.Future[None]:
        """Have a line written; the future is done once it is on disk, or holds ``Unavailable``.

        The line is written also when nobody waits for it.
        """
        written: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        written.add_done_callback(lambda future: future.cancelled() or future.exception())
        self._waiting.append(_Waiting(usage.model_dump_json().encode() + b"\n", written))
        if self._flush is None or self._flush.done():
            self._flush = asyncio.create_task(self._write_waiting(), name="gateway:journal")
        return written

    def segments(self) -> list[str]:
        """Names of all segments, oldest first."""
        return sorted(path.stem for path in self._folder.glob(f"*{SUFFIX}"))

    def read(self, segment: str, start: int, limit: int) -> bytes:
        """Whole lines from a place on, about ``limit`` bytes at most; nothing that is not on disk yet."""
        with self._path(segment).open("rb") as file:
            file.seek(start)
            room = self.committed - start if segment == self.active else limit
            data = file.read(max(0, min(limit, room)))
        return data[: data.rfind(b"\n") + 1]

    def idle_s(self, segment: str) -> float:
        """Seconds since the last line was written."""
        return time.time() - self._path(segment).stat().st_mtime

    def remove(self, segment: str) -> None:
        """It is needed no more; what is known of the very last batch stays, for it tells where shipping goes on."""
        self._path(segment).unlink(missing_ok=True)
        for name in set(self._claimed()[:-1]) - set(self.segments()):
            self._path(name, CLAIMS).unlink(missing_ok=True)

    def claims(self) -> Iterator[Claim]:
        """Every batch of the segments that are here, in the order in which they were shipped."""
        there = set(self.segments())
        return (claim for name in self._claimed() if name in there for claim in self._read_claims(name))

    def claim(self) -> Claim | None:
        """Where shipping stands; None before the first time."""
        for name in reversed(self._claimed()):
            if found := self._read_claims(name):
                return found[-1]
        with contextlib.suppress(OSError, ValidationError):  # where an older home kept its last batch
            return Claim.model_validate_json((self._folder / "cursor.json").read_bytes())
        return None

    def save_claim(self, claim: Claim) -> None:
        """On disk when it returns."""
        with self._path(claim.segment, CLAIMS).open("ab", buffering=0) as file:
            before = file.tell()
            try:
                file.write(claim.model_dump_json().encode() + b"\n")
                os.fsync(file.fileno())
            except OSError:
                os.ftruncate(file.fileno(), before)
                raise

    def stream_born(self) -> str | None:
        """The birth of the stream that all this was said to."""
        with contextlib.suppress(OSError):
            return (self._folder / "stream").read_text()
        return None

    def save_stream_born(self, born: str) -> None:
        """By rename, and on disk when it returns."""
        beside = self._folder / "stream.part"
        with beside.open("w") as file:
            file.write(born)
            file.flush()
            os.fsync(file.fileno())
        os.replace(beside, self._folder / "stream")

    async def _write_waiting(self) -> None:
        while self._waiting:
            group, self._waiting = self._waiting, []
            try:
                await asyncio.to_thread(self._append, b"".join(waiting.line for waiting in group))
            except OSError as fault:
                error = Unavailable(
                    f"usage cannot be written down, so nothing is answered: {fault.strerror}; free disk space",
                    code="usage_journal_failed",
                    retry_after_s=30,
                )
                for waiting in group:
                    _settle(waiting.written, error)
                continue
            for waiting in group:
                _settle(waiting.written, None)

    def _append(self, data: bytes) -> None:
        if self._file is None or self.committed >= self._segment_bytes:
            self._begin_segment()
        assert self._file is not None
        try:
            self._file.write(data)
            self._file.flush()
            os.fsync(self._file.fileno())
        except OSError:
            # Half a line may lie there: cut it off, and never append to this segment again.
            with contextlib.suppress(OSError):
                os.ftruncate(self._file.fileno(), self.committed)
            with contextlib.suppress(OSError):
                self._file.close()
            self._file = None
            raise
        self.committed += len(data)

    def _begin_segment(self) -> None:
        if self._file is not None:
            self._file.close()
        claim = self.claim()
        known = [*self.segments(), *([claim.segment] if claim else [])]
        number = max((int(name.split("-", 1)[0]) for name in known), default=0) + 1
        name = f"{number:08d}-{str(ULID()).lower()}"
        self._file = self._path(name).open("ab", buffering=0)
        self.active, self.committed = name, 0

    def _claimed(self) -> list[str]:
        """Names of the segments that were shipped at least in part, oldest first."""
        return sorted(path.stem for path in self._folder.glob(f"*{CLAIMS}"))

    def _read_claims(self, segment: str) -> list[Claim]:
        lines = self._path(segment, CLAIMS).read_bytes().split(b"\n")[:-1]
        return [Claim.model_validate_json(line) for line in lines]

    def _path(self, segment: str, suffix: str = SUFFIX) -> Path:
        return self._folder / f"{segment}{suffix}"


def _cut_torn_end(path: Path) -> None:
    """A batch whose line was not written whole was not sent."""
    data = path.read_bytes()
    if not data.endswith(b"\n"):
        os.truncate(path, data.rfind(b"\n") + 1)


def _settle(future: asyncio.Future[None], error: Exception | None) -> None:
    if future.done():
        return
    if error is None:
        future.set_result(None)
    else:
        future.set_exception(error)
