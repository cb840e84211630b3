"""The verdict on headers: files, metadata, headers and structure of a folder, in milliseconds whatever its size.

Nothing is loaded, hashed or rendered here, no child is started, and no library but the standard one is needed.
"""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from finery_contracts.jobs import Finding, Repair, ValidateSpec
from finery_weight_validator.engine import metadata, repairs, structure
from finery_weight_validator.engine.findings import error, errors_of, info
from finery_weight_validator.engine.folder import Survey, survey
from finery_weight_validator.engine.headers import hollow_findings
from finery_weight_validator.engine.shards import Weights, read_weights

Facts = dict[str, str | int | float | bool]

_STOPS_LOADING = frozenset({
    "weights_missing", "header_invalid", "tensor_overlap", "index_incomplete", "tensor_shape_wrong", "weights_hollow",
    "file_not_downloaded", "config_unreadable",
})  # fmt: skip


@dataclass
class Verdict:
    """What headers and metadata say; ``config`` is None when config.json cannot be used."""

    survey: Survey
    config: dict[str, Any] | None = None
    weights: Weights = field(default_factory=Weights)
    findings: list[Finding] = field(default_factory=list)
    facts: Facts = field(default_factory=dict)
    applied: list[Repair] = field(default_factory=list)

    @property
    def is_folder(self) -> bool:
        """Whether there was anything to look at."""
        return all(finding.code != "not_a_folder" for finding in self.findings)


def judge_headers(spec: ValidateSpec, *, copies: Path | None = None) -> Verdict:
    """Everything that can be said without reading weights; ``facts["headers_ms"]`` is how long it took.

    ``copies`` is a folder of our own where files go that are repaired as ``spec.apply_repairs`` says; without it none
    is. Raises InvalidRequest ``repair_unknown``.
    """
    began, applied = time.perf_counter(), list[Repair]()
    found = survey(Path(spec.model), allowed_code=frozenset(spec.allowed_code))
    if copies is not None and spec.apply_repairs:
        applied = repairs.apply(found, spec.apply_repairs, copies, allowed_code=frozenset(spec.allowed_code))
    verdict = Verdict(found, findings=list(found.findings), applied=applied)
    if verdict.is_folder:
        _read_metadata(verdict, spec)
        _read_structure(verdict, refuse_hollow=spec.depth == "full")
        _say_whether_it_loads(verdict)
    verdict.facts["headers_ms"] = round((time.perf_counter() - began) * 1e3, 3)
    return verdict


def skipped(stage: str, reason: str) -> Finding:
    """That a stage could not run, and why."""
    remedy = "correct the errors and validate again"
    return info("stage_skipped", stage, message=f"not done: {reason}", remedy=remedy)


def _read_metadata(verdict: Verdict, spec: ValidateSpec) -> None:
    found = verdict.survey
    verdict.findings += metadata.missing_parts(found) + metadata.code_findings(found)
    verdict.config, faults = metadata.config_findings(found, spec)
    rows = (verdict.config or {}).get("vocab_size")
    verdict.findings += faults + metadata.generation_findings(found, rows) + metadata.licence_findings(found)
    verdict.findings += metadata.json_findings(found)


def _read_structure(verdict: Verdict, *, refuse_hollow: bool) -> None:
    weights = verdict.weights = read_weights(verdict.survey)
    verdict.findings += weights.findings
    for path in weights.files:
        verdict.findings += hollow_findings(path, refused=refuse_hollow)
    config = verdict.config
    verdict.facts |= _facts_of(config, weights)
    if config is None or not weights.tensors:
        verdict.findings.append(skipped("structure", "it needs config.json and the weights"))
        return
    keys = structure.key_findings(config)
    verdict.findings += keys + structure.dtype_findings(config, weights.tensors)
    if not any(finding.code.startswith("quantization_config") for finding in verdict.findings):
        verdict.findings += structure.quantisation_findings(config, weights.tensors)
    if errors_of(keys):
        reason = "config.json does not describe a structure"
        verdict.findings.append(skipped("tensors against config.json", reason))
    elif len(weights.sound) < len(weights.files):
        verdict.findings.append(skipped("tensors against config.json", "not all headers could be read"))
    else:
        verdict.findings += structure.layout_findings(config, weights.tensors)


def _say_whether_it_loads(verdict: Verdict) -> None:
    """The findings above are of headers and files; this one is what they come to."""
    reasons = sorted({finding.code for finding in errors_of(verdict.findings) if _is_about_loading(finding)})
    if reasons:
        message = f"the weights would not load: {', '.join(reasons)}"
        remedy = "correct what the findings of these codes name; nothing was loaded to find out"
        verdict.findings.append(error("weights_not_loadable", "weights", message=message, remedy=remedy))


def _is_about_loading(finding: Finding) -> bool:
    about_weights = finding.code != "file_not_downloaded" or finding.where.endswith(".safetensors")
    return finding.code in _STOPS_LOADING and about_weights


def _facts_of(config: dict[str, Any] | None, weights: Weights) -> Facts:
    counts: Counter[str] = Counter()
    for tensor in weights.tensors:
        counts[tensor.dtype] += tensor.count
    facts: Facts = {
        "parameters": counts.total(),
        "tensors": len(weights.tensors),
        "files": len(weights.files),
        "size_bytes": sum(path.stat().st_size for path in weights.files),
    }
    if counts:
        facts["dtype"] = counts.most_common(1)[0][0]
    if config is not None:
        facts["architecture"] = str(config.get("model_type"))[:100]
        stated = config.get("quantization_config")
        facts["quantised"] = bool(stated)
        if isinstance(stated, dict) and isinstance(stated.get("quant_method"), str):
            facts["quantisation"] = stated["quant_method"][:40]
    return facts
