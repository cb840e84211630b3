"""Looks over a model folder without loading anything: what may be used, and what is refused.

Pickles, archives and code are refused by name or by their first bytes, links that leave the folder and things that are
no plain files by kind. Python files whose sha256 an operator has allowed are set apart as ``code``.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
import stat
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from finery_contracts.jobs import Finding
from finery_weight_validator.engine.disguise import nature_of
from finery_weight_validator.engine.findings import error

PICKLES = frozenset({
    ".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle", ".joblib", ".dill", ".pt2", ".ptc", ".ot", ".th", ".t7", ".sav",
    ".p", ".pk", ".cpkl", ".cloudpickle", ".torch", ".distcp", ".pdparams", ".pdopt", ".pdmodel", ".npy", ".npz",
    ".h5", ".hdf5", ".keras", ".pb", ".nemo", ".mar", ".model_state", ".rds",
})  # fmt: skip
CODE = frozenset({
    ".py", ".pyc", ".pyo", ".pyw", ".pyz", ".pyx", ".pyd", ".so", ".dll", ".dylib", ".sh", ".bash", ".exe", ".bat",
    ".cmd", ".ps1", ".class", ".jar", ".wasm",
})  # fmt: skip
ARCHIVES = frozenset({
    ".zip", ".tar", ".tgz", ".gz", ".bz2", ".tbz", ".tbz2", ".xz", ".txz", ".7z", ".rar", ".zst", ".tzst", ".lz4",
    ".whl", ".egg", ".lzma", ".tlz", ".lz", ".z", ".br", ".cab", ".arj", ".ace", ".cpio", ".iso", ".dmg", ".deb",
    ".rpm", ".apk",
})  # fmt: skip
KEPT_SUFFIXES = frozenset({".json", ".safetensors", ".txt", ".jinja", ".model", ".tiktoken"})
KEPT_NAMES = ("license", "licence", "readme", "notice", "use_policy", "usage")
HISTORY = ".git"
"""What git keeps beside a model that was cloned; nothing of it is looked at, taken, or reached by a library."""
MAX_FILES = 10_000
MAX_DEPTH = 8
MAX_JSON_BYTES = 64 * 2**20
MAX_CONFIG_BYTES = 2 * 2**20
"""Of config.json and generation_config.json: transformers copies every value of them many times over."""
MAX_TOKENIZER_BYTES = 128 * 2**20
_LARGEST_JSON = {
    "tokenizer.json": MAX_TOKENIZER_BYTES, "config.json": MAX_CONFIG_BYTES, "generation_config.json": MAX_CONFIG_BYTES,
}  # fmt: skip
MAX_CODE_BYTES = 2**20
MAX_TEXT_BYTES = 256 * 2**20
_HALF_SIGN = re.compile(r"\\u[dD][89a-fA-F]")
_CONVERT = (
    "convert the weights where you trust them: load them with transformers, call save_pretrained (it writes "
    "safetensors), then remove this file"
)


@dataclass(frozen=True)
class Survey:
    """What a folder holds: ``usable`` plain files of known kinds at its top by name, and the faults met on the way.

    ``code`` holds the text of Python files at its top that were allowed by checksum, ``gguf`` files that import reads.
    """

    folder: Path
    usable: dict[str, Path] = field(default_factory=dict)
    gguf: list[Path] = field(default_factory=list)
    code: dict[str, bytes] = field(default_factory=dict)
    refused_code: dict[str, Path] = field(default_factory=dict)
    findings: list[Finding] = field(default_factory=list)

    @property
    def weights(self) -> list[Path]:
        """The safetensors files, by name."""
        return [path for name, path in sorted(self.usable.items()) if path.suffix == ".safetensors"]


def survey(folder: Path, *, allowed_code: Collection[str] = ()) -> Survey:
    """Walk the folder; a path that is no folder yields one finding ``not_a_folder`` and nothing else."""
    found = Survey(folder)
    if not folder.is_dir():
        message = "this is a single file" if folder.exists() else "there is nothing here"
        remedy = "give the folder that holds config.json and the weights, not one file of it"
        found.findings.append(error("not_a_folder", folder.name, message=message, remedy=remedy))
        return found
    shared: dict[tuple[int, int], list[Path]] = {}
    for count, path in enumerate(_walk(folder, found.findings)):
        if count == MAX_FILES:
            message, remedy = f"the folder holds more than {MAX_FILES} files", "keep only the model's own files in it"
            found.findings.append(error("too_many_files", folder.name, message=message, remedy=remedy))
            break
        try:
            _look_at(path, found, shared, allowed_code=allowed_code)
        except OSError as fault:
            found.findings.append(_unreadable(path.relative_to(folder).as_posix(), fault))
    found.findings.extend(_hard_link_findings(folder, shared))
    return found


def foretold(folder: str, names: Iterable[str], *, allowed_code: Collection[str] = ()) -> Survey:
    """What names alone say of a folder that is not here yet: less than ``survey`` finds, nothing that it would not."""
    found = Survey(Path(folder))
    for name in names:
        path, at_top = Path(name), "/" not in name
        suffix = path.suffix.lower()
        if at_top and suffix == ".py" and allowed_code:
            continue
        fault = _fault_of(name, suffix)
        if fault is not None:
            found.findings.append(fault)
        elif at_top and suffix == ".gguf":
            found.gguf.append(path)
        elif at_top and _is_known(path):
            found.usable[name] = path
    return found


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object of a model folder; raises ValueError that says what is wrong, or OSError."""
    value = read_json_value(path)
    if not isinstance(value, dict):
        raise ValueError(f"it holds {type(value).__name__} instead of an object")
    return value


