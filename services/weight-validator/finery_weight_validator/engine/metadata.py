"""Judges what a folder says about its model: config.json, generation_config.json, quantisation, code, licence.

Reads JSON under size limits and nothing else; the weights play no part here.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

from finery_contracts.jobs import Finding, ValidateSpec
from finery_weight_validator.engine import published, structure
from finery_weight_validator.engine.findings import error, info, warning
from finery_weight_validator.engine.folder import Survey, read_json, read_json_value

_WHOLE, _ANY = (int,), (int, float)
_GENERATION_VALUES: Mapping[str, tuple[tuple[type, ...], float, float]] = {
    "temperature": (_ANY, 0, math.inf), "top_p": (_ANY, 0, 1), "top_k": (_WHOLE, -1, math.inf),
    "repetition_penalty": (_ANY, 0, math.inf), "max_length": (_WHOLE, 1, math.inf),
    "max_new_tokens": (_WHOLE, 1, math.inf), "num_beams": (_WHOLE, 1, 1_000),
    "num_return_sequences": (_WHOLE, 1, 1_000),
}  # fmt: skip
"""Kinds, least and most. top_k of 0, and of -1 where other engines wrote it, means that it is off."""
_SAMPLING_KEYS = ("temperature", "top_p", "top_k")
_ADAPTER = "adapter_config.json"
_LICENCE_NAMES = ("license", "licence", "notice", "use_policy")
_CARD_BYTES = 2**20
_JUDGED_ELSEWHERE = frozenset({
    "config.json", "generation_config.json", "model.safetensors.index.json", "tokenizer.json", "vocab.json",
})  # fmt: skip
"""Read by a stage of their own, or large and read by the tokenizer's own library under limits."""


def missing_parts(found: Survey) -> list[Finding]:
    """``config_unreadable`` and ``weights_missing``."""
    findings = []
    if "config.json" not in found.usable:
        findings.append(_config_unreadable("the folder holds no config.json"))
    if not found.weights:
        remedy = "add the weights as safetensors (transformers' save_pretrained writes it)"
        if found.gguf:
            remedy = "import the GGUF file first: the conversion to safetensors is a task of its own"
        message = "the folder holds no .safetensors file"
        findings.append(error("weights_missing", found.folder.name, message=message, remedy=remedy))
    return findings


def code_findings(found: Survey) -> list[Finding]:
    """``remote_code`` for each JSON file that sends its loader to Python code which nobody has allowed, and
    ``adapter_not_merged`` for one that sends it to weights elsewhere.
    """
    findings = []
    for name in sorted(found.usable):
        content = _object_or_none(found, name) if name.endswith("config.json") else None
        if content is None:
            continue
        for key in ("auto_map", "custom_generate", "custom_pipelines"):
            if content.get(key) and not _is_allowed(content[key], found):
                findings.append(
                    error(
                        "remote_code",
                        f"{name}: {key}",
                        message="it asks for Python code that comes with the model, which is never run",
                        remedy="remove the key, and use an architecture that transformers knows by itself",
                    )
                )
    if _ADAPTER in found.usable:
        message = "loaders take it for an adapter, and load the base that it names instead of these weights"
        remedy = "merge the adapter into its base and save the whole model, or remove this file"
        findings.append(error("adapter_not_merged", _ADAPTER, message=message, remedy=remedy))
    return findings


def config_findings(found: Survey, spec: ValidateSpec) -> tuple[dict[str, Any] | None, list[Finding]]:
    """config.json or None, and ``config_unreadable``, ``structure_differs``, ``reference_config_unreadable``, …"""
    config: dict[str, Any] | None = None
    findings = published.reference_findings(spec.published_config)
    if "config.json" in found.usable:
        try:
            config = read_json(found.usable["config.json"])
        except (OSError, ValueError) as fault:
            findings.append(_config_unreadable(f"it cannot be read: {fault}"))
    findings += published.compare(config, None if findings else spec.published_config)
    if config is None:
        return None, [*findings, *_quantisation_findings({}, spec)]
    return config, [*findings, *_architecture_findings(config, spec), *_quantisation_findings(config, spec)]


def generation_findings(found: Survey, rows: object) -> list[Finding]:
    """``generation_config_not_json``, ``do_sample_missing``, ``generation_value_wrong`` and ``token_id_outside``.

    ``rows`` is config.json's ``vocab_size``; None when nobody knows it.
    """
    name = "generation_config.json"
    if name not in found.usable:
        return []
    try:
        content = read_json(found.usable[name])
    except (OSError, ValueError) as fault:
        remedy = "put the model's own file there, or remove it"
        return [error("generation_config_not_json", name, message=f"it cannot be read: {fault}", remedy=remedy)]
    findings = [*_value_findings(name, content), *structure.token_findings(content, rows, name)]
    stated = [key for key in _SAMPLING_KEYS if content.get(key) is not None]
    if not stated or content.get("do_sample") is True:
        return findings
    return [
        *findings,
        error(
            "do_sample_missing",
            f"{name}: do_sample",
            message=f"it is not true, although {', '.join(stated)} is set; sampling would silently not happen",
            remedy=f"set do_sample to true, or remove {', '.join(stated)}",
        ),
    ]


