"""Brings a model folder out of an object store into the job folder, under the names of its objects.

Names are judged, all of them, before a byte comes: one that climbs, collides with another or that a file system cannot
hold never reaches a path. Objects whose names begin with a dot (``.git/``, ``.cache/``) are left out.
"""

from __future__ import annotations

import os
import shutil
import unicodedata
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path

from finery_contracts.errors import InvalidRequest
from finery_contracts.jobs import Finding
from finery_contracts.sources import FetchedBytes, Origin, S3Source
from finery_ml.job import JobFolder
from finery_ml.sources import s3
from finery_ml.sources.landing import Landing, bring, gone
from finery_weight_validator.engine.findings import error, refuse
from finery_weight_validator.engine.folder import MAX_DEPTH

PLACE = "model"
MAX_PART_BYTES = 255
_UNSEEN = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"})
_RENAME = "give the object another name, or keep only the model's own files below the prefix"
_ALONE = {
    ".gguf": "it lies in, and nothing else is needed there",
    ".safetensors": "that holds config.json, the tokenizer and all of the weights",
}


def fetch(
    work: JobFolder, origin: Origin, choose: Callable[[Sequence[str]], Sequence[str]]
) -> tuple[Path, FetchedBytes]:
    """The folder, and what came. ``choose`` says which names below the prefix do, and raises where they will not.

    Raises:
        Forbidden: a grant or the connection has gone since the task was submitted.
        WeightsInvalid: ``not_a_folder``, ``path_escape``, ``names_collide``, ``name_unusable``, ``too_deep``.
        FineryError: it cannot be fetched, or is more than may come.
    """

    def below(source: S3Source, origin: Origin, landing: Landing) -> None:
        if not isinstance(source, S3Source):
            raise InvalidRequest(
                f"weights are fetched from object stores alone, not from {origin.source.kind}",
                code="source_unsupported", param="source",
            )  # fmt: skip
        bucket, prefix = s3.opened(source, origin), s3.below(source.place[1])
        sizes = _listed(bucket, prefix, source.url, landing)
        wanted = choose(list(sizes))
        landing.expect(sum(sizes[name] for name in wanted))
        for name in wanted:
            bucket.fetch(prefix + name, landing, name=name)

    folder = work.folder / PLACE
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    landing, summary = bring(work, origin, below)
    for one in landing.landed:
        _put(one.path, folder, one.name)
    return folder, summary


def _listed(bucket: s3.Bucket, prefix: str, url: str, landing: Landing) -> dict[str, int]:
    """Names below the prefix and sizes, every name one that a folder can have."""
    sizes: dict[str, int] = {}
    findings: list[Finding] = []
    hidden = 0
    for key, size_bytes in bucket.listed(prefix):
        name = key.removeprefix(prefix)
        landing.count(0)
        landing.check_files(len(sizes) + len(findings) + 1)
        if (fault := _escapes(name)) is not None:
            findings.append(fault)
        elif any(part.startswith(".") for part in name.split("/")):
            hidden += 1
        elif (fault := _unusable(name)) is not None:
            findings.append(fault)
        elif name in sizes:
            findings.append(_collides(name, name))
        else:
            sizes[name] = size_bytes
    if not sizes and not findings and not hidden:
        raise _nothing(bucket, prefix, url)
    if hidden:
        print(f"{hidden} objects with hidden names were left out", flush=True)
    refuse([*findings, *_collisions(sizes)])
    return sizes


def _nothing(bucket: s3.Bucket, prefix: str, url: str) -> InvalidRequest:
    """Why nothing lies below: what was named may be an object itself."""
    key = prefix.rstrip("/")
    if key and next(bucket.listed(key), ("", 0))[0] == key:
        holder = key.rpartition("/")[0]
        above = f"s3://{bucket.name}/{holder}" if holder else f"s3://{bucket.name}"
        why = _ALONE.get(Path(key).suffix.lower(), "that holds config.json, the tokenizer and the weights")
        remedy = f"give the prefix {why}: {above}"
        refuse([error("not_a_folder", url, message="this is a single file, and a model is a folder", remedy=remedy)])
    return gone(url)


def _escapes(name: str) -> Finding | None:
    if name.startswith("/") or "\\" in name or {".", ".."} & set(name.split("/")):
        return error("path_escape", name, message="its name leads out of the folder", remedy=_RENAME)
    return None


def _unusable(name: str) -> Finding | None:
    parts = name.split("/")
    if len(parts) > MAX_DEPTH + 1:
        return error("too_deep", name, message=f"it lies more than {MAX_DEPTH} folders deep", remedy=_RENAME)
    if "" in parts:
        message = "a part of its name is empty"
    elif any(len(part.encode("utf-8", "replace")) > MAX_PART_BYTES for part in parts):
        message = f"a part of its name has more than {MAX_PART_BYTES} bytes"
    elif any(unicodedata.category(sign) in _UNSEEN for sign in name):
        message = "its name holds signs that nobody can see"
    else:
        return None
    return error("name_unusable", name, message=message, remedy=_RENAME)


def _collisions(names: Collection[str]) -> Iterator[Finding]:
    """Names that are one where capitals do not count or accents are composed, and files that are folders as well."""
    there: dict[str, str] = {}
    for name in names:
        other = there.setdefault(_folded(name), name)
        if other != name:
            yield _collides(name, other)
    for name in names:
        parts = _folded(name).split("/")
        for count in range(1, len(parts)):
            if (other := there.get("/".join(parts[:count]))) is not None:
                yield _collides(name, other)


def _collides(name: str, other: str) -> Finding:
    message = f"beside it lies {other}, and a folder cannot hold both"
    return error("names_collide", name, message=message, remedy=_RENAME)


def _folded(name: str) -> str:
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())


def _put(file: Path, folder: Path, name: str) -> None:
    """Move it to its name; the names were judged, so a fault here is one of this machine's file system."""
    target = folder / name
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        os.rename(file, target)
    except OSError as fault:
        message = f"this machine cannot hold a file of that name ({fault.strerror})"
        refuse([error("name_unusable", name, message=message, remedy=_RENAME)])
