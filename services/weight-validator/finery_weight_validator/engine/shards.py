"""Finds which files a loader would take as the weights, and whether the index of a sharded model is complete."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from finery_contracts.jobs import Finding
from finery_weight_validator.engine.findings import error, info
from finery_weight_validator.engine.folder import Survey, read_json
from finery_weight_validator.engine.headers import Tensor, read_tensors

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
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
    named = _named_by_index(found, weights.findings)
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
    weights.findings.extend(_index_findings(found, weights))
    return weights


def _named_by_index(found: Survey, findings: list[Finding]) -> set[str] | None:
    """Names of the files that make the model; None: all of them, because nothing says which."""
    if SINGLE in found.usable:
        return {SINGLE}
    if INDEX in found.usable:
        return {name for name in _weight_map(found).values() if isinstance(name, str)} or None
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


def _index_findings(found: Survey, weights: Weights) -> list[Finding]:
    findings, places = [], {}
    for tensor in weights.tensors:
        if tensor.name in places:
            message = f"it stands in {places[tensor.name]} too"
            findings.append(error("tensor_surplus", f"{tensor.file}: {tensor.name}", message=message, remedy=_REMEDY))
        places[tensor.name] = tensor.file
    if SINGLE in found.usable or INDEX not in found.usable:
        return findings
    stated = _weight_map(found)
    if stated and not isinstance(_index_of(found).get("metadata"), dict):
        findings.append(_incomplete(f"{INDEX}: metadata", "it lacks metadata, without which transformers stops"))
    if not stated:
        return [*findings, _incomplete(INDEX, "it holds no weight_map of tensor to file")]
    for name in sorted({str(file) for file in stated.values()} - found.usable.keys()):
        findings.append(_incomplete(f"{INDEX}: {name}", "the index names this file, the folder does not hold it"))
    for name, file in stated.items():
        if file in weights.sound and places.get(name) != file:
            findings.append(_incomplete(f"{INDEX}: {name}", f"the index places it in {file}, which does not hold it"))
    for name, file in places.items():
        if name not in stated:
            findings.append(_incomplete(f"{file}: {name}", "the index does not name this tensor"))
    return findings


def _weight_map(found: Survey) -> dict[str, object]:
    stated = _index_of(found).get("weight_map")
    return stated if isinstance(stated, dict) else {}


def _index_of(found: Survey) -> dict[str, object]:
    try:
        return read_json(found.usable[INDEX])
    except (OSError, ValueError):
        return {}


def _incomplete(where: str, message: str) -> Finding:
    return error("index_incomplete", where, message=message, remedy=_REMEDY)
