"""What a model is made of, for machines: a CycloneDX 1.6 bill of materials with model card, base, data and hashes.

Written as JSON: the CycloneDX library for Python has no model cards yet. Tests validate it against the official schema.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Mapping
from typing import Any

from finery_contracts.datasets import DatasetView
from finery_contracts.models import ModelView
from finery_studio.models.card import Facts

SCHEMA = "http://cyclonedx.org/schema/bom-1.6.schema.json"


def bill(facts: Facts, files: Mapping[str, str]) -> str:
    """The text of ``bom.cdx.json``. ``files``: SHA-256 in hex by name."""
    model = facts.model
    inputs = [*([_model(facts.base)] if facts.base else []), *(_dataset(view) for view in facts.datasets)]
    document = {
        "$schema": SCHEMA, "bomFormat": "CycloneDX", "specVersion": "1.6", "version": 1,
        "serialNumber": f"urn:uuid:{uuid.uuid5(uuid.NAMESPACE_URL, f'finery:{model.project}:{model.id}')}",
        "metadata": {
            "timestamp": model.created_at.isoformat(),
            "component": {**_model(model), **_licence(facts.licence), **_pedigree(model),
                          "modelCard": _model_card(facts),
                          "components": [_file(model.id, name, files[name]) for name in sorted(files)]},
        },
        "components": inputs,
        "dependencies": [
            {"ref": model.id, "dependsOn": [part["bom-ref"] for part in inputs]},
            *({"ref": part["bom-ref"]} for part in inputs),
        ],
    }  # fmt: skip
    return json.dumps(document, indent=1, ensure_ascii=False) + "\n"


def _model(view: ModelView) -> dict[str, Any]:
    digest = [{"alg": "SHA-256", "content": view.certificate.content}] if view.certificate else []
    return {
        "type": "machine-learning-model", "bom-ref": view.id, "name": view.name, "version": str(view.number),
        **({"hashes": digest} if digest else {}),
    }  # fmt: skip


def _dataset(view: DatasetView) -> dict[str, Any]:
    digest = [{"alg": "SHA-256", "content": view.content_sha256}] if view.content_sha256 else []
    told = {"finery:records": str(view.records), "finery:format": view.format or ""}
    properties = [{"name": name, "value": value} for name, value in told.items()]
    return {
        "type": "data", "bom-ref": view.id, "name": view.name, **({"hashes": digest} if digest else {}),
        "data": [{"type": "dataset", "name": view.name, "contents": {"properties": properties}}],
    }  # fmt: skip


def _model_card(facts: Facts) -> dict[str, Any]:
    model = facts.model
    parameters: dict[str, Any] = {"task": "text-generation"}
    if facts.task is not None:
        parameters["approach"] = {"type": "supervised"}
    if model.family:
        parameters["architectureFamily"] = model.family
    if facts.architecture:
        parameters["modelArchitecture"] = facts.architecture
    if facts.datasets:
        parameters["datasets"] = [{"ref": view.id} for view in facts.datasets]
    told: dict[str, Any] = {"bom-ref": f"{model.id}-card", "modelParameters": parameters}
    if facts.metrics:
        metrics = [{"type": name, "value": f"{value:.6g}"} for name, value in sorted(facts.metrics.items())]
        told["quantitativeAnalysis"] = {"performanceMetrics": metrics}
    if facts.parameters:
        told["properties"] = [
            {"name": f"finery:{name}", "value": str(value)} for name, value in sorted(facts.parameters.items())
        ]
    return told


def _pedigree(model: ModelView) -> dict[str, Any]:
    """The repairs that were agreed to, each as a patch with its diff."""
    if not model.repairs:
        return {}
    origin = model.lineage.get("repaired_from")
    told = [f"{made.id}: {made.reason} ({made.sha256_before} -> {made.sha256_after})" for made in model.repairs]
    patches = [
        {"type": "unofficial", "diff": {"text": {"contentType": "text/x-diff", "content": made.diff}}}
        for made in model.repairs
    ]
    notes = "\n".join([*([f"repaired copy of {origin}"] if origin else []), *told])
    return {"pedigree": {"patches": patches, "notes": notes}}


def _licence(name: str | None) -> dict[str, Any]:
    return {"licenses": [{"license": {"name": name}}]} if name else {}


def _file(model_id: str, name: str, digest: str) -> dict[str, Any]:
    hashed = [{"alg": "SHA-256", "content": digest}]
    return {"type": "file", "bom-ref": f"{model_id}/{name}", "name": name, "hashes": hashed}
