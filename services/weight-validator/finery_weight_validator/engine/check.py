"""Validates a model folder: ``python -m finery_weight_validator.engine.check JOB_DIR``, spec ValidateSpec.

Every fault is found in one run: first the verdict on headers, then values, tokenizer, template and a short generation.
out/report.json holds all findings. Nothing of the folder is run unless an operator allowed it by its checksum, and
nothing refused is opened by a loader.
"""

from __future__ import annotations

import os

# Read by libgomp and the Hugging Face libraries when they are imported; a caller's own values stay.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import shutil
import stat
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from finery_contracts.errors import FineryError, InvalidRequest, WeightsInvalid
from finery_contracts.jobs import Finding, Phase, Repair, ValidateOutput, ValidateSpec
from finery_ml.job import JobFolder, Terminated, run, write_atomically
from finery_weight_validator.engine import (
    alive,
    chat,
    checksums,
    gguf_header,
    pickles,
    repairs,
    structure,
    tokenizer,
    values,
)
from finery_weight_validator.engine.findings import as_details, error, errors_of, shortened
from finery_weight_validator.engine.folder import Survey
from finery_weight_validator.engine.memory import free_bytes
from finery_weight_validator.engine.settled import longest_of
from finery_weight_validator.engine.verdict import Verdict, judge_headers, skipped

_STOPS_LOADING = frozenset({
    "config_unreadable", "weights_missing", "header_invalid", "tensor_overlap", "structure_differs", "tensor_missing",
    "tensor_shape_wrong", "tensor_surplus", "index_incomplete", "not_finite", "tokenizer_not_loadable", "remote_code",
    "vocabulary_too_small", "weights_hollow", "weights_not_loadable", "checksum_wrong", "check_failed",
})  # fmt: skip
"""Errors after which loading would only say the same again, or less clearly."""
_TELL_BYTES = 2**30


@dataclass
class _Report:
    """What has been found so far."""

    verdict: Verdict
    findings: list[Finding] = field(default_factory=list)
    repairs: list[Repair] = field(default_factory=list)
    loaded: tokenizer.Loaded | None = None


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
            details=as_details(output.findings),
        )
    return output


def look_over(work: JobFolder, spec: ValidateSpec) -> ValidateOutput:
    """Everything that is wrong with a folder, in one go; the verdict on headers is told before the rest begins."""
    work.progress(phase=Phase.RUNNING, message="checking")
    report = _Report(Verdict(Survey(Path(spec.model))))
    with _stage(work, "headers", report):
        report.verdict = judge_headers(spec, copies=work.folder / "repaired")
        report.findings += report.verdict.findings
    verdict, faults = report.verdict, len(errors_of(report.findings))
    told = f"headers judged in {verdict.facts.get('headers_ms', '?')} ms: {faults or 'no'} faults"
    work.progress(message=told, metrics={"header_faults": faults})
    if verdict.is_folder:
        with _stage(work, "repairs", report):
            available = repairs.proposed(verdict.survey)
            report.repairs = [*verdict.applied, *available]
            report.findings += repairs.repair_findings(available, verdict.applied)
        if spec.depth == "full":
            _read_bytes(work, report)
            _try_out(work, spec, report)
    verdict.facts["depth"] = spec.depth
    return ValidateOutput(findings=shortened(report.findings), facts=verdict.facts, repairs=report.repairs)


def _read_bytes(work: JobFolder, report: _Report) -> None:
    """What takes reading whole files: scanners of what was refused, values, checksums."""
    found = report.verdict.survey
    with _stage(work, "refused files", report):
        report.findings = pickles.with_verdicts(report.findings, found.folder)
        for path in found.gguf:
            report.findings += gguf_header.gguf_findings(path)
    with _stage(work, "values", report):
        _scan(work, report)
    with _stage(work, "checksums", report):
        facts = report.verdict.facts
        known = {name.removeprefix("sha256:"): str(facts[name]) for name in facts if name.startswith("sha256:")}
        files = {**found.usable, **{path.name: path for path in found.gguf}}
        report.findings += checksums.checksum_findings(found.folder, known, files)


