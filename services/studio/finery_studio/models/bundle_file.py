"""One file that carries a model to another site: a plain tar, the same bytes for the same model, signed as a whole.

First ``manifest.json`` and ``manifest.sig``, then every file that the manifest names. Reading refuses, before anything
is registered: signers that are not trusted, names that the manifest does not hold, links, paths that leave the folder,
sizes and digests that differ, files that are missing, and every byte between the files that was not written so.
"""

from __future__ import annotations

import hashlib
import tarfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import BinaryIO, Literal

from pydantic import Field, ValidationError

from finery_contracts.datasets import Withdrawal
from finery_contracts.errors import Conflict, InvalidRequest, TooLarge
from finery_contracts.model import Record
from finery_studio.models.signature import Keys, Signer, Statement

MANIFEST, MANIFEST_SIGNATURE = "manifest.json", "manifest.sig"
MAX_HEAD_BYTES = 16 * 2**20
MAX_NAME = 100
MAX_DEPTH = 8
BLOCK, CHUNK = 512, 4 * 2**20


class BundledFile(Record):
    """What a file of the bundle must be."""

    size_bytes: int = Field(ge=0)
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")


class BundledModel(Record):
    """A model as it is known where it comes from."""

    name: str
    number: int = 1
    origin: str = Field(description="its id there")
    description: str = ""
    family: str | None = None
    gallery: str | None = None
    parameters: int = Field(default=0, ge=0)
    size_bytes: int = Field(default=0, ge=0)
    max_length: int = Field(default=4096, ge=16)
    quantisation: str | None = None
    adapter: bool = False
    content: str = Field(description="digest over its files without card and bill: equal in every house")
    withdrawn_inputs: list[Withdrawal] = Field(default_factory=list[Withdrawal])


class Manifest(Record):
    """manifest.json."""

    format: Literal["finery.model-bundle/1"] = "finery.model-bundle/1"
    model: BundledModel
    base: BundledModel | None = Field(default=None, description="of an adapter; its files only if they are named below")
    files: dict[str, BundledFile] = Field(max_length=50_000)


@dataclass(frozen=True)
class Outgoing:
    """A bundle that is written while it is sent."""

    manifest: bytes
    signature: bytes
    files: Mapping[str, Path]

    @property
    def size_bytes(self) -> int:
        """Of the whole tar."""
        sizes = [len(self.manifest), len(self.signature), *(path.stat().st_size for path in self.files.values())]
        return sum(BLOCK + size + -size % BLOCK for size in sizes) + 2 * BLOCK

    def chunks(self) -> Iterator[bytes]:
        """The tar, piece by piece; no file is held in memory."""
        for name, text in ((MANIFEST, self.manifest), (MANIFEST_SIGNATURE, self.signature)):
            yield _header(name, len(text)) + text + b"\0" * (-len(text) % BLOCK)
        for name in sorted(self.files):
            size = self.files[name].stat().st_size
            yield _header(name, size)
            with self.files[name].open("rb") as file:
                while chunk := file.read(CHUNK):
                    yield chunk
            yield b"\0" * (-size % BLOCK)
        yield b"\0" * (2 * BLOCK)


def outgoing(
    model: BundledModel, base: BundledModel | None, files: Mapping[str, Path], digests: Mapping[str, str],
    signer: Signer,
) -> Outgoing:  # fmt: skip
    """A bundle of these files; ``digests`` as they were verified."""
    listed = {
        name: BundledFile(size_bytes=path.stat().st_size, sha256=digests[name]) for name, path in sorted(files.items())
    }
    text = Manifest(model=model, base=base, files=listed).model_dump_json(indent=1).encode()
    signature = signer.sign(model.name, {MANIFEST: hashlib.sha256(text).hexdigest()}).encode()
    return Outgoing(text, signature, files)


def read_head(file: BinaryIO, keys: Keys) -> Manifest:
    """The manifest, once its signature is known to be good; nothing else has been read by then."""
    text, signature = _read_member(file, MANIFEST), _read_member(file, MANIFEST_SIGNATURE)
    if dict(keys.read(signature).files) != {MANIFEST: hashlib.sha256(text).hexdigest()}:
        raise _changed(MANIFEST)
    try:
        manifest = Manifest.model_validate_json(text)
    except ValidationError as fault:
        raise _invalid(f"its manifest cannot be read: {fault.errors()[0]['msg']}") from fault
    for name in manifest.files:
        _check_name(name)
    return manifest


def unpack(file: BinaryIO, manifest: Manifest, folder: Path, keys: Keys, *, max_bytes: int) -> Mapping[str, Statement]:
    """Every file into ``folder``, under its own name; the answer: what ``model.sig`` and ``base.sig`` state."""
    if sum(entry.size_bytes for entry in manifest.files.values()) > max_bytes:
        raise TooLarge(f"the bundle is larger than the limit of {max_bytes:,} bytes", code="bundle_too_large")
    seen = set[str]()
    while (found := _next_header(file)) is not None:
        entry = manifest.files.get(found.name)
        if entry is None or found.name in seen or found.size != entry.size_bytes:
            raise _changed(found.name[:MAX_NAME])
        seen.add(found.name)
        _take(file, found, folder / found.name, entry)
    if missing := sorted(manifest.files.keys() - seen):
        raise InvalidRequest(f"the bundle ends without {missing[0]}", code="bundle_incomplete", param=missing[0])
    _check_end(file)
    return {part: _stated(part, manifest, folder, keys) for part in _parts_of(manifest)}


