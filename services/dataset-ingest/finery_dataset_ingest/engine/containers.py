"""What an upload holds: one file as it is, one inside .gz or .zst, or the files of a .zip. Nothing is ever unpacked to
disk under a name of its own, so names cannot escape; archives inside archives, and other archives, are refused.
"""

from __future__ import annotations

import os
import struct
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from finery_contracts.errors import DataInvalid, TooLarge
from finery_dataset_ingest.engine.streams import (
    CHUNK_BYTES,
    FREE_BYTES,
    RATIO,
    as_file,
    check_ratio,
    damaged,
    gunzipped,
    limited,
    pieces_of,
    unzstd,
)

MAX_ENTRIES = 10_000
MAX_DIRECTORY_BYTES = 8 * 2**20
MAX_SPOOLED_BYTES = 2 * 2**30
"""Spreadsheets and Parquet files are read from their ends, so those inside an archive go to a nameless file first."""
ZIP, GZIP, ZSTD, PARQUET = b"PK\x03\x04", b"\x1f\x8b", b"\x28\xb5\x2f\xfd", b"PAR1"
_SKIPPABLE = b"\x2a\x4d\x18"
_EMPTY_ZIP = b"PK\x05\x06"
_OTHER_ARCHIVES = (b"7z\xbc\xaf\x27\x1c", b"Rar!", b"BZh", b"\xfd7zXZ\x00", b"\x04\x22\x4d\x18")
_JUNK = ("__MACOSX/", "Thumbs.db", "desktop.ini")
_DOCUMENT = ("[Content_Types].xml", "mimetype")
"""Entries that make a ZIP an office document or a book; those of them that are workbooks were told apart before."""
_ENCRYPTED = 0x1
_SMALL_BYTES = 2**20
"""So small a file is inflated once to the end before anybody looks at its records: a bomb then costs no parsing."""


@dataclass
class Gauge:
    """How far the upload itself has been read, whatever comes out of it."""

    file: BinaryIO | None = None
    at: int = 0

    def position(self) -> int:
        """Bytes of the upload that were read; the last known when it is closed."""
        if self.file is not None and not self.file.closed:
            self.at = self.file.tell()
        return self.at


@dataclass(frozen=True)
class DataFile:
    """One file of data, whose bytes can be had from the start any number of times."""

    name: str
    """As reports call it."""
    inner: str | None
    """Its name inside an archive."""
    open: Callable[[], BinaryIO]
    path: Path | None
    """Where its very bytes lie, when they do."""

    def is_workbook(self) -> bool:
        """True for the ZIP that an .xlsx is."""
        with self.seekable() as file:
            return holds_workbook(file, self.name)

    def seekable(self) -> BinaryIO:
        """Its bytes in a file that can be read in any order; raises TooLarge when a nameless copy grows too large."""
        if self.path is not None:
            return self.path.open("rb")
        spool = tempfile.TemporaryFile()  # noqa: SIM115 - the caller closes it
        with self.open() as stream:
            for piece in pieces_of(stream):
                if spool.tell() + len(piece) > MAX_SPOOLED_BYTES:
                    spool.close()
                    reason = f"{self.name} inflates to more than {MAX_SPOOLED_BYTES} bytes; upload it as it is."
                    raise TooLarge(reason, code="file_too_large", param=self.name)
                spool.write(piece)
        spool.seek(0)
        return spool


def files_of(path: Path, name: str, *, max_bytes: int, gauge: Gauge) -> list[DataFile]:
    """The data files of an upload, in the order of the archive.

    Raises DataInvalid ``archive_damaged``, ``archive_nested``, ``archive_encrypted``, ``archive_unsupported`` or
    TooLarge ``archive_bomb``.
    """

    def opened() -> BinaryIO:
        gauge.file = path.open("rb")
        return gauge.file

    with path.open("rb") as file:
        head = file.read(8)
    if head.startswith(GZIP):
        return [_inflated(opened, name, gunzipped, max_bytes)]
    if _is_zstd(head):
        return [_inflated(opened, name, unzstd, max_bytes)]
    if head.startswith((ZIP, _EMPTY_ZIP)) and not _is_workbook(path, name):
        return _members(path, name, max_bytes=max_bytes, gauge=gauge)
    return [DataFile(name, None, opened, path)]


def is_archive(head: bytes) -> str | None:
    """The kind of archive that a file's first bytes belong to."""
    if _is_zstd(head) or head.startswith((GZIP, ZIP, _EMPTY_ZIP, *_OTHER_ARCHIVES)) or head[257:262] == b"ustar":
        return "an archive"
    return None


def _is_zstd(head: bytes) -> bool:
    """A frame of Zstandard, or one to be skipped, which parallel compressors write first (RFC 8878, section 3.1.2)."""
    return head.startswith(ZSTD) or (head[1:4] == _SKIPPABLE and 0x50 <= head[0] <= 0x5F)


def holds_workbook(file: BinaryIO, name: str) -> bool:
    """True when a ZIP is what an .xlsx is; reads its directory alone."""
    names = set(directory_of(file, name).namelist())
    return "[Content_Types].xml" in names and "xl/workbook.xml" in names


def directory_of(raw: BinaryIO, name: str) -> zipfile.ZipFile:
    """An opened ZIP whose directory is small and does not lie about sizes.

    Raises DataInvalid ``archive_damaged`` or TooLarge ``archive_bomb``.
    """
    try:
        _check_directory(raw, name)
        archive = zipfile.ZipFile(raw)
    except (zipfile.BadZipFile, ValueError, struct.error, EOFError, NotImplementedError, OSError) as fault:
        raise damaged(name, str(fault)) from fault
    size = raw.seek(0, os.SEEK_END)
    packed = sum(entry.compress_size for entry in archive.infolist())
    if packed > size:
        raise TooLarge(
            f"{name} says that its entries take {packed} bytes, but it has {size}: they overlap; compress it again.",
            code="archive_bomb",
            param=name,
        )
    return archive


