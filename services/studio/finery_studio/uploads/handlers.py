"""Taking uploads in: every byte that an offset speaks of is safely on disk, whoever dies at whatever moment.

A piece is appended behind what is known to be safe, flushed to disk, and only then counted. One writer at a time, by a
lock of the file that the system gives back when its holder dies. It refuses to fill the disk.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import AsyncIterator, Callable, Generator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import BinaryIO

from starlette.requests import ClientDisconnect

from finery_contracts.access import Actor
from finery_contracts.errors import Conflict, Locked, StorageFull, TooLarge
from finery_contracts.ids import new_id
from finery_contracts.uploads import UploadView
from finery_kit.db import Database, Transaction
from finery_kit.storage import CHUNK, Storage
from finery_studio.pools.store import LOCK_PROJECT, one_at_a_time
from finery_studio.removal.store import let_go
from finery_studio.uploads import protocol, store
from finery_studio.uploads.protocol import Checksum

SAVED_EVERY = 64 * 2**20
SILENCE_S = 60.0
FULL = (errno.ENOSPC, errno.EDQUOT)
REMEDY = "an operator must free some space on the store's disk; what has come so far is kept until the upload expires"


@dataclass(frozen=True)
class UploadDesk:
    """What taking uploads in needs. ``ready``: makes a dataset of one that asked for it when it began."""

    database: Database
    storage: Storage
    max_bytes: int
    quota_bytes: int
    reserve_bytes: int
    days: int
    ready: Callable[[Transaction, store.UploadRow], None]

    def create(self, tx: Transaction, size: int, metadata: dict[str, str], *, actor: Actor) -> UploadView:
        """Room for so many bytes.

        Raises:
            TooLarge: the project's quota is used up.
            StorageFull: the disk is.
        """
        one_at_a_time(tx.session, LOCK_PROJECT, of=actor.project)
        held = store.held_bytes(tx.session, actor.project)
        if held + size > self.quota_bytes:
            raise TooLarge(
                f"the project's uploads may hold {self.quota_bytes:,} bytes until datasets are made of them, and "
                f"{held:,} are taken; finish or delete some: DELETE {store.PATH}/{{id}}",
                code="upload_quota_exceeded",
            )
        self._check_room(store.missing_bytes(tx.session) + size)
        row = store.UploadRow(
            id=new_id("upl"), project=actor.project, filename=protocol.filename_of(metadata), size_bytes=size,
            said=json.dumps(metadata), created_by=actor.user, actor=actor.model_dump_json(), created_at=tx.now,
            expires_at=tx.now + timedelta(days=self.days),
        )  # fmt: skip
        tx.session.add(row)
        tx.session.flush()
        return store.view_of(row)

    async def receive(
        self, project: str, upload_id: str, pieces: AsyncIterator[bytes], *, offset: int, checksum: Checksum | None
    ) -> UploadView:
        """Append what comes; whatever ends it, what came is kept, unless its checksum is wrong or did not come.

        Raises:
            Locked: somebody else is sending to the same upload.
            Conflict: the piece belongs somewhere else.
            StorageFull, TooLarge, ChecksumMismatch.
        """
        row = await self._expecting(project, upload_id, offset)
        if row.sha256 is None:
            with locked(self.storage.incoming(project, upload_id)) as file:
                row = await self._expecting(project, upload_id, offset)
                try:
                    await _Writer(self, row, file, checksum).take(pieces)
                except OSError as fault:
                    if fault.errno in FULL:
                        raise StorageFull(f"the disk is full: {REMEDY}") from fault
                    raise
        return await self.finish(project, upload_id)

    async def finish(self, project: str, upload_id: str) -> UploadView:
        """When all has come: put it into the store under its hash. Safe to repeat."""
        row = await self.database.read(lambda session: store.load(session, project, upload_id))
        if row.sha256 is not None or row.received_bytes < row.size_bytes:
            return store.view_of(row)
        path = self.storage.incoming(project, upload_id)
        digest = await asyncio.to_thread(_sha256, path)
        await asyncio.to_thread(self.storage.adopt, path, project, digest)

        def settle(tx: Transaction) -> UploadView:
            store.settle(tx, upload_id, digest)
            found = store.held_row(tx, project, upload_id)
            self.ready(tx, found)
            return store.view_of(found)

        view = await self.database.write(settle)
        path.unlink(missing_ok=True)
        return view

    async def drop(self, project: str, upload_id: str) -> None:
        """It and its bytes go; what a dataset was made of stays the dataset's."""
        await self.database.read(lambda session: store.load(session, project, upload_id))
        path = self.storage.incoming(project, upload_id)
        with locked(path):
            await self._forget(project, upload_id)
            path.unlink(missing_ok=True)

    async def tidy(self) -> None:
        """Finish what nobody had the time to finish; forget what expired."""
        for row in await self.database.read(store.unsettled):
            await self.finish(row.project, row.id)
        for row in await self.database.read(lambda session: store.over(session, self.database.now())):
            with contextlib.suppress(Locked):
                await self.drop(row.project, row.id)

    async def _expecting(self, project: str, upload_id: str, offset: int) -> store.UploadRow:
        """The upload, if its next byte is the one at ``offset``."""
        row = await self.database.read(lambda session: store.load(session, project, upload_id))
        if offset != row.received_bytes:
            raise Conflict(
                f"{row.received_bytes:,} bytes are here, the piece begins at {offset:,}; ask with HEAD, go on there",
                code="offset_mismatch", param="Upload-Offset", details=[{"offset": row.received_bytes}],
            )  # fmt: skip
        return row

    async def _forget(self, project: str, upload_id: str) -> None:
        def forget(tx: Transaction) -> None:
            row = store.held_row(tx, project, upload_id)
            let_go(tx, project, [store.blob_of(row).url if row.sha256 is not None and row.dataset is None else None])
            tx.session.delete(row)

        await self.database.write(forget)

    def _check_room(self, wanted: int) -> None:
        free = shutil.disk_usage(self.storage.root).free - self.reserve_bytes
        if wanted > free:
            raise StorageFull(f"{wanted:,} bytes are awaited and {max(free, 0):,} are free: {REMEDY}")


