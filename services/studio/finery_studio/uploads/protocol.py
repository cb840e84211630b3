"""The headers of tus 1.0 (https://tus.io/protocols/resumable-upload), read strictly and written back.

It knows nothing of files. What it does not offer (deferred lengths, concatenation) is refused, not guessed at.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from email.utils import format_datetime
from typing import get_args

from finery_contracts.datasets import DataFormat
from finery_contracts.errors import ChecksumMismatch, InvalidRequest, MediaUnsupported, PreconditionFailed, TooLarge
from finery_contracts.uploads import UploadState, UploadView

VERSION = "1.0.0"
EXTENSIONS = "creation,creation-with-upload,termination,checksum,expiration"
ALGORITHMS = ("sha1", "sha256", "md5")
BYTES = "application/offset+octet-stream"
MAX_METADATA = 4096
MAX_METADATA_KEYS = 32
_SHARE = re.compile(r"0(\.[0-9]{1,9})?|1(\.0{1,9})?")
_NUMBER = re.compile(r"[0-9]{1,18}")
_KEY = re.compile(r"[!-+\--~]{1,64}")
_CHOICES: dict[str, tuple[str, ...]] = {
    "purpose": ("fine-tune", "evals"), "bad_records": ("strict", "skip"), "ingest": ("true", "false"),
    "format": get_args(DataFormat),
}  # fmt: skip


@dataclass
class Checksum:
    """What a piece was said to be; an unknown algorithm is refused before a byte is read."""

    algorithm: str
    wanted: bytes

    def __post_init__(self) -> None:
        self._digest = hashlib.new(self.algorithm, usedforsecurity=False)

    def update(self, piece: bytes) -> None:
        """Some more of it."""
        self._digest.update(piece)

    def check(self) -> None:
        """Raises ChecksumMismatch unless all of it is what was said."""
        if self._digest.digest() != self.wanted:
            raise ChecksumMismatch


def options(max_bytes: int) -> dict[str, str]:
    """What OPTIONS is answered with."""
    return {
        "Tus-Resumable": VERSION, "Tus-Version": VERSION, "Tus-Extension": EXTENSIONS, "Tus-Max-Size": str(max_bytes),
        "Tus-Checksum-Algorithm": ",".join(ALGORITHMS),
    }  # fmt: skip


def check_version(headers: Mapping[str, str]) -> None:
    """Raises PreconditionFailed unless the request is in our version."""
    if headers.get("tus-resumable") != VERSION:
        raise PreconditionFailed(f"send Tus-Resumable: {VERSION}, the version that is spoken here")


def check_media(headers: Mapping[str, str]) -> None:
    """Raises MediaUnsupported unless bytes come as bytes."""
    if headers.get("content-type", "").partition(";")[0].strip().lower() != BYTES:
        raise MediaUnsupported(f"bytes are sent with Content-Type: {BYTES}", param="Content-Type")


def length_of(headers: Mapping[str, str], max_bytes: int) -> int:
    """How large the upload will be.

    Raises:
        InvalidRequest, TooLarge: it is not said, nothing, or too much.
    """
    if "upload-defer-length" in headers:
        raise InvalidRequest("say Upload-Length at once; a length that follows later is not offered",
                             code="length_deferred", param="Upload-Defer-Length")  # fmt: skip
    size = _number(headers, "Upload-Length")
    if size == 0:
        raise InvalidRequest("the file is empty", code="file_empty", param="Upload-Length")
    if size > max_bytes:
        raise TooLarge(f"the file is larger than the limit of {max_bytes:,} bytes", code="file_too_large")
    return size


def offset_of(headers: Mapping[str, str]) -> int:
    """Where the piece belongs."""
    return _number(headers, "Upload-Offset")


def checksum_of(headers: Mapping[str, str]) -> Checksum | None:
    """What the piece is said to be, if it is said.

    Raises:
        InvalidRequest: in an algorithm that is not offered, or not in base64.
    """
    said = headers.get("upload-checksum")
    if said is None:
        return None
    algorithm, _, encoded = said.partition(" ")
    if algorithm not in ALGORITHMS:
        raise _invalid("Upload-Checksum", f"it takes {', '.join(ALGORITHMS)}", code="checksum_unsupported")
    try:
        return Checksum(algorithm, base64.b64decode(encoded.strip(), validate=True))
    except ValueError as fault:
        raise _invalid("Upload-Checksum", "after the algorithm it is base64", code="checksum_invalid") from fault


def metadata_of(headers: Mapping[str, str]) -> dict[str, str]:
    """What is said of the file: ``key base64,key base64,…``.

    Raises:
        InvalidRequest: ``metadata_invalid``, with what is wrong.
    """
    said, found = headers.get("upload-metadata", ""), dict[str, str]()
    if len(said) > MAX_METADATA:
        raise _wrong(f"it has {len(said):,} characters, {MAX_METADATA:,} are the limit")
    for pair in filter(None, (part.strip() for part in said.split(","))):
        key, _, encoded = pair.partition(" ")
        if not _KEY.fullmatch(key) or key in found or len(found) >= MAX_METADATA_KEYS:
            raise _wrong(f"the key {key[:64]!r} is none, comes twice, or is one too many")
        try:
            found[key] = base64.b64decode(encoded.strip(), validate=True).decode()
        except ValueError as fault:
            raise _wrong(f"the value of {key} is not base64 of UTF-8") from fault
        if any(ord(sign) < 32 for sign in found[key]):
            raise _wrong(f"the value of {key} holds a control character")
    if not _SHARE.fullmatch(found.get("bad_ceiling", "0")):
        raise _wrong("bad_ceiling is a share from 0 to 1, such as 0.05")
    for key, choices in _CHOICES.items():
        if found.get(key, choices[0]) not in choices:
            raise _wrong(f"{key} is one of {', '.join(choices)}")
    return found


def filename_of(metadata: Mapping[str, str]) -> str:
    """The file's own name, without any folder."""
    said = metadata.get("filename") or metadata.get("name") or "upload"
    return said.replace("\\", "/").rpartition("/")[2][:255] or "upload"


def told(view: UploadView) -> dict[str, str]:
    """An upload as headers."""
    headers = {"Tus-Resumable": VERSION, "Upload-Offset": str(view.offset), "Upload-Length": str(view.size_bytes),
               "Cache-Control": "no-store"}  # fmt: skip
    if view.metadata:
        pairs = (f"{key} {base64.b64encode(value.encode()).decode()}" for key, value in view.metadata.items())
        headers["Upload-Metadata"] = ",".join(pairs)
    if view.state is UploadState.RECEIVING:
        headers["Upload-Expires"] = expires(view.expires_at)
    return headers


def expires(moment: datetime) -> str:
    """As HTTP writes a moment."""
    return format_datetime(moment, usegmt=True)


def _number(headers: Mapping[str, str], name: str) -> int:
    said = headers.get(name.lower())
    if said is None or not _NUMBER.fullmatch(said):
        raise _invalid(name, "it is a number of bytes", code="header_invalid")
    return int(said)


def _wrong(reason: str) -> InvalidRequest:
    return _invalid("Upload-Metadata", reason, code="metadata_invalid")


def _invalid(header: str, reason: str, *, code: str) -> InvalidRequest:
    return InvalidRequest(f"{header}: {reason}", code=code, param=header)
