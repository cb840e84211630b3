"""Checkpoints that are whole or absent: each carries a manifest, and comes and goes by rename.

It refuses to call a folder good that misses a byte of what its manifest promises, or holds a file it does not name.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
from pathlib import Path

from pydantic import ValidationError

from finery_contracts.model import Record
from finery_ml.job import write_atomically

MANIFEST = "manifest.json"
_MANIFEST_BYTES = 2**20


class FileDigest(Record):
    """What one file of a checkpoint must be."""

    size_bytes: int
    sha256: str


class Manifest(Record):
    """manifest.json: every file of the checkpoint, itself left out; paths are relative with forward slashes."""

    step: int
    files: dict[str, FileDigest]


def checkpoint_name(step: int) -> str:
    """The folder's name under checkpoints/."""
    return f"checkpoint-{step}"


def publish_checkpoint(staged: Path, folder: Path, *, step: int) -> Path:
    """Seal ``staged`` with a manifest, flush it to disk and rename it into ``folder``; returns the published folder.

    ``staged`` must lie on the same file system. A verified checkpoint of the same step stays and ``staged`` is dropped.
    """
    target = folder / checkpoint_name(step)
    if verify_checkpoint(target):
        shutil.rmtree(staged)
        return target
    _take_away(target)
    files = {path.relative_to(staged).as_posix(): path for path in _files_of(staged)}
    manifest = Manifest(step=step, files={name: _digest_of(path) for name, path in files.items()})
    for path in files.values():
        _flush(path)
    write_atomically(staged / MANIFEST, manifest.model_dump_json(indent=1))
    _flush(staged)
    os.replace(staged, target)
    _flush(folder)
    return target


def verify_checkpoint(folder: Path) -> bool:
    """Whether the folder holds exactly the files of its manifest, byte for byte."""
    try:
        path = folder / MANIFEST
        if path.stat().st_size > _MANIFEST_BYTES:
            return False
        manifest = Manifest.model_validate_json(path.read_bytes())
        present = {file.relative_to(folder).as_posix(): file for file in _files_of(folder) if file != path}
        return present.keys() == manifest.files.keys() and all(
            _is_whole(file, manifest.files[name]) for name, file in present.items()
        )
    except (OSError, ValidationError):
        return False


def published_checkpoints(folder: Path) -> list[Path]:
    """The checkpoint folders under ``folder``, oldest step first; unpublished ones start with a dot."""
    found = [path for path in folder.glob("checkpoint-*") if path.name.rpartition("-")[2].isdigit()]
    return sorted(found, key=lambda path: int(path.name.rpartition("-")[2]))


def prune_checkpoints(folder: Path, *, keep: int) -> None:
    """Remove all but the newest ``keep`` checkpoints; whoever is killed meanwhile leaves none half there."""
    for old in published_checkpoints(folder)[:-keep]:
        _take_away(old)


def _take_away(checkpoint: Path) -> None:
    """Out of sight by one rename, then removed; does nothing when there is none."""
    aside = checkpoint.with_name(f".{checkpoint.name}.removed")
    shutil.rmtree(aside, ignore_errors=True)
    with contextlib.suppress(FileNotFoundError):
        os.replace(checkpoint, aside)
    shutil.rmtree(aside, ignore_errors=True)


def _files_of(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_symlink() or not path.is_dir())


def _digest_of(path: Path) -> FileDigest:
    with path.open("rb") as file:
        return FileDigest(size_bytes=path.stat().st_size, sha256=hashlib.file_digest(file, "sha256").hexdigest())


def _is_whole(path: Path, digest: FileDigest) -> bool:
    regular = path.is_file() and not path.is_symlink()
    return regular and path.stat().st_size == digest.size_bytes and _digest_of(path) == digest


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