def read_json_value(path: Path) -> Any:
    """Any JSON value of a model folder, under limits of size and depth; raises ValueError, or OSError."""
    limit = _LARGEST_JSON.get(path.name, MAX_JSON_BYTES)
    size = path.stat().st_size
    if size > limit:
        raise ValueError(f"it has {size} bytes; at most {limit} are read")
    try:
        said = path.read_bytes().decode()
        value = json.loads(said, parse_constant=_refuse_constant, parse_float=_finite, object_pairs_hook=_said_once)
        if _HALF_SIGN.search(said):
            json.dumps(value, ensure_ascii=False).encode()
        return value
    except UnicodeEncodeError as fault:
        raise ValueError("it holds half of a surrogate pair, which is no text") from fault
    except RecursionError as fault:
        raise ValueError("it is nested too deep") from fault


def _said_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Of a key that comes twice, one library takes the first value and another the last."""
    value = dict(pairs)
    if len(value) < len(pairs):
        for key, said in pairs:
            if value[key] != said:
                raise ValueError(f"the key {key[:100]!r} stands in it twice with different values")
    return value


def _finite(text: str) -> float:
    """A number too large for 64 bits would become infinite without a word."""
    value = float(text)
    if math.isinf(value):
        raise ValueError(f"{text[:20]} is larger than any number that fits")
    return value


def _refuse_constant(text: str) -> None:
    raise ValueError(f"{text} is no JSON")


def _walk(folder: Path, findings: list[Finding], depth: int = 0) -> Iterator[Path]:
    """Every entry that is no folder, in a stable order; links are yielded, never followed."""
    try:
        with os.scandir(folder) as entries:
            found = sorted(entries, key=lambda entry: entry.name)
    except OSError as fault:
        findings.append(_unreadable(folder.name, fault))
        return
    for entry in found:
        plain = entry.is_dir(follow_symlinks=False)
        if plain and depth == 0 and entry.name == HISTORY:
            continue
        if plain and depth < MAX_DEPTH:
            yield from _walk(Path(entry.path), findings, depth + 1)
        else:
            yield Path(entry.path)


def _look_at(
    path: Path, found: Survey, shared: dict[tuple[int, int], list[Path]], *, allowed_code: Collection[str]
) -> None:
    """Sort one entry in: usable, code that was allowed, or a finding."""
    where, at_top = path.relative_to(found.folder).as_posix(), path.parent == found.folder
    about = path.lstat()
    if stat.S_ISLNK(about.st_mode):
        fault = _link_fault(path, found.folder, where)
        if fault is not None:
            found.findings.append(fault)
            return
        about = path.stat()
    if not stat.S_ISREG(about.st_mode):
        found.findings.append(_special(where))
        return
    if about.st_nlink > 1 and not path.is_symlink():
        shared.setdefault((about.st_dev, about.st_ino), []).append(path)
    suffix = path.suffix.lower()
    if at_top and suffix == ".py" and (text := _allowed_text(path, about.st_size, allowed_code)) is not None:
        found.code[path.name] = text
        return
    if at_top and suffix == ".py" and about.st_size <= MAX_CODE_BYTES:
        found.refused_code[path.name] = path
    fault = _fault_of(where, suffix, nature_of(path))
    if fault is not None:
        found.findings.append(fault)
    elif at_top and suffix == ".gguf":
        found.gguf.append(path)
    elif at_top and _is_known(path) and path.suffix != ".safetensors" and about.st_size > MAX_TEXT_BYTES:
        message = f"it has {about.st_size} bytes; at most {MAX_TEXT_BYTES} belong into any file but weights"
        found.findings.append(error("file_too_large", where, message=message, remedy="put the model's own file there"))
    elif at_top and _is_known(path):
        found.usable[path.name] = path


def _allowed_text(path: Path, size: int, allowed: Collection[str]) -> bytes | None:
    """The very bytes whose checksum stands in the list: what is used later is this, not the file read again."""
    if not allowed or size > MAX_CODE_BYTES:
        return None
    text = path.read_bytes()
    return text if hashlib.sha256(text).hexdigest() in allowed else None


def _fault_of(where: str, suffix: str, nature: str | None = None) -> Finding | None:
    """By its name, and by what its bytes are (``disguise``), as far as that is known."""
    if suffix in CODE or nature == "code":
        return error(
            "remote_code",
            where,
            message="it is code; nothing of a model folder is run",
            remedy="remove it, and use an architecture that transformers knows by itself, or let an operator allow "
            "its sha256",
        )
    if suffix in PICKLES or nature in ("pickle", "foreign"):
        told = "" if suffix in PICKLES else f", whatever its name {suffix or 'without ending'} says"
        message = f"it may be a pickle, which can run code when opened; it was not opened{told}"
        return error("pickled_weights", where, message=message, remedy=_CONVERT)
    if suffix in ARCHIVES or nature == "archive":
        message = "it is an archive, or carries one; nothing packed is opened"
        return error("archive_refused", where, message=message, remedy="unpack it where you trust it, and remove it")
    if nature == "pointer":
        message = "it is a pointer of Git LFS; the file itself was never downloaded"
        return error("file_not_downloaded", where, message=message, remedy="run git lfs pull, or download the file")
    return None


def _special(where: str) -> Finding:
    message = "it is no plain file (a device, pipe, socket, or a folder too deep)"
    return error("special_file", where, message=message, remedy="remove it: a model is made of plain files")


def _unreadable(where: str, fault: OSError) -> Finding:
    message = f"it cannot be read: {fault.strerror or fault}"
    return error("file_unreadable", where, message=message, remedy="correct its permissions, or remove it")


def _hard_link_findings(folder: Path, shared: dict[tuple[int, int], list[Path]]) -> list[Finding]:
    """A file whose other names lie outside the folder: it may be somebody else's, and may change at any time."""
    findings = []
    for paths in shared.values():
        if paths[0].stat().st_nlink > len(paths):
            where = paths[0].relative_to(folder).as_posix()
            message = "it is a hard link to a file that has another name outside the folder"
            findings.append(error("path_escape", where, message=message, remedy="put a copy of the file there"))
    return findings


def _link_fault(path: Path, folder: Path, where: str) -> Finding | None:
    """A link is fine as long as its end is a file in the same folder."""
    try:
        inside = path.resolve(strict=True).is_relative_to(folder.resolve())
    except (OSError, RuntimeError):
        inside = False
    if inside:
        return None
    message = "it is a link that leads out of the folder or nowhere"
    return error("path_escape", where, message=message, remedy="replace the link by the file itself")


def _is_known(path: Path) -> bool:
    return path.suffix in KEPT_SUFFIXES or path.name.lower().startswith(KEPT_NAMES)
