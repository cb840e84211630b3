"""Finds which files a loader would take as the weights, and whether the index of a sharded model is complete."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path

from finery_contracts.jobs import Finding
from finery_weight_validator.engine.findings import error, info
from finery_weight_validator.engine.folder import Survey, read_json
from finery_weight_validator.engine.headers import Tensor, read_tensors

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
_PLAIN_NAME = re.compile(r"[^/\\\x00-\x1f]{1,250}\.safetensors")
_REMEDY = "save the model again with save_pretrained, or download all parts and the index again"


@dataclass(frozen=True)
class Weights:
    """The weights as a loader sees them; ``sound`` files have headers without fault."""

    tensors: list[Tensor] = field(default_factory=list)
    files: list[Path] = field(default_factory=list)
    sound: set[str] = field(default_factory=set)
    findings: list[Finding] = field(default_factory=list)


def read_weights(found: Survey) -> Weights:
    """Headers of every file that a loader would read; faults are in ``findings``."""
    if not found.weights:
        return Weights()
    weights = Weights()
    index, reason = _read_index(found)
    named = _named_by_index(found, index, weights.findings)
    for path in found.weights:
        if named is not None and path.name not in named:
            message = "a loader would not read this file: the index (or model.safetensors) stands for the model"
            weights.findings.append(info("file_not_used", path.name, message=message, remedy="remove it to save space"))
            continue
        tensors, faults = read_tensors(path)
        weights.findings.extend(faults)
        weights.tensors.extend(tensors)
        weights.files.append(path)
        if not faults:
            weights.sound.add(path.name)
    weights.findings.extend(_twice(weights))
    if SINGLE not in found.usable and INDEX in found.usable:
        weights.findings.extend([_incomplete(INDEX, reason)] if reason else _index_findings(found, index, weights))
    return weights


def _read_index(found: Survey) -> tuple[dict[str, object], str]:
    """The index, or an empty one and why it cannot be used."""
    if INDEX not in found.usable:
        return {}, ""
    try:
        index = read_json(found.usable[INDEX])
    except (OSError, ValueError) as fault:
        return {}, f"it cannot be read: {fault}"
    if not isinstance(index.get("weight_map"), dict) or not index["weight_map"]:
        return {}, "it holds no weight_map of tensor to file"
    return index, ""


def _named_by_index(found: Survey, index: dict[str, object], findings: list[Finding]) -> set[str] | None:
    """Names of the files that make the model; None: all of them, because nothing says which."""
    if SINGLE in found.usable:
        return {SINGLE}
    if INDEX in found.usable:
        return {name for name in _weight_map(index).values() if isinstance(name, str)} or None
    many = len(found.weights) > 1
    findings.append(
        error(
            "index_incomplete",
            INDEX if many else found.weights[0].name,
            message=f"there are {len(found.weights)} parts and no {INDEX}" if many else f"it is not named {SINGLE}",
            remedy=_REMEDY if many else f"rename it to {SINGLE}",
        )
    )
    return None


def _twice(weights: Weights) -> list[Finding]:
    findings: list[Finding] = []
    places: dict[str, str] = {}
    for tensor in weights.tensors:
        if tensor.name in places:
            message = f"it stands in {places[tensor.name]} too"
            findings.append(error("tensor_surplus", f"{tensor.file}: {tensor.name}", message=message, remedy=_REMEDY))
        places[tensor.name] = tensor.file
    return findings


def _index_findings(found: Survey, index: dict[str, object], weights: Weights) -> list[Finding]:
    findings = _metadata_findings(index, weights)
    stated, places = _weight_map(index), {tensor.name: tensor.file for tensor in weights.tensors}
    for name in sorted({file if isinstance(file, str) else repr(file) for file in stated.values()}):
        if not _PLAIN_NAME.fullmatch(name):
            findings.append(_incomplete(f"{INDEX}: {name}", "it names no plain .safetensors file of this folder"))
        elif name not in found.usable:
            findings.append(_incomplete(f"{INDEX}: {name}", "the index names this file, the folder does not hold it"))
    for name, file in stated.items():
        if isinstance(file, str) and file in weights.sound and places.get(name) != file:
            findings.append(_incomplete(f"{INDEX}: {name}", f"the index places it in {file}, which does not hold it"))
    for name, file in places.items():
        if name not in stated:
            findings.append(_incomplete(f"{file}: {name}", "the index does not name this tensor"))
    return findings


def _metadata_findings(index: dict[str, object], weights: Weights) -> list[Finding]:
    said = index.get("metadata")
    if not isinstance(said, dict):
        return [_incomplete(f"{INDEX}: metadata", "it lacks metadata, without which transformers stops")]
    total, there = said.get("total_size"), sum(tensor.end - tensor.begin for tensor in weights.tensors)
    if total is None or total == there or len(weights.sound) < len(weights.files):
        return []
    message = f"it says {str(total)[:40]} bytes, the tensors of the parts have {there}"
    return [info("total_size_differs", f"{INDEX}: metadata.total_size", message=message, remedy=_REMEDY)]


def _weight_map(index: dict[str, object]) -> dict[str, object]:
    stated = index.get("weight_map")
    return stated if isinstance(stated, dict) else {}


def _incomplete(where: str, message: str) -> Finding:
    return error("index_incomplete", where, message=message, remedy=_REMEDY)