def _check_directory(raw: BinaryIO, name: str) -> None:
    """The end of the ZIP says how long its directory is; a long one is not even read."""
    size = raw.seek(0, os.SEEK_END)
    raw.seek(max(0, size - 65_557))
    tail = raw.read(65_557)
    at = tail.rfind(_EMPTY_ZIP)
    if at < 0 or len(tail) - at < 22:
        raise damaged(name, "it breaks off")
    entries, directory = struct.unpack_from("<H", tail, at + 10)[0], struct.unpack_from("<L", tail, at + 12)[0]
    wide = tail.rfind(b"PK\x06\x06", 0, at)
    if wide >= 0 and len(tail) - wide >= 56:
        entries, directory = (
            max(entries, struct.unpack_from("<Q", tail, wide + 32)[0]),
            max(0 if directory == 0xFFFFFFFF else directory, struct.unpack_from("<Q", tail, wide + 40)[0]),
        )
    if entries > MAX_ENTRIES or directory > MAX_DIRECTORY_BYTES:
        raise TooLarge(
            f"{name} has {entries} entries; at most {MAX_ENTRIES} are read. Put the records into fewer files.",
            code="archive_bomb",
            param=name,
        )


def _inflated(
    opened: Callable[[], BinaryIO], name: str, inflate: Callable[[BinaryIO, str], Iterator[bytes]], max_bytes: int
) -> DataFile:
    def stream() -> BinaryIO:
        raw = opened()
        return as_file(limited(inflate(raw, name), raw.tell, name=name, max_bytes=max_bytes), raw.close)

    with opened() as raw:
        small = raw.seek(0, os.SEEK_END) <= _SMALL_BYTES
    if small:
        with stream() as file:
            for _ in pieces_of(file):
                pass
    return DataFile(name, None, stream, None)


def _members(path: Path, name: str, *, max_bytes: int, gauge: Gauge) -> list[DataFile]:
    with path.open("rb") as file:
        archive = directory_of(file, name)
        entries = [entry for entry in archive.infolist() if not entry.is_dir() and not _is_junk(entry.filename)]
        total = sum(entry.file_size for entry in entries)
    if any(entry.filename in _DOCUMENT for entry in entries):
        reason = f"{name} is an office document or a book; save its table as .xlsx or .csv, or its text as .txt."
        raise DataInvalid(reason, code="format_unknown", param=name)
    if total > max_bytes:
        raise TooLarge(f"{name} inflates to {total} bytes, the limit is {max_bytes}; split it.", code="file_too_large")
    check_ratio(total, sum(entry.compress_size for entry in entries), name=name)
    if not entries:
        raise DataInvalid(f"{name} holds no file; add one with records.", code="dataset_empty", param=name)
    for entry in entries:
        check_entry(entry, name)
    return [_member(path, name, entry, max_bytes=max_bytes, gauge=gauge) for entry in entries]


def check_entry(entry: zipfile.ZipInfo, name: str, *, free_bytes: int = FREE_BYTES, ratio: int = RATIO) -> None:
    """Raise unless the entry can be read: no password, a usual method, no unusual ratio."""
    shown = f"{name}/{entry.filename[:200]}"
    if entry.flag_bits & _ENCRYPTED:
        raise DataInvalid(f"{shown} needs a password; remove it.", code="archive_encrypted", param=shown)
    if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        reason = f"{shown} is compressed in an unusual way (method {entry.compress_type}); use deflate."
        raise DataInvalid(reason, code="archive_unsupported", param=shown)
    check_ratio(entry.file_size, entry.compress_size, name=shown, free_bytes=free_bytes, ratio=ratio)


def entry_pieces(archive: zipfile.ZipFile, entry: zipfile.ZipInfo, name: str) -> Iterator[bytes]:
    """An entry's bytes; raises DataInvalid ``archive_damaged``, also when its checksum is wrong."""
    try:
        with archive.open(entry) as stream:
            while piece := stream.read(CHUNK_BYTES):
                yield piece
    except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, NotImplementedError, OSError) as fault:
        raise damaged(name, str(fault)) from fault


def _member(path: Path, name: str, entry: zipfile.ZipInfo, *, max_bytes: int, gauge: Gauge) -> DataFile:
    inner = str(PurePosixPath(entry.filename))[:500]
    shown = f"{name}/{inner}"

    def stream() -> BinaryIO:
        raw = path.open("rb")
        gauge.file = raw
        archive = zipfile.ZipFile(raw)
        pieces = entry_pieces(archive, entry, shown)
        consumed = max(entry.compress_size, 1)
        return as_file(limited(pieces, lambda: consumed, name=shown, max_bytes=max_bytes), raw.close)

    return DataFile(shown, inner, stream, None)


def _is_workbook(path: Path, name: str) -> bool:
    with path.open("rb") as file:
        return holds_workbook(file, name)


def _is_junk(name: str) -> bool:
    """What a system leaves in archives, and hidden files, which folders of files leave out as well."""
    path = PurePosixPath(name)
    hidden = any(part.startswith(".") and part.strip(".") for part in path.parts)
    return name.startswith(_JUNK[0]) or path.name in _JUNK[1:] or hidden