def _parts_of(manifest: Manifest) -> list[str]:
    return [part for part in ("model", "base") if any(name.startswith(f"{part}/") for name in manifest.files)]


def _stated(part: str, manifest: Manifest, folder: Path, keys: Keys) -> Statement:
    """A part's own signature names exactly its files."""
    path = folder / f"{part}.sig"
    if not path.is_file():
        raise _invalid(f"it holds no {part}.sig")
    stated = keys.read(path.read_bytes())
    prefix = f"{part}/"
    there = {
        name.removeprefix(prefix): entry.sha256 for name, entry in manifest.files.items() if name.startswith(prefix)
    }
    if dict(stated.files) != there:
        raise _changed(f"{part}.sig")
    return stated


def _take(file: BinaryIO, found: tarfile.TarInfo, target: Path, entry: BundledFile) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    digest, left = hashlib.sha256(), found.size
    with target.open("xb") as kept:
        while left:
            chunk = file.read(min(CHUNK, left))
            if not chunk:
                raise InvalidRequest(f"the bundle ends within {found.name}", code="bundle_incomplete", param=found.name)
            digest.update(chunk)
            kept.write(chunk)
            left -= len(chunk)
    _skip_padding(file, found)
    if digest.hexdigest() != entry.sha256:
        raise _changed(found.name)


def _read_member(file: BinaryIO, name: str) -> bytes:
    found = _next_header(file)
    if found is None or found.name != name:
        raise _invalid(f"it does not begin with {MANIFEST} and {MANIFEST_SIGNATURE}")
    if found.size > MAX_HEAD_BYTES:
        raise _invalid(f"its {name} has {found.size:,} bytes")
    text = file.read(found.size)
    _skip_padding(file, found)
    return text


def _next_header(file: BinaryIO) -> tarfile.TarInfo | None:
    """The next plain file's header; every other kind of member is refused, extensions of the format among them."""
    block = file.read(BLOCK)
    if not block.strip(b"\0"):
        return None
    try:
        found = tarfile.TarInfo.frombuf(block, "utf-8", "strict")
    except (tarfile.HeaderError, ValueError) as fault:
        raise _invalid("it is no tar of ours") from fault
    if found.type not in (tarfile.REGTYPE, tarfile.AREGTYPE) or found.size < 0:
        raise _invalid(f"{found.name[:MAX_NAME]!r} is no plain file")
    if len(found.name.encode()) > MAX_NAME or block != _header(found.name, found.size):
        raise _invalid(f"what it says of {found.name[:MAX_NAME]!r} was not written by an export")
    return found


def _skip_padding(file: BinaryIO, found: tarfile.TarInfo) -> None:
    """What fills up the last block of a file: zeros, as they were written."""
    wanted = b"\0" * (-found.size % BLOCK)
    padding = file.read(len(wanted))
    if len(padding) < len(wanted):
        raise InvalidRequest(f"the bundle ends within {found.name}", code="bundle_incomplete", param=found.name)
    if padding != wanted:
        raise _changed(found.name)


def _check_end(file: BinaryIO) -> None:
    """Two blocks of zeros, of which the first was read, and nothing but zeros after them."""
    last = file.read(BLOCK)
    if len(last) < BLOCK:
        raise InvalidRequest("the bundle lacks its end; send it whole", code="bundle_incomplete", param="file")
    while last:
        if last.strip(b"\0"):
            raise _invalid("something follows after its end")
        last = file.read(CHUNK)


def _check_name(name: str) -> None:
    path = PurePosixPath(name)
    plain = name == path.as_posix() and not path.is_absolute() and "\\" not in name and "\0" not in name
    inside = plain and not {"..", "."} & set(path.parts) and len(path.parts) <= MAX_DEPTH
    if not inside or path.parts[0] not in ("model", "base", "model.sig", "base.sig"):
        raise _invalid(f"{name[:MAX_NAME]!r} is no name of a file in a bundle")


def _header(name: str, size_bytes: int) -> bytes:
    if len(name.encode()) > MAX_NAME:
        raise Conflict(f"the file name {name[:60]}… is too long for a bundle", code="not_exportable", param=name)
    info = tarfile.TarInfo(name)
    info.size, info.mode, info.mtime = size_bytes, 0o644, 0
    return info.tobuf(tarfile.GNU_FORMAT, "utf-8", "strict")


def _changed(name: str) -> InvalidRequest:
    return InvalidRequest(
        f"{name} of the bundle is not what its manifest says; export it again", code="bundle_changed", param=name
    )


def _invalid(reason: str) -> InvalidRequest:
    return InvalidRequest(f"this is no bundle of a model: {reason}", code="bundle_invalid", param="file")
