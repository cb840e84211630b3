"""An engine for flows: speaks the job-folder protocol of every kind, does nothing heavy. Run as a real process.

What it is to do is said in the file's first line of input where that helps: ``sleep``, ``crash``, ``bad``.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
import time
from pathlib import Path

from finery_contracts.errors import DataInvalid
from finery_contracts.jobs import (
    CheckpointRef,
    EngineOutput,
    EvaluateOutput,
    ImportOutput,
    ImportSpec,
    IngestOutput,
    IngestSpec,
    MergeOutput,
    MergeSpec,
    Phase,
    TuneOutput,
    TuneSpec,
    ValidateOutput,
)
from finery_dataset_ingest.engine.sources.fetching import fetch
from finery_ml.job import JobFolder, Terminated, run
from finery_weight_validator.engine.convert import convert_or_report


def engine(work: JobFolder) -> EngineOutput:
    """Answer as the kind's real engine would."""
    work.progress(message="loading")
    work.progress(phase=Phase.RUNNING, step=0, total=3)
    print("the engine works", flush=True)
    spec = work.job.spec
    if isinstance(spec, IngestSpec):
        return _ingest(work, spec)
    if isinstance(spec, TuneSpec):
        return _tune(work, spec)
    if isinstance(spec, ImportSpec) and spec.origin is not None:
        return convert_or_report(work)
    if spec.kind == "import":
        (work.out / "model").mkdir()
        (work.out / "model" / "config.json").write_text("{}")
        return ImportOutput(architecture="llama", parameters=1000, size_bytes=2000, dtype="bfloat16", max_length=2048)
    if isinstance(spec, MergeSpec):
        return _merge(work, spec)
    if spec.kind == "validate":
        return ValidateOutput()
    (work.out / "samples.jsonl").write_text("{}\n")
    return EvaluateOutput(metrics={"accuracy": 0.5}, samples=2)


def _merge(work: JobFolder, spec: MergeSpec) -> MergeOutput:
    """What is made of the two can be seen in it."""
    (work.out / "model").mkdir()
    (work.out / "model" / "config.json").write_text("{}")
    adapter = (Path(spec.adapter) / "adapter_model.safetensors").read_text()
    base = (Path(spec.model) / "config.json").read_text()
    (work.out / "model" / "model.safetensors").write_text(f"{base} with {adapter}")
    return MergeOutput(
        architecture="llama", parameters=1000, size_bytes=2000, dtype="bfloat16", max_length=2048, merged_tensors=1
    )


def _ingest(work: JobFolder, spec: IngestSpec) -> IngestOutput:
    files, fetched = fetch(work, spec)
    text = b"".join(path.read_bytes() for path, _ in files)
    (work.out / "report.jsonl").write_text("")
    if b"bad" in text[:20]:
        raise DataInvalid("line 17: bad", code="invalid_training_file", details=[{"line": 17, "reason": "bad"}])
    (work.out / "records.parquet").write_bytes(text)
    return IngestOutput(
        format="openai",
        records=5,
        bad_records=0,
        content_sha256=hashlib.sha256(text).hexdigest(),
        fetched=fetched,
    )


def _tune(work: JobFolder, spec: TuneSpec) -> TuneOutput:
    seconds = float(os.environ.get("QUICK_TUNE_S", "0"))
    steps = 3 if not seconds else max(3, int(seconds / 0.05))
    kept = work.job.resume_from
    start = json.loads((Path(kept[0]) / "state.json").read_text())["step"] if kept else 0
    for step in range(start + 1, steps + 1):
        time.sleep(0.05 if seconds else 0)
        folder = work.checkpoints / f"checkpoint-{step}"
        folder.mkdir()
        (folder / "state.json").write_text(json.dumps({"step": step}))
        _adapter(folder, step)
        work.progress(
            step=step, total=steps, metrics={"loss": 1 / step},
            checkpoint=CheckpointRef(step=step, path=folder.name, metrics={"loss": 1 / step}),
        )  # fmt: skip
        if work.stop_requested.is_set():
            raise Terminated(TuneOutput(steps=step, trained_tokens=step * 10))
    (work.out / "adapter").mkdir()
    _adapter(work.out / "adapter", steps)
    return TuneOutput(steps=steps, trained_tokens=100, metrics={"loss": 0.1})


def _adapter(folder: Path, step: int) -> None:
    (folder / "adapter_config.json").write_text("{}")
    (folder / "adapter_model.safetensors").write_text(f"weights of step {step}")


if __name__ == "__main__":
    sys.exit(run(engine))
