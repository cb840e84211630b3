"""Bytes that come out of other bytes piece by piece, inflated or re-encoded; as a file, never more than was asked for.

What a small upload may inflate to is limited here, while it is read: headers that lie change nothing.
"""

from __future__ import annotations

import io
import zlib
from collections.abc import Callable, Iterator
from typing import BinaryIO, cast

import zstandard

from finery_contracts.errors import DataInvalid, TooLarge

CHUNK_BYTES = 2**18
RATIO = 200
FREE_BYTES = 64 * 2**20
"""An upload may inflate to so much whatever its size, and beyond that to RATIO times of what was read of it."""
_WINDOW_BYTES = 2**27
_BUFFER_BYTES = 2**18
_ZSTD_BYTES = 4 * 2**10
"""Four bytes of a Zstandard file can become 128 KiB, all in one call."""
_PARTS_FREE, _PART_BYTES = 1_000, 1_024


class Pieces(io.RawIOBase):
    """An iterator of bytes as a raw file."""

    def __init__(self, pieces: Iterator[bytes], close: Callable[[], None]) -> None:
        super().__init__()
        self._pieces, self._rest, self._close = pieces, memoryview(b""), close

    def readable(self) -> bool:
        """It is there to be read."""
        return True

    def readinto(self, buffer: object) -> int:
        """Fill a buffer as far as the present piece goes."""
        target = memoryview(cast(bytearray, buffer)).cast("B")
        while not self._rest:
            piece = next(self._pieces, None)
            if piece is None:
                return 0
            self._rest = memoryview(piece)
        count = min(len(target), len(self._rest))
        target[:count] = self._rest[:count]
        self._rest = self._rest[count:]
        return count

    def close(self) -> None:
        """Close what lies beneath, too."""
        if not self.closed:
            self._close()
        super().close()


def as_file(pieces: Iterator[bytes], close: Callable[[], None]) -> BinaryIO:
    """A buffered file; ``close`` closes what the pieces come from."""
    return cast(BinaryIO, io.BufferedReader(Pieces(pieces, close), _BUFFER_BYTES))


def pieces_of(file: BinaryIO) -> Iterator[bytes]:
    """A file in chunks."""
    while piece := file.read(CHUNK_BYTES):
        yield piece


def limited(
    pieces: Iterator[bytes], consumed: Callable[[], int], *, name: str, max_bytes: int, free_bytes: int = FREE_BYTES,
    ratio: int = RATIO,
) -> Iterator[bytes]:  # fmt: skip
    """The same pieces; raises TooLarge ``archive_bomb`` or ``file_too_large`` as soon as there are too many."""
    produced = 0
    for piece in pieces:
        produced += len(piece)
        check_ratio(produced, consumed(), name=name, free_bytes=free_bytes, ratio=ratio)
        if produced > max_bytes:
            raise TooLarge(
                f"{name} inflates to more than {max_bytes} bytes; split it.", code="file_too_large", param=name
            )
        yield piece


def check_ratio(produced: int, consumed: int, *, name: str, free_bytes: int = FREE_BYTES, ratio: int = RATIO) -> None:
    """Raise TooLarge ``archive_bomb`` when so many bytes came out of so few."""
    if produced > free_bytes and produced > ratio * max(consumed, 1):
        raise TooLarge(
            f"{name} inflates to more than {ratio} times its size, as archives do that are made to fill a disk; "
            "upload the file as it is, or compressed less.",
            code="archive_bomb",
            param=name,
        )


def gunzipped(raw: BinaryIO, name: str) -> Iterator[bytes]:
    """The members of a gzip file, one behind the other; raises DataInvalid ``archive_damaged``."""
    pending, decoder, members, produced = b"", None, 0, 0
    try:
        while pending or (pending := raw.read(CHUNK_BYTES)):
            if decoder is None:
                pending = pending.lstrip(b"\0") if members else pending
                if not pending:
                    continue
                decoder, members = zlib.decompressobj(31), members + 1
                if members > _PARTS_FREE + produced // _PART_BYTES:
                    raise damaged(name, "it consists of thousands of tiny parts")
            piece = decoder.decompress(pending, CHUNK_BYTES)
            pending = decoder.unconsumed_tail
            produced += len(piece)
            if decoder.eof:
                pending, decoder = decoder.unused_data, None
            if piece:
                yield piece
        while decoder is not None:
            piece = decoder.decompress(b"", CHUNK_BYTES)
            if not piece and not decoder.eof:
                raise damaged(name, "it breaks off")
            decoder = None if decoder.eof else decoder
            yield piece
    except zlib.error as fault:
        raise damaged(name, str(fault)) from fault


def unzstd(raw: BinaryIO, name: str) -> Iterator[bytes]:
    """The frames of a Zstandard file, one behind the other; raises DataInvalid ``archive_damaged``."""
    inflater = zstandard.ZstdDecompressor(max_window_size=_WINDOW_BYTES)
    pending, decoder, frames, produced = b"", None, 0, 0
    try:
        while pending or (pending := raw.read(_ZSTD_BYTES)):
            if decoder is None:
                decoder, frames = inflater.decompressobj(write_size=CHUNK_BYTES), frames + 1
                if frames > _PARTS_FREE + produced // _PART_BYTES:
                    raise damaged(name, "it consists of thousands of tiny parts")
            piece = decoder.decompress(pending)
            produced += len(piece)
            pending = decoder.unused_data if decoder.eof else b""
            decoder = None if decoder.eof else decoder
            if piece:
                yield piece
        if decoder is not None:
            raise damaged(name, "it breaks off")
    except zstandard.ZstdError as fault:
        raise damaged(name, str(fault)) from fault


def damaged(name: str, reason: str) -> DataInvalid:
    """The error ``archive_damaged``."""
    return DataInvalid(
        f"{name} cannot be unpacked: {reason}; compress it again, or upload it as it is.",
        code="archive_damaged",
        param=name,
    )