def _try_out(work: JobFolder, spec: ValidateSpec, report: _Report) -> None:
    """What takes libraries: tokenizer, template, loading. Each runs in a limited child."""
    verdict = report.verdict
    broken_config = any(finding.where.startswith("config.json") for finding in errors_of(report.findings))
    with _stage(work, "tokenizer", report), _clean_view(work, verdict, without_config=broken_config) as (view, code):
        report.loaded, faults = tokenizer.load(view, code=code)
        report.findings += faults
        if report.loaded is not None:
            rows = report.loaded.largest_id + 1
            report.findings += structure.vocabulary_findings(verdict.weights.tensors, tokens=rows)
            verdict.facts["tokens"] = report.loaded.tokens
            stated = {"model_max_length": report.loaded.max_length}
            verdict.facts["max_length"] = longest_of(verdict.config or {}, stated)
    with _stage(work, "metadata", report):
        report.findings += tokenizer.type_findings(verdict.config, allowed=bool(verdict.survey.code))
    with _stage(work, "template", report):
        text, faults = chat.template_of(verdict.survey)
        report.findings += faults
        tokens = report.loaded.special if report.loaded else {}
        report.findings += chat.other_findings(verdict.survey, tokens=tokens)
        if not faults:
            faults, facts = chat.template_findings(text, tokens=tokens)
            report.findings += faults
            verdict.facts |= facts
    with _stage(work, "generation", report):
        _prove(work, spec, report)


def _scan(work: JobFolder, report: _Report) -> None:
    weights, facts = report.verdict.weights, report.verdict.facts
    total, done, told = int(facts.get("size_bytes", 0)), 0, 0
    hollow = {finding.where for finding in errors_of(report.findings) if finding.code == "weights_hollow"}

    def tell(size_bytes: int) -> None:
        nonlocal done, told
        done += size_bytes
        if work.stop_requested.is_set():
            raise Terminated
        if done - told >= _TELL_BYTES:
            told = done
            work.progress(step=done, total=total, message="reading the weights")

    for path in weights.files:
        if path.name not in weights.sound or path.name in hollow:
            reason = "it is hollow" if path.name in hollow else "its header cannot be trusted"
            report.findings.append(skipped(f"values of {path.name}", reason))
            continue
        tensors = [tensor for tensor in weights.tensors if tensor.file == path.name]
        digest, faults = values.scan(path, tensors, tell=tell)
        report.findings += faults
        facts[f"sha256:{path.name}"] = digest
        work.progress(step=done, total=total, message=f"read {path.name}")
    if (
        len(weights.sound) == len(weights.files)
        and not hollow
        and (report.verdict.config or {}).get("tie_word_embeddings")
    ):
        report.findings += values.tied_findings(weights.tensors, report.verdict.survey.folder)


def _prove(work: JobFolder, spec: ValidateSpec, report: _Report) -> None:
    if not spec.generate:
        return
    in_the_way = sorted({finding.code for finding in errors_of(report.findings)} & _STOPS_LOADING)
    size, free = int(report.verdict.facts.get("size_bytes", 0)), free_bytes()
    if in_the_way or report.loaded is None:
        report.findings.append(skipped("generation", f"errors stand in the way ({', '.join(in_the_way)})"))
    elif free is not None and size * 1.2 > free:
        reason = f"the weights take {size} bytes, {free} bytes of memory are free"
        report.findings.append(skipped("generation", reason))
    else:
        with _clean_view(work, report.verdict, without_config=False) as (view, code):
            trial = alive.Trial(view, size, pad_id=report.loaded.pad_id, code=code)
            report.findings += alive.prove(trial, stop=work.stop_requested)


@contextmanager
def _clean_view(work: JobFolder, verdict: Verdict, *, without_config: bool) -> Iterator[tuple[Path, Path | None]]:
    """A folder of links to the usable files alone, and one for code that was allowed; None when there is none.

    What was refused cannot be reached by a library. Allowed Python files stand there as the bytes that were judged.
    """
    found, room = verdict.survey, work.folder / "view"
    view = room / (found.folder.name or "model")
    view.mkdir(parents=True)
    try:
        for name, path in found.usable.items():
            if not (without_config and name == "config.json"):
                (view / name).symlink_to(path.resolve())
        for name, text in found.code.items():
            (view / name).write_bytes(text)
        code = room / "code" if found.code else None
        if code is not None:
            code.mkdir()
        yield view, code
    finally:
        shutil.rmtree(room)


@contextmanager
def _stage(work: JobFolder, name: str, report: _Report) -> Iterator[None]:
    """A stage that fails in a way that nobody thought of is a finding with the log's place; the next ones go on."""
    if work.stop_requested.is_set():
        raise Terminated
    work.progress(message=f"checking {name}")
    try:
        with work.span(f"check.{name.replace(' ', '_')}"):
            yield
    except (Terminated, FineryError):
        raise
    except Exception as fault:
        place = _log_place()
        traceback.print_exc()
        report.findings.append(
            error(
                "check_failed",
                f"log.txt{place}",
                message=f"checking {name} failed: {type(fault).__name__}: {str(fault)[:300]}",
                remedy="read the log of this task at that place, and validate again",
                stage=name,
            )
        )


def _log_place() -> str:
    """Where the next line of the log will stand, when standard error is the log file."""
    try:
        about = os.fstat(2)
    except OSError:
        return ""
    return f", from byte {about.st_size}" if stat.S_ISREG(about.st_mode) else ""


if __name__ == "__main__":
    sys.exit(main())
