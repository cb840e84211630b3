"""Artefacts, addressed by URL: written aside, published by rename, never visible half-written.

``store://<key>`` lies under one root folder. Every key starts with the project it belongs to. It refuses keys that
leave the root.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import tempfile
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

from finery_contracts.errors import InvalidRequest, NotFound, TooLarge

SCHEME = "store://"
CHUNK = 1 << 20


@dataclass(frozen=True)
class Blob:
    """Bytes that were stored under their own hash."""

    url: str
    sha256: str
    size_bytes: int


class Storage:
    """A folder as an object store."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._incoming = root / ".incoming"
        self._incoming.mkdir(parents=True, exist_ok=True)

    def find(self, url: str) -> Path | None:
        """The local path of a URL, or None when nothing lies there."""
        path = self._resolve(url)
        return path if path.exists() else None

    def place(self, url: str) -> Path:
        """The local path of a URL that is to be written; its folder is there."""
        path = self._resolve(url)
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def path(self, url: str) -> Path:
        """The local path of a URL.

        Raises:
            NotFound: nothing lies there.
        """
        path = self.find(url)
        if path is None:
            raise NotFound(f"the artefact {url} is gone", code="artefact_missing")
        return path

    async def put_stream(self, project: str, chunks: AsyncIterator[bytes], *, max_bytes: int) -> Blob:
        """Store what arrives under its hash; the same bytes twice make no second copy.

        Raises:
            TooLarge: more than ``max_bytes`` came; nothing is kept.
        """
        digest, size = hashlib.sha256(), 0
        descriptor, name = tempfile.mkstemp(dir=self._incoming)
        try:
            with os.fdopen(descriptor, "wb") as file:
                async for chunk in chunks:
                    size += len(chunk)
                    if size > max_bytes:
                        raise TooLarge(
                            f"the file is larger than the limit of {max_bytes:,} bytes", code="file_too_large"
                        )
                    digest.update(chunk)
                    file.write(chunk)
                file.flush()
                os.fsync(file.fileno())
            key = f"{project}/blobs/{digest.hexdigest()}"
            self._publish(Path(name), key)
        finally:
            Path(name).unlink(missing_ok=True)
        return Blob(SCHEME + key, digest.hexdigest(), size)

    def incoming(self, project: str, name: str) -> Path:
        """Where a file grows that is not whole yet; its folder is there."""
        path = self._resolve(f"{SCHEME}.uploads/{project}/{name}")
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def adopt(self, file: Path, project: str, sha256: str) -> Blob:
        """A file that lies in the store becomes a blob as well; safe to repeat, the file itself stays."""
        key = f"{project}/blobs/{sha256}"
        target = self.place(SCHEME + key)
        with contextlib.suppress(FileExistsError):
            os.link(file, target)
        return Blob(SCHEME + key, sha256, target.stat().st_size)

    def put_tree(self, folder: Path, key: str) -> str:
        """Move a finished folder into the store and return its URL. A rename where that is possible."""
        target = self._resolve(SCHEME + key)
        if target.exists():
            return SCHEME + key
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            os.rename(folder, target)
        except OSError:
            aside = tempfile.mkdtemp(dir=self._incoming)
            shutil.copytree(folder, aside, dirs_exist_ok=True)
            os.rename(aside, target)
            shutil.rmtree(folder)
        return SCHEME + key

    def delete(self, url: str) -> None:
        """Remove a file or folder; one that is gone already is fine."""
        path = self._resolve(url)
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)

    def _publish(self, file: Path, key: str) -> None:
        target = self._resolve(SCHEME + key)
        target.parent.mkdir(parents=True, exist_ok=True)
        os.replace(file, target)

    def _resolve(self, url: str) -> Path:
        if not url.startswith(SCHEME):
            raise InvalidRequest(f"not a store URL: {url}", code="url_invalid")
        path = (self.root / url.removeprefix(SCHEME)).resolve()
        if not path.is_relative_to(self.root):
            raise InvalidRequest(f"the URL leaves the store: {url}", code="url_invalid")
        return path


def tree_bytes(folder: Path) -> int:
    """Size of all files below a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
