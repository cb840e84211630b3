"""Imports a model: ``python -m finery_weight_validator.engine.convert JOB_DIR``, spec ImportSpec.

From a GGUF file (whole or in parts), or a folder with safetensors, here or in an object store, it makes out/model/:
safetensors, config, tokenizer, chat template. It takes known kinds of files only, opens no pickle, runs no code of the
folder, and leaves nothing half done. Repairs that were agreed to are made in the copy.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
from collections import Counter
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from finery_contracts.errors import InvalidRequest, WeightsInvalid
from finery_contracts.jobs import Finding, ImportOutput, ImportSpec, Phase, Repair, ValidateSpec
from finery_contracts.sources import name_of
from finery_ml.job import JobFolder, Terminated, run
from finery_weight_validator.engine import fetching, gguf_parts, repairs, settled
from finery_weight_validator.engine.findings import as_details, errors_of, refuse
from finery_weight_validator.engine.folder import Survey, foretold, read_json, survey
from finery_weight_validator.engine.headers import Tensor, hollow_findings, read_tensors
from finery_weight_validator.engine.metadata import code_findings, missing_parts

BESIDE = ".model.part"
_COPY_BYTES = 32 * 2**20
_SPARE_BYTES = 256 * 2**20
_DTYPE_NAMES = {"BF16": "bfloat16", "F16": "float16", "F32": "float32", "F64": "float64", "F8_E4M3": "float8_e4m3fn"}


def main(argv: list[str] | None = None) -> int:
    """Run one job folder; returns the exit status."""
    return run(convert_or_report, argv)


def convert_or_report(work: JobFolder) -> ImportOutput:
    """Fetch and import; a folder that is refused is told all that is wrong with it, not the first fault alone."""
    spec = work.job.spec
    if not isinstance(spec, ImportSpec):
        raise InvalidRequest(f"This engine imports; it cannot {spec.kind}.", code="wrong_engine", param="kind")
    if spec.origin is None:
        return _convert_or_report(work, spec, Path(spec.source))
    source, fetched = fetching.fetch(work, spec.origin, partial(_wanted, spec))
    output = _convert_or_report(work, spec, source)
    shutil.rmtree(source)  # weights that were made of it are its files: they shall have one name each
    return output.model_copy(update={"fetched": fetched})


def _convert_or_report(work: JobFolder, spec: ImportSpec, source: Path) -> ImportOutput:
    try:
        return convert(work, spec, source)
    except WeightsInvalid as fault:
        if not (source / "config.json").is_file() and not any(source.glob("*.safetensors")):
            raise  # a GGUF file, or nothing: there is no model folder to look over
        shutil.rmtree(work.out / BESIDE, ignore_errors=True)  # what it shares with the source is no fault of the source
        from finery_weight_validator.engine.check import look_over

        asked = ValidateSpec(
            model=str(source), generate=False, apply_repairs=spec.apply_repairs, allowed_code=spec.allowed_code,
            expected_architecture=spec.expected_architecture, expected_quantised=spec.expected_quantised,
            published_config=spec.published_config,
        )  # fmt: skip
        found = look_over(work, asked).findings
        raise WeightsInvalid(
            f"{fault.message} ({len(errors_of(found))} faults in all; the findings name each)",
            code=fault.error_code,
            param=fault.param,
            details=as_details(found),
        ) from fault


def convert(work: JobFolder, spec: ImportSpec, source: Path) -> ImportOutput:
    """Look over the source, make the folder beside its place, repair and judge it, rename it."""
    target = work.out / "model"
    beside = target.with_name(BESIDE)
    shutil.rmtree(beside, ignore_errors=True)
    beside.mkdir(parents=True)
    work.progress(phase=Phase.RUNNING, message="looking over the files")
    found = survey(source, allowed_code=frozenset(spec.allowed_code))
    applied = list[Repair]()
    if spec.apply_repairs:  # files that lie beside a GGUF file are no part of what is made of it
        mended = found if spec.gguf_file is None and (found.weights or not found.gguf) else Survey(source)
        allowed = frozenset(spec.allowed_code)
        applied = repairs.apply(mended, spec.apply_repairs, work.folder / "repaired", allowed_code=allowed)
    if spec.gguf_file is None:  # a file that was named is read alone: what lies beside it is of no concern
        refuse(found.findings)
    refuse([finding for finding in found.findings if finding.code == "not_a_folder"])
    gguf = gguf_file_of(found, named=spec.gguf_file)
    with work.span("make", source="gguf" if gguf else "safetensors"):
        if gguf:
            _from_gguf(work, gguf, beside, spec=spec)
        else:
            refuse([*missing_parts(found), *code_findings(found), *_weight_findings(found)])
            if spec.origin is not None:
                _link(found, beside)
            _check_room(found, beside)
            _copy(work, found, beside)
    settled.settle(beside, overrides=spec.overrides, family=spec.family)
    output = _describe(beside).model_copy(update={"repairs": applied})
    _flush(beside)
    shutil.rmtree(target, ignore_errors=True)
    os.replace(beside, target)
    return output


def gguf_file_of(found: Survey, *, named: str | None) -> Path | None:
    """The GGUF file that is meant, or the first part of a split one; None when the folder holds safetensors.

    Raises WeightsInvalid ``gguf_missing`` or ``gguf_ambiguous``.
    """
    present = sorted(found.gguf)
    if named is not None:
        chosen = [path for path in present if path.name == named]
        if not chosen:
            raise WeightsInvalid(
                f"There is no GGUF file {named} in the folder; name one of: {_names(present) or 'none is there'}.",
                code="gguf_missing",
                param=named,
            )
        return chosen[0]
    if found.weights or not present:
        return None
    if len({gguf_parts.whole_of(path) for path in present}) > 1:
        raise WeightsInvalid(
            f"The folder holds {len(present)} GGUF files; say which one with gguf_file: {_names(present)}.",
            code="gguf_ambiguous",
            param="gguf_file",
        )
    return present[0]


def _from_gguf(work: JobFolder, gguf: Path, target: Path, *, spec: ImportSpec) -> None:
    """The header is read by ourselves first; the libraries read the file in a limited child.

    The heavy imports wait until a GGUF file is there: a folder of safetensors needs none of them.
    """

    def tell(message: str) -> None:
        if work.stop_requested.is_set():
            raise Terminated
        work.progress(message=message)

    tell("reading the GGUF header")
    headers = gguf_parts.read_parts(gguf_parts.parts_of(gguf))
    joined = work.folder / "joined.gguf"
    from finery_weight_validator.engine import gguf_source

    try:
        if len(headers) > 1:
            gguf_parts.join(headers, joined, tell=tell)
        tell("converting the weights to bfloat16")
        asked = gguf_source.Conversion(
            gguf=joined if len(headers) > 1 else gguf, name=spec.family or gguf.stem,
            parameters=sum(tensor.count for header in headers for tensor in header.tensors),
            largest=max(tensor.count for header in headers for tensor in header.tensors),
        )  # fmt: skip
        gguf_source.make_folder(asked, target, stop=work.stop_requested)
    finally:
        joined.unlink(missing_ok=True)


def _weight_findings(found: Survey) -> list[Finding]:
    """Headers first: nobody waits for a copy of weights that cannot be used, and holes are not written out as zeros."""
    findings: list[Finding] = []
    for path in found.weights:
        findings += read_tensors(path)[1] + hollow_findings(path, refused=True)
    return findings


def _wanted(spec: ImportSpec, names: Sequence[str]) -> Sequence[str]:
    """What has to be fetched; what is wrong with a folder whatever its files hold is said before.

    Of a folder with many GGUF files the one that was named is enough, with all its parts.
    """
    assert spec.origin is not None
    found = foretold(name_of(spec.origin.source), names, allowed_code=frozenset(spec.allowed_code))
    if spec.gguf_file is None:
        refuse(found.findings)
    gguf = gguf_file_of(found, named=spec.gguf_file)
    if gguf is None:
        refuse(missing_parts(found))
    if gguf is None or spec.gguf_file is None:
        return names
    return [path.name for path in found.gguf if gguf_parts.whole_of(path) == gguf_parts.whole_of(gguf)]


def _link(found: Survey, target: Path) -> None:
    """Weights that were fetched need no copy: nobody else has them, and nothing writes into them."""
    for path in found.weights:
        with contextlib.suppress(OSError):  # a file system without links: copied like the rest
            os.link(path, target / path.name)
            del found.usable[path.name]


def _check_room(found: Survey, target: Path) -> None:
    needed, free = sum(path.stat().st_size for path in found.usable.values()), shutil.disk_usage(target).free
    if needed + _SPARE_BYTES > free:
        raise WeightsInvalid(
            f"The model takes {needed} bytes, and {free} are free where it would be kept; free some, or ask an "
            "operator.",
            code="disk_too_small",
            param=found.folder.name,
        )


def _copy(work: JobFolder, found: Survey, target: Path) -> None:
    """Copies, and no hard links: a later write into the user's file must not change a registered model."""
    total, done = sum(path.stat().st_size for path in found.usable.values()), 0
    for name, path in found.usable.items():
        descriptor = os.open(path.resolve(), os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        with open(descriptor, "rb") as source, open(target / name, "xb") as copy:
            while chunk := source.read(_COPY_BYTES):
                if work.stop_requested.is_set():
                    raise Terminated
                copy.write(chunk)
                done += len(chunk)
                work.progress(step=done, total=total, message=f"copying {name}")
    for name, text in found.code.items():
        (target / name).write_bytes(text)


def _describe(folder: Path) -> ImportOutput:
    """What the finished folder holds, read from its own headers; refuses weights whose headers are not sound."""
    tensors: list[Tensor] = []
    findings: list[Finding] = []
    for path in sorted(folder.glob("*.safetensors")):
        some, faults = read_tensors(path)
        tensors, findings = tensors + some, findings + faults
    refuse(findings)
    config = read_json(folder / "config.json")
    values = Counter[str]()
    for tensor in tensors:
        values[tensor.dtype] += tensor.count
    main_dtype = values.most_common(1)[0][0]
    return ImportOutput(
        architecture=str(config.get("model_type") or "unknown"),
        parameters=values.total(),
        size_bytes=sum(path.stat().st_size for path in folder.iterdir()),
        dtype=_DTYPE_NAMES.get(main_dtype, main_dtype.lower()),
        max_length=settled.longest_of(config, _tokenizer_config_of(folder)),
    )


def _tokenizer_config_of(folder: Path) -> dict[str, Any]:
    path = folder / "tokenizer_config.json"
    return read_json(path) if path.is_file() else {}


def _flush(folder: Path) -> None:
    """To disk, and readable for the engines that run as another user (transformers writes weights for its own only)."""
    for path in folder.iterdir():
        path.chmod(0o644)
    for path in (*folder.iterdir(), folder):
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _names(paths: list[Path]) -> str:
    return ", ".join(path.name for path in paths[:10])


if __name__ == "__main__":
    sys.exit(main())