def json_findings(found: Survey) -> list[Finding]:
    """``file_not_json`` for the other files that say they are JSON: what a library would stumble over later."""
    findings = []
    for name, path in found.usable.items():
        if path.suffix != ".json" or name in _JUDGED_ELSEWHERE:
            continue
        try:
            read_json_value(path)
        except (OSError, ValueError) as fault:
            remedy = "put the model's own file there, or remove it"
            findings.append(error("file_not_json", name, message=f"it cannot be read: {fault}", remedy=remedy))
    return findings


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


def _value_findings(name: str, content: dict[str, Any]) -> list[Finding]:
    findings = list[Finding]()
    for key, (kinds, least, most) in _GENERATION_VALUES.items():
        value = content.get(key)
        if value is not None and not (type(value) in kinds and least <= value <= most):
            message = f"{repr(value)[:40]} is no {'whole number' if float not in kinds else 'number'} from {least:g}"
            message += f" to {most:g}" if most < math.inf else " up"
            remedy = "put the model's own generation_config.json there, or remove the key"
            findings.append(error("generation_value_wrong", f"{name}: {key}", message=message, remedy=remedy))
    return findings


def _architecture_findings(config: dict[str, Any], spec: ValidateSpec) -> list[Finding]:
    findings, model_type = [], config.get("model_type")
    if not isinstance(model_type, str) or not model_type:
        remedy = "put the model's own config.json there"
        message = "the key is missing, so neither the model's metadata nor its template can be chosen"
        findings.append(error("metadata_not_chosen", "config.json: model_type", message=message, remedy=remedy))
        message = "the key is missing, so the architecture is not known"
        findings.append(_structure("model_type", message, remedy=remedy, found=model_type))
    elif spec.expected_architecture not in (None, model_type) and "model_type" not in (spec.published_config or {}):
        message = f"it is {model_type[:100]!r}, the chosen model is {spec.expected_architecture!r}"
        remedy = "choose the entry of the gallery that fits these weights, or the weights that fit the entry"
        values = {"published": spec.expected_architecture, "found": model_type[:100]}
        findings.append(_structure("model_type", message, remedy=remedy, **values))
    if not config.get("architectures"):
        message = "the key is missing; serving engines choose the model's class by it"
        remedy = 'add it, such as ["LlamaForCausalLM"]'
        findings.append(warning("structure_differs", "config.json: architectures", message=message, remedy=remedy))
    return findings


def _structure(key: str, message: str, *, remedy: str, **values: Any) -> Finding:
    return error("structure_differs", f"config.json: {key}", message=message, remedy=remedy, key=key, **values)


def _config_unreadable(message: str) -> Finding:
    remedy = "put the config.json that belongs to the weights there"
    return error("config_unreadable", "config.json", message=message, remedy=remedy)


def _quantisation_findings(config: dict[str, Any], spec: ValidateSpec) -> list[Finding]:
    stated, where = config.get("quantization_config"), "config.json: quantization_config"
    if stated is not None and not isinstance(stated, dict):
        return [_structure("quantization_config", "it is no object", remedy="put the model's own config.json there")]
    expected = spec.expected_quantised
    if expected is None and "quantization_config" in (spec.published_config or {}):
        expected = bool((spec.published_config or {})["quantization_config"])
    if expected is True and not stated:
        message = "the model is a quantised one, but the key is missing"
        remedy = "put the config.json of the quantised model there"
        return [error("quantization_config_missing", where, message=message, remedy=remedy)]
    if expected is False and stated:
        message = "it is there, but the model is not a quantised one"
        remedy = "remove it if the weights are not quantised, else choose the quantised entry of the gallery"
        return [error("quantization_config_unexpected", where, message=message, remedy=remedy)]
    return []


def _is_allowed(stated: Any, found: Survey) -> bool:
    """Every class that is named comes from a file at the folder's top that was allowed by its checksum."""
    entries = list(stated.values()) if isinstance(stated, dict) else [stated]
    flat = [name for entry in entries for name in (entry if isinstance(entry, list) else [entry]) if name is not None]
    return bool(flat) and all(
        isinstance(name, str) and re.fullmatch(r"\w+\.\w+", name) and f"{name.split('.')[0]}.py" in found.code
        for name in flat
    )


def _object_or_none(found: Survey, name: str) -> dict[str, Any] | None:
    try:
        return read_json(found.usable[name])
    except (KeyError, OSError, ValueError):
        return None