class _Writer:
    """One piece on its way to the disk."""

    def __init__(self, desk: UploadDesk, row: store.UploadRow, file: BinaryIO, checksum: Checksum | None) -> None:
        self._desk, self._row, self._file, self._checksum = desk, row, file, checksum
        self._safe, self._at = row.received_bytes, row.received_bytes

    async def take(self, pieces: AsyncIterator[bytes]) -> None:
        """Everything that comes."""
        await asyncio.to_thread(self._back_to_safe)
        try:
            await self._write_all(pieces)
            if self._checksum is not None:
                self._checksum.check()
        except (ClientDisconnect, TimeoutError):
            # What came without a checksum counts; a piece whose end, and so whose checksum, is missing does not.
            if self._checksum is None:
                await self._save()
            raise
        except BaseException:
            with contextlib.suppress(OSError):
                self._back_to_safe()
            raise
        await self._save()

    async def _write_all(self, pieces: AsyncIterator[bytes]) -> None:
        waiting = bytearray()
        try:
            async for piece in _awaited(pieces):
                if self._at + len(waiting) + len(piece) > self._row.size_bytes:
                    raise TooLarge(f"the upload was announced with {self._row.size_bytes:,} bytes, and more came")
                if self._checksum is not None:
                    self._checksum.update(piece)
                waiting += piece
                if len(waiting) >= CHUNK:
                    await self._write(waiting)
                if self._checksum is None and self._at - self._safe >= SAVED_EVERY:
                    await self._save()
        finally:
            await self._write(waiting)

    async def _write(self, waiting: bytearray) -> None:
        taken = bytes(waiting)
        waiting.clear()
        await asyncio.to_thread(self._append, taken)
        self._at += len(taken)

    def _append(self, taken: bytes) -> None:
        rest = memoryview(taken)
        while rest:
            rest = rest[self._file.write(rest) :]

    async def _save(self) -> None:
        """To the disk first, then into the database."""
        if self._at == self._safe:
            return
        await asyncio.to_thread(self._flush)
        upload, was, now = self._row.id, self._safe, self._at
        days = timedelta(days=self._desk.days)
        moved = await self._desk.database.write(
            lambda tx: store.advance(tx, upload, was=was, now=now, expires_at=tx.now + days)
        )
        if not moved:
            raise Conflict(f"upload {upload} was changed by somebody else; ask with HEAD", code="offset_mismatch")
        self._safe = now

    def _flush(self) -> None:
        self._file.flush()
        os.fsync(self._file.fileno())

    def _back_to_safe(self) -> None:
        self._file.truncate(self._safe)
        self._file.seek(self._safe)
        self._at = self._safe


@contextlib.contextmanager
def locked(path: Path) -> Generator[BinaryIO]:
    """The upload's file, for one writer.

    Raises:
        Locked: somebody else has it.
    """
    with os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT, 0o600), "r+b", buffering=0) as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as fault:
            raise Locked("somebody is sending to this upload already; try again when they are done") from fault
        yield file


async def _awaited(pieces: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """The pieces, as long as they come.

    Raises:
        TimeoutError: none came for ``SILENCE_S``.
    """
    coming = aiter(pieces)
    while True:
        try:
            async with asyncio.timeout(SILENCE_S):
                piece = await anext(coming)
        except StopAsyncIteration:
            return
        yield piece


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
