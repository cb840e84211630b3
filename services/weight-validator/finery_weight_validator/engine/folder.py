"""Looks over a model folder without opening its weights: what may be used, and what is refused unopened.

Pickles, Python, links that leave the folder and things that are no plain files are refused by name and kind alone.
"""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from finery_contracts.jobs import Finding
from finery_weight_validator.engine.findings import error

PICKLES = frozenset({".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle", ".joblib", ".dill"})
CODE = frozenset({".py", ".pyc", ".pyd", ".so", ".dll", ".dylib", ".sh"})
KEPT_SUFFIXES = frozenset({".json", ".safetensors", ".txt", ".jinja", ".model", ".tiktoken"})
KEPT_NAMES = ("license", "licence", "readme", "notice", "use_policy", "usage")
MAX_FILES = 10_000
MAX_DEPTH = 8
MAX_JSON_BYTES = 64 * 2**20
MAX_TOKENIZER_BYTES = 512 * 2**20


@dataclass(frozen=True)
class Survey:
    """What a folder holds: ``usable`` plain files of known kinds at its top by name, and the faults met on the way."""

    folder: Path
    usable: dict[str, Path] = field(default_factory=dict)
    findings: list[Finding] = field(default_factory=list)

    @property
    def weights(self) -> list[Path]:
        """The safetensors files, by name."""
        return [path for name, path in sorted(self.usable.items()) if path.suffix == ".safetensors"]


def survey(folder: Path) -> Survey:
    """Walk the folder; a path that is no folder yields one finding ``not_a_folder`` and nothing else."""
    found = Survey(folder)
    if not folder.is_dir():
        found.findings.append(
            error(
                "not_a_folder",
                folder.name,
                message="this is a single file" if folder.exists() else "there is nothing here",
                remedy="give the folder that holds config.json and the weights, not one file of it",
            )
        )
        return found
    for count, path in enumerate(_walk(folder)):
        if count == MAX_FILES:
            found.findings.append(
                error(
                    "too_many_files",
                    folder.name,
                    message=f"the folder holds more than {MAX_FILES} files",
                    remedy="keep only the model's own files in it",
                )
            )
            break
        fault = _fault_of(path, folder)
        if fault is not None:
            found.findings.append(fault)
        elif path.parent == folder and _is_known(path):
            found.usable[path.name] = path
    return found


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object of a model folder; raises ValueError that says what is wrong."""
    limit = MAX_TOKENIZER_BYTES if path.name == "tokenizer.json" else MAX_JSON_BYTES
    size = path.stat().st_size
    if size > limit:
        raise ValueError(f"it has {size} bytes; at most {limit} are read")
    try:
        value = json.loads(path.read_bytes())
    except RecursionError as fault:
        raise ValueError("it is nested too deep") from fault
    if not isinstance(value, dict):
        raise ValueError(f"it holds {type(value).__name__} instead of an object")
    return value


def _walk(folder: Path, depth: int = 0) -> Iterator[Path]:
    """Every entry that is no folder, in a stable order; links are yielded, never followed."""
    with os.scandir(folder) as entries:
        found = sorted(entries, key=lambda entry: entry.name)
    for entry in found:
        if entry.is_dir(follow_symlinks=False) and depth < MAX_DEPTH:
            yield from _walk(Path(entry.path), depth + 1)
        else:
            yield Path(entry.path)


def _fault_of(path: Path, folder: Path) -> Finding | None:
    where = path.relative_to(folder).as_posix()
    mode = path.lstat().st_mode
    if stat.S_ISLNK(mode):
        fault = _link_fault(path, folder, where)
        if fault is not None:
            return fault
        mode = path.stat().st_mode
    if not stat.S_ISREG(mode):
        return error(
            "special_file",
            where,
            message="it is no plain file (a device, pipe, socket, or a folder too deep)",
            remedy="remove it: a model is made of plain files",
        )
    if path.suffix.lower() in CODE:
        return error(
            "remote_code",
            where,
            message="it is code; nothing of a model folder is run",
            remedy="remove it, and use an architecture that transformers knows by itself",
        )
    if path.suffix.lower() in PICKLES:
        return error(
            "pickled_weights",
            where,
            message="it may be a pickle, which can run code when opened; it was not opened",
            remedy="convert the weights where you trust them: load them with transformers, call save_pretrained (it "
            "writes safetensors), then remove this file",
        )
    return None


def _link_fault(path: Path, folder: Path, where: str) -> Finding | None:
    """A link is fine as long as its end is a file in the same folder."""
    try:
        inside = path.resolve(strict=True).is_relative_to(folder.resolve())
    except (OSError, RuntimeError):
        inside = False
    if inside:
        return None
    return error(
        "path_escape",
        where,
        message="it is a link that leads out of the folder or nowhere",
        remedy="replace the link by the file itself",
    )


def _is_known(path: Path) -> bool:
    return path.suffix in KEPT_SUFFIXES or path.name.lower().startswith(KEPT_NAMES)
