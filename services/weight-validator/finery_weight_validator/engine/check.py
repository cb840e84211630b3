"""Validates a model folder: ``python -m finery_weight_validator.engine.check JOB_DIR``, spec ValidateSpec.

Every fault is found in one run: files, metadata, headers, structure, values, tokenizer, template, then a short
generation. out/report.json holds all findings. Nothing of the folder is run and nothing refused is opened.
"""

from __future__ import annotations

import os

# Read by libgomp and the Hugging Face libraries when they are imported; a caller's own values stay.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import shutil
import sys
from collections import Counter
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from finery_contracts.errors import InvalidRequest, WeightsInvalid
from finery_contracts.jobs import Finding, Phase, ValidateOutput, ValidateSpec
from finery_ml.job import JobFolder, Terminated, run, write_atomically
from finery_weight_validator.engine import alive, metadata, structure, tokenizer, values
from finery_weight_validator.engine.findings import errors_of, info, shortened
from finery_weight_validator.engine.folder import Survey, survey
from finery_weight_validator.engine.settled import longest_of
from finery_weight_validator.engine.shards import Weights, read_weights

_STOPS_LOADING = frozenset({
    "config_missing", "config_not_json", "weights_missing", "header_invalid", "tensor_overlap", "structure_key_missing",
    "structure_differs", "tensor_missing", "tensor_shape_wrong", "tensor_surplus", "index_incomplete", "not_finite",
    "tokenizer_not_loadable", "remote_code", "vocabulary_too_small",
})  # fmt: skip
"""Errors after which loading would only say the same again, or less clearly."""


@dataclass
class _Report:
    """What has been found so far."""

    findings: list[Finding] = field(default_factory=list)
    facts: dict[str, str | int | float | bool] = field(default_factory=dict)

    def skipped(self, stage: str, reason: str) -> None:
        """Say that a stage could not run."""
        remedy = "correct the errors and validate again"
        self.findings.append(info("stage_skipped", stage, message=f"not done: {reason}", remedy=remedy))


def main(argv: list[str] | None = None) -> int:
    """Run one job folder; returns the exit status."""
    return run(check, argv)


def check(work: JobFolder) -> ValidateOutput:
    """All stages, then the verdict; raises WeightsInvalid ``weights_invalid`` with every finding in its details."""
    spec = work.job.spec
    if not isinstance(spec, ValidateSpec):
        raise InvalidRequest(f"This engine validates; it cannot {spec.kind}.", code="wrong_engine", param="kind")
    output = look_over(work, spec)
    write_atomically(work.out / "report.json", output.model_dump_json(indent=1))
    errors = errors_of(output.findings)
    if errors:
        raise WeightsInvalid(
            f"{Path(spec.model).name} has {len(errors)} fault(s); the first: {errors[0].where}: {errors[0].message}; "
            f"{errors[0].remedy}. The report names them all.",
            code="weights_invalid",
            param=errors[0].where,
            details=[finding.model_dump() for finding in output.findings],
        )
    return output


def look_over(work: JobFolder, spec: ValidateSpec) -> ValidateOutput:
    """Everything that is wrong with a folder, in one go."""
    report = _Report()
    with _stage(work, "files"):
        found = survey(Path(spec.model))
        report.findings += found.findings
    if not any(finding.code == "not_a_folder" for finding in found.findings):
        _inspect(work, spec, found, report)
    return ValidateOutput(findings=shortened(report.findings), facts=report.facts)


def _inspect(work: JobFolder, spec: ValidateSpec, found: Survey, report: _Report) -> None:
    with _stage(work, "metadata"):
        report.findings += metadata.missing_parts(found) + metadata.code_findings(found)
        config, faults = metadata.config_findings(found, spec)
        report.findings += faults + metadata.generation_findings(found) + metadata.licence_findings(found)
    with _stage(work, "structure"):
        weights = read_weights(found)
        report.findings += weights.findings
        _compare(config, weights, report)
    with _stage(work, "values"):
        _scan(work, weights, report)
    config_faulty = any(finding.where.startswith("config.json") for finding in errors_of(report.findings))
    left_out = {"config.json"} if config_faulty else set()
    with _stage(work, "tokenizer"), _clean_view(work, found, left_out=left_out) as view:
        loaded, faults = tokenizer.load(view)
        tokens = tokenizer.special_tokens(loaded) if loaded else {}
        report.findings += faults + tokenizer.template_findings(tokenizer.template_of(found), tokens=tokens)
        if loaded is not None:
            report.findings += structure.vocabulary_findings(weights.tensors, tokens=_largest_id(loaded) + 1)
            report.facts["tokens"] = len(loaded)
            report.facts["max_length"] = longest_of(config or {}, {"model_max_length": loaded.model_max_length})
    with _stage(work, "generation"), _clean_view(work, found) as view:
        _prove(work, spec, view, loaded, report)


