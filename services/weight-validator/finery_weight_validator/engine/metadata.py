"""Judges what a folder says about its model: config.json, generation_config.json, quantisation, code, licence.

Reads JSON under size limits and nothing else; the weights play no part here.
"""

from __future__ import annotations

import re
from typing import Any

from finery_contracts.jobs import Finding, ValidateSpec
from finery_weight_validator.engine.findings import error, info, warning
from finery_weight_validator.engine.folder import Survey, read_json

_SAMPLING_KEYS = ("temperature", "top_p", "top_k")
_LICENCE_NAMES = ("license", "licence", "notice", "use_policy")
_CARD_BYTES = 2**20


def missing_parts(found: Survey) -> list[Finding]:
    """``config_missing`` and ``weights_missing``."""
    findings = []
    if "config.json" not in found.usable:
        findings.append(
            error(
                "config_missing",
                "config.json",
                message="the folder holds no config.json",
                remedy="add the config.json that belongs to the weights",
            )
        )
    if not found.weights:
        findings.append(
            error(
                "weights_missing",
                found.folder.name,
                message="the folder holds no .safetensors file",
                remedy="add the weights as safetensors (transformers' save_pretrained writes it)",
            )
        )
    return findings


def code_findings(found: Survey) -> list[Finding]:
    """``remote_code`` for each JSON file that sends its loader to Python code."""
    findings = []
    for name in ("config.json", "tokenizer_config.json", "generation_config.json"):
        content = _object_or_none(found, name)
        if content and (content.get("auto_map") or content.get("custom_generate")):
            findings.append(
                error(
                    "remote_code",
                    f"{name}: auto_map",
                    message="it asks for Python code that comes with the model, which is never run",
                    remedy="remove the key, and use an architecture that transformers knows by itself",
                )
            )
    return findings


def config_findings(found: Survey, spec: ValidateSpec) -> tuple[dict[str, Any] | None, list[Finding]]:
    """config.json, or None when it cannot be used; ``config_not_json``, ``structure_*`` and quantisation faults."""
    if "config.json" not in found.usable:
        return None, []
    try:
        config = read_json(found.usable["config.json"])
    except (OSError, ValueError) as fault:
        remedy = "put the model's own config.json there"
        return None, [error("config_not_json", "config.json", message=f"it cannot be read: {fault}", remedy=remedy)]
    return config, [*_architecture_findings(config, spec), *_quantisation_findings(config, spec)]


def generation_findings(found: Survey) -> list[Finding]:
    """``generation_config_not_json`` and ``do_sample_missing``."""
    name = "generation_config.json"
    if name not in found.usable:
        return []
    try:
        content = read_json(found.usable[name])
    except (OSError, ValueError) as fault:
        remedy = "put the model's own file there, or remove it"
        return [error("generation_config_not_json", name, message=f"it cannot be read: {fault}", remedy=remedy)]
    stated = [key for key in _SAMPLING_KEYS if content.get(key) is not None]
    if not stated or content.get("do_sample") is True:
        return []
    return [
        error(
            "do_sample_missing",
            f"{name}: do_sample",
            message=f"it is not true, although {', '.join(stated)} is set; sampling would silently not happen",
            remedy=f"set do_sample to true, or remove {', '.join(stated)}",
        )
    ]


def licence_findings(found: Survey) -> list[Finding]:
    """``licence_missing`` when neither a licence file nor the model card's front matter names one."""
    if any(name.lower().startswith(_LICENCE_NAMES) for name in found.usable):
        return []
    for name, path in found.usable.items():
        if name.lower().startswith("readme"):
            with path.open("rb") as file:
                card = file.read(_CARD_BYTES).decode("utf-8", errors="replace")
            if re.search(r"\A---\r?\n(?:(?!---).*\n)*?license:\s*\S", card):
                return []
    remedy = "add the LICENSE file, or `license:` to the front matter of README.md"
    return [info("licence_missing", found.folder.name, message="nothing says under which licence it is", remedy=remedy)]


def _architecture_findings(config: dict[str, Any], spec: ValidateSpec) -> list[Finding]:
    findings, model_type = [], config.get("model_type")
    if not isinstance(model_type, str) or not model_type:
        findings.append(
            error(
                "structure_key_missing",
                "config.json: model_type",
                message="the key is missing, so the architecture is not known",
                remedy="put the model's own config.json there",
            )
        )
    elif spec.expected_architecture and model_type != spec.expected_architecture:
        findings.append(
            error(
                "structure_differs",
                "config.json: model_type",
                message=f"it is {model_type!r}, the chosen model is {spec.expected_architecture!r}",
                remedy="choose the entry of the gallery that fits these weights, or the weights that fit the entry",
            )
        )
    if not config.get("architectures"):
        findings.append(
            warning(
                "structure_key_missing",
                "config.json: architectures",
                message="the key is missing; serving engines choose the model's class by it",
                remedy='add it, such as ["LlamaForCausalLM"]',
            )
        )
    return findings


def _quantisation_findings(config: dict[str, Any], spec: ValidateSpec) -> list[Finding]:
    present, where = bool(config.get("quantization_config")), "config.json: quantization_config"
    if spec.expected_quantised is True and not present:
        message, remedy = (
            "the model is a quantised one, but the key is missing",
            "put the quantised model's config there",
        )
        return [error("quantization_config_missing", where, message=message, remedy=remedy)]
    if spec.expected_quantised is False and present:
        message = "it is there, but the model is not a quantised one"
        remedy = "remove it if the weights are not quantised, else choose the quantised entry of the gallery"
        return [error("quantization_config_unexpected", where, message=message, remedy=remedy)]
    return []


def _object_or_none(found: Survey, name: str) -> dict[str, Any] | None:
    try:
        return read_json(found.usable[name])
    except (KeyError, OSError, ValueError):
        return None
