"""Which files a version consists of, under which names, and their digests; cached only where nothing can hide a change.

A version is its own weights or its adapter, with the card and the bill of materials beside them. The base under an
adapter is a model of its own with a signature of its own.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Mapping
from pathlib import Path

from finery_contracts.errors import Conflict
from finery_contracts.models import ModelView
from finery_kit.storage import SCHEME, Storage

CARD, BILL, SIGNATURE = "README.md", "bom.cdx.json", "model.sig"
MAX_FILES = 10_000
_SETTLED_S = 2.0
"""A file changed so recently may change again without its times telling."""
_KNOWN: dict[tuple[int, int, int, int, int], str] = {}
_MOST_KNOWN = 20_000


def certificate_place(view: ModelView) -> str:
    """Where card, bill and signature of a version lie."""
    return f"{SCHEME}{view.project}/models/{view.id}/certificate"


def payload_of(view: ModelView, storage: Storage) -> dict[str, Path]:
    """The files that make it answer, by the name under which they are signed.

    Raises:
        NotFound: they are gone.
        Conflict: ``model_changed``: a link or something that is no file lies among them.
    """
    folder = storage.path(view.adapter or view.weights or certificate_place(view))
    files = dict[str, Path]()
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_dir() and not path.is_symlink():
            continue
        if path.is_symlink() or not path.is_file() or len(files) >= MAX_FILES:
            raise Conflict(f"{name} of model {view.name} is no plain file", code="model_changed", param=name)
        files[name] = path
    for name in (CARD, BILL, SIGNATURE):  # the certificate's own names
        if name in files:
            files[_free_name(name, files)] = files.pop(name)
    return files


def _free_name(name: str, files: Mapping[str, Path]) -> str:
    """No file hides another one that is named so already."""
    other = f"original-{name}"
    return _free_name(other, files) if other in files else other


def tree_of(view: ModelView, storage: Storage) -> dict[str, Path]:
    """All files that the signature is about."""
    place = storage.path(certificate_place(view))
    return {**payload_of(view, storage), **{name: place / name for name in (CARD, BILL)}}


def digest_of_file(path: Path) -> str:
    """SHA-256 in hex; of a file whose identity, size and times are those of before, the digest of then."""
    found = path.stat()
    identity = (found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)
    if identity in _KNOWN:
        return _KNOWN[identity]
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if time.time() - max(found.st_mtime, found.st_ctime) > _SETTLED_S and path.stat() == found:
        if len(_KNOWN) >= _MOST_KNOWN:
            _KNOWN.clear()
        _KNOWN[identity] = digest
    return digest
