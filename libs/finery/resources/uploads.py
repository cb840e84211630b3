"""Resumable uploads (tus 1.0): a large file in pieces, each checked on arrival, gone on with after any interruption."""

from __future__ import annotations

import base64
import hashlib
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from finery.errors import FineryAPIError
from finery.transport import Page, Transport, every
from finery_contracts.uploads import UploadState, UploadView

PATH = "/api/v1/uploads"
PIECE = 16 * 2**20
TRIES = 8
TIMEOUT_S = 3600.0
TUS = {"Tus-Resumable": "1.0.0"}
Told = Callable[[int, int], None]
"""Bytes that have arrived, and all there are."""


class Uploads:
    """``client.uploads``."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def send(
        self, file: str | Path, *, metadata: Mapping[str, str] | None = None, told: Told | None = None
    ) -> UploadView:
        """A file, from its first byte.

        Raises:
            OSError: it cannot be read.
        """
        path = Path(file)
        said = {"filename": path.name, **(metadata or {})}
        pairs = ",".join(f"{key} {base64.b64encode(value.encode()).decode()}" for key, value in said.items())
        headers = {**TUS, "Upload-Length": str(path.stat().st_size), "Upload-Metadata": pairs}
        made = self._transport.view(UploadView, "POST", PATH, headers=headers)
        return self.resume(made.id, path, told=told)

    def resume(self, upload: str, file: str | Path, *, told: Told | None = None) -> UploadView:
        """Go on with an upload of this very file; a piece that did not arrive is sent again.

        Raises:
            ValueError: the file has another size than the upload.
        """
        view, failures = self.get(upload), 0
        with Path(file).open("rb") as body:
            size = os.fstat(body.fileno()).st_size
            if size != view.size_bytes:
                raise ValueError(f"{file} has {size:,} bytes, the upload was begun with {view.size_bytes:,}")
            while view.state is UploadState.RECEIVING and failures < TRIES:
                body.seek(view.offset)
                try:
                    self._piece(upload, body.read(PIECE), view.offset)
                    failures = 0
                except FineryAPIError as fault:
                    failures += 1
                    if failures == TRIES or not _may_go_on(fault):
                        raise
                    self._transport.rest(fault, failures)
                view = self.get(upload)
                if told is not None:
                    told(view.offset, view.size_bytes)
        return view

    def get(self, upload: str) -> UploadView:
        """One of them."""
        return self._transport.view(UploadView, "GET", f"{PATH}/{upload}")

    def list(self, *, limit: int = 20, after: str | None = None) -> Page[UploadView]:
        """Newest first."""
        return self._transport.page(UploadView, PATH, limit=limit, after=after)

    def all(self) -> Iterator[UploadView]:
        """Every upload, newest first."""
        return every(lambda after: self.list(limit=100, after=after))

    def delete(self, upload: str) -> None:
        """Give it up, with the bytes that came."""
        self._transport.send("DELETE", f"{PATH}/{upload}", headers=TUS)

    def unfinished(self, file: str | Path) -> UploadView | None:
        """The newest upload that was begun with a file of this name and size and still waits for bytes."""
        path = Path(file)
        size = path.stat().st_size
        return next(
            (
                view
                for view in self.all()
                if view.state is UploadState.RECEIVING and (view.filename, view.size_bytes) == (path.name, size)
            ),
            None,
        )

    def _piece(self, upload: str, piece: bytes, offset: int) -> None:
        headers = {
            **TUS, "Content-Type": "application/offset+octet-stream", "Upload-Offset": str(offset),
            "Upload-Checksum": f"sha256 {base64.b64encode(hashlib.sha256(piece).digest()).decode()}",
        }  # fmt: skip
        self._transport.send("PATCH", f"{PATH}/{upload}", content=piece, headers=headers, timeout=TIMEOUT_S)


def _may_go_on(fault: FineryAPIError) -> bool:
    """The line broke, somebody else is sending, the piece came damaged or to the wrong place: ask where to go on."""
    return fault.status in (0, 408, 409, 423, 429, 460, 502, 503, 504)