def _compare(config: dict[str, Any] | None, weights: Weights, report: _Report) -> None:
    report.facts |= _facts_of(config, weights)
    if config is None or not weights.tensors:
        report.skipped("structure", "it needs config.json and the weights")
        return
    keys = structure.key_findings(config)
    report.findings += keys + structure.dtype_findings(config, weights.tensors)
    if keys:
        report.skipped("tensors against config.json", "config.json does not describe a structure")
    elif len(weights.sound) < len(weights.files):
        report.skipped("tensors against config.json", "not all headers could be read")
    else:
        report.findings += structure.layout_findings(config, weights.tensors)


def _facts_of(config: dict[str, Any] | None, weights: Weights) -> dict[str, str | int | float | bool]:
    counts: Counter[str] = Counter()
    for tensor in weights.tensors:
        counts[tensor.dtype] += tensor.count
    facts: dict[str, str | int | float | bool] = {
        "parameters": counts.total(),
        "tensors": len(weights.tensors),
        "files": len(weights.files),
        "size_bytes": sum(path.stat().st_size for path in weights.files),
    }
    if counts:
        facts["dtype"] = counts.most_common(1)[0][0]
    if config is not None:
        facts["architecture"] = str(config.get("model_type"))[:100]
        facts["quantised"] = bool(config.get("quantization_config"))
    return facts


def _scan(work: JobFolder, weights: Weights, report: _Report) -> None:
    total, done = int(report.facts.get("size_bytes", 0)), 0

    def tell(size_bytes: int) -> None:
        nonlocal done
        done += size_bytes
        if work.stop_requested.is_set():
            raise Terminated

    for path in weights.files:
        if path.name not in weights.sound:
            report.skipped(f"values of {path.name}", "its header cannot be trusted")
            continue
        tensors = [tensor for tensor in weights.tensors if tensor.file == path.name]
        digest, faults = values.scan(path, tensors, tell=tell)
        report.findings += faults
        report.facts[f"sha256:{path.name}"] = digest
        work.progress(step=done, total=total, message=f"read {path.name}")


def _prove(work: JobFolder, spec: ValidateSpec, view: Path, loaded: Any, report: _Report) -> None:
    if not spec.generate:
        return
    in_the_way = sorted({finding.code for finding in errors_of(report.findings)} & _STOPS_LOADING)
    size, free = int(report.facts.get("size_bytes", 0)), _free_memory_bytes()
    if in_the_way or loaded is None:
        report.skipped("generation", f"errors stand in the way ({', '.join(in_the_way)})")
    elif free is not None and size * 1.2 > free:
        report.skipped("generation", f"the weights take {size} bytes, {free} bytes of memory are free")
    else:
        report.findings += alive.prove(view, loaded, threads=work.job.threads)


@contextmanager
def _clean_view(work: JobFolder, found: Survey, *, left_out: Collection[str] = ()) -> Iterator[Path]:
    """A folder of links to the usable files alone: what was refused cannot be reached by a library."""
    view = work.folder / "view" / (found.folder.name or "model")
    view.mkdir(parents=True)
    try:
        for name, path in found.usable.items():
            if name in left_out:
                continue
            (view / name).symlink_to(path.resolve())
        yield view
    finally:
        shutil.rmtree(view.parent)


@contextmanager
def _stage(work: JobFolder, name: str) -> Iterator[None]:
    if work.stop_requested.is_set():
        raise Terminated
    work.progress(phase=Phase.RUNNING, message=f"checking {name}")
    with work.span(f"check.{name}"):
        yield


def _largest_id(loaded: Any) -> int:
    return max(loaded.get_vocab().values(), default=-1)


def _free_memory_bytes() -> int | None:
    """What Linux says is available; None elsewhere."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")), None)


if __name__ == "__main__":
    sys.exit(main())
