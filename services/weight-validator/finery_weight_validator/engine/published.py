"""Compares a folder's config.json with the one that was published for its gallery entry, key by key.

It judges keys that describe the structure and leaves out what changes with a library's version or a run. JSON
values in, findings out; it reads nothing.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from finery_contracts.jobs import Finding
from finery_weight_validator.engine.findings import error

_NO_STRUCTURE = frozenset({
    "transformers_version", "_name_or_path", "torch_dtype", "dtype", "use_cache", "auto_map", "_attn_implementation",
    "quantization_config", "initializer_range",
})  # fmt: skip
_OLD_PLACES: Mapping[str, tuple[tuple[str, ...], ...]] = {
    "rope_theta": (("rope_parameters", "rope_theta"), ("rope_parameters", "full_attention", "rope_theta")),
    "rope_scaling": (("rope_parameters",),),
    "rope_local_base_freq": (("rope_parameters", "sliding_attention", "rope_theta"),),
    "partial_rotary_factor": (("rope_parameters", "partial_rotary_factor"),),
    "num_experts": (("num_local_experts",),),
}
"""Where transformers 5 writes what earlier ones kept at the top of config.json, the first that is there."""
_REMEDY = "use the published config.json of this model, or choose the gallery entry that these weights belong to"
_SHOWN = 200
_SINGLE_PRECISION = 1e-6
"""GGUF keeps 32 bits of a number: 1e-5 comes back as 9.999999747378752e-06, which is the same."""


def reference_findings(reference: Mapping[str, Any] | None) -> list[Finding]:
    """``reference_config_unreadable`` when the gallery's own copy cannot be compared with."""
    if reference is None:
        return []
    reason = None
    if not reference:
        reason = "it is empty"
    elif not isinstance(reference.get("model_type", ""), str):
        reason = "its model_type is no text"
    elif not reference.keys() - _NO_STRUCTURE - {"model_type", "architectures"}:
        reason = "it holds no key that describes a structure"
    if reason is None:
        return []
    return [
        error(
            "reference_config_unreadable",
            "the gallery's published_config",
            message=f"the reference config cannot be read: {reason}; the structure was not compared with it",
            remedy="correct the gallery entry: it takes the structure keys of the model's published config.json",
        )
    ]


def compare(config: Mapping[str, Any] | None, reference: Mapping[str, Any] | None) -> list[Finding]:
    """One ``structure_differs`` for each published key that is missing or different; its ``data`` holds both values."""
    if reference is None:
        return []
    wanted = {key: value for key, value in reference.items() if key not in _NO_STRUCTURE and value is not None}
    if config is None:
        message = f"without config.json these keys are missing: {', '.join(sorted(wanted))}"
        return [error("structure_differs", "config.json", message=message, remedy=_REMEDY, key="*", published=wanted)]
    findings = []
    for key, value in wanted.items():
        held = _value_of(config, key)
        if held is None:
            message = f"the key is missing; it was published as {_shown(value)}"
        elif not _same(held, value):
            message = f"it is {_shown(held)}, it was published as {_shown(value)}"
        else:
            continue
        data = {"key": key, "published": value, "found": held if len(str(held)) <= _SHOWN else _shown(held)}
        findings.append(error("structure_differs", f"config.json: {key}", message=message, remedy=_REMEDY, **data))
    return findings


def _value_of(config: Mapping[str, Any], key: str) -> Any:
    if config.get(key) is not None or key not in _OLD_PLACES:
        return config.get(key)
    for place in _OLD_PLACES[key]:
        value: Any = config
        for step in place:
            value = value.get(step) if isinstance(value, Mapping) else None
        if value is not None:
            return value
    return None


def _same(held: Any, published: Any) -> bool:
    """Equal as JSON, to single precision: 1e6 is 1000000, but true is not 1; of an object, the published keys count."""
    if isinstance(held, bool) or isinstance(published, bool):
        return held is published
    if isinstance(published, Mapping):
        names = {"type": "rope_type"}  # the same thing under its earlier name
        return isinstance(held, Mapping) and all(
            _same(held.get(key, held.get(names.get(key, key))), value) for key, value in published.items()
        )
    if isinstance(published, list):
        return isinstance(held, list) and len(held) == len(published) and all(map(_same, held, published))
    if isinstance(held, int | float) and isinstance(published, int | float):
        return math.isclose(held, published, rel_tol=_SINGLE_PRECISION)
    return isinstance(held, str) and held == published


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"
