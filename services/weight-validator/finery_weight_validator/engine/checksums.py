"""Compares files with the checksums that a folder carries: SHA256SUMS and its like, NAME.sha256, and what the Hugging
Face client leaves of its downloads. It trusts none of them to be complete, and follows no path out of the folder.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from pathlib import Path

from finery_contracts.jobs import Finding
from finery_weight_validator.engine.findings import error

_LISTS = re.compile(r"(sha256sums?|checksums?)(\.txt|\.sha256)?|.+\.sha256(sums?)?(\.txt)?", re.IGNORECASE)
_LINE = re.compile(r"(?:sha256:)?([0-9a-fA-F]{64})(?:\s+\*?(.{1,300}))?")
_BSD_LINE = re.compile(r"SHA256 ?\((.{1,300})\) ?= ?([0-9a-fA-F]{64})")
_DOWNLOADS = Path(".cache") / "huggingface" / "download"
_MOST_BYTES, _MOST_LINES = 2**20, 20_000


def published_sums(folder: Path) -> dict[str, str]:
    """sha256 by name of the files at the folder's top, as far as the folder states any."""
    sums: dict[str, str] = {}
    for path in sorted(folder.iterdir()):
        if _LISTS.fullmatch(path.name):
            sums |= _read_list(path)
    downloads = folder / _DOWNLOADS
    for path in sorted(downloads.glob("*.metadata")) if _is_plain_folder(downloads, folder) else ():
        lines = _text_of(path).splitlines()
        if len(lines) > 1 and re.fullmatch(r'"?[0-9a-f]{64}"?', lines[1]):  # an ETag; of small files it is a sha1
            sums[path.name.removesuffix(".metadata")] = lines[1].strip('"')
    return sums


def checksum_findings(folder: Path, known: Mapping[str, str], files: Mapping[str, Path]) -> list[Finding]:
    """``checksum_wrong`` for each file that is not what was published; ``known`` are checksums computed already."""
    findings = []
    for name, published in published_sums(folder).items():
        if name not in files:
            continue
        found = known.get(name) or _digest(files[name])
        if found != published:
            message = f"its sha256 is {found}, the folder's own list says {published}"
            remedy = "download the file again, or correct the list if the file was changed on purpose"
            findings.append(
                error("checksum_wrong", name, message=message, remedy=remedy, published=published, found=found)
            )
    return findings


def _read_list(path: Path) -> dict[str, str]:
    sums: dict[str, str] = {}
    for line in _text_of(path).splitlines()[:_MOST_LINES]:
        if match := _BSD_LINE.fullmatch(line.strip()):
            name, digest = match[1], match[2]
        elif match := _LINE.fullmatch(line.strip()):
            name, digest = match[2] or re.sub(r"\.sha256$", "", path.name, flags=re.IGNORECASE), match[1]
        else:
            continue
        sums[name.removeprefix("./")] = digest.lower()
    return sums


def _text_of(path: Path) -> str:
    if path.is_symlink() or not path.is_file():
        return ""
    with path.open("rb") as file:
        return file.read(_MOST_BYTES).decode("utf-8", errors="replace")


def _is_plain_folder(path: Path, folder: Path) -> bool:
    return path.is_dir() and path.resolve() == (folder.resolve() / _DOWNLOADS)


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
