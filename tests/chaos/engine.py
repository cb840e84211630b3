"""An engine of every kind that is quick and tells on itself: each start leaves a mark, so that a double one is seen.

A tuning engine carries its history in its checkpoints: it fails when what it resumes from is not the beginning of it.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import time
from pathlib import Path

from finery_contracts.errors import DataInvalid
from finery_contracts.jobs import (
    CheckpointRef,
    EngineOutput,
    EvaluateOutput,
    ImportOutput,
    IngestOutput,
    IngestSpec,
    MergeOutput,
    MergeSpec,
    Phase,
    TuneOutput,
    TuneSpec,
    ValidateOutput,
)
from finery_ml.checkpoints import publish_checkpoint, verify_checkpoint
from finery_ml.job import JobFolder, Terminated, run

MARKS = "marks"
STEP_S = 0.1


def engine(work: JobFolder) -> EngineOutput:
    """Answer as the kind's real engine would, a little slower than at once."""
    _mark(work)
    work.progress(message="loading")
    spec = work.job.spec
    if isinstance(spec, TuneSpec):
        return _tune(work)
    work.progress(phase=Phase.RUNNING, total=2)
    for step in range(1, 3):
        time.sleep(STEP_S)
        work.progress(step=step, total=2)
        if work.stop_requested.is_set():
            raise Terminated
    if isinstance(spec, IngestSpec):
        return _ingest(work, spec)
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
    parts = [sorted(path.name for path in Path(folder).iterdir()) for folder in (spec.model, spec.adapter)]
    (work.out / "model" / "model.safetensors").write_text(json.dumps(parts))
    return MergeOutput(
        architecture="llama", parameters=1000, size_bytes=2000, dtype="bfloat16", max_length=2048, merged_tensors=1
    )


def _ingest(work: JobFolder, spec: IngestSpec) -> IngestOutput:
    text = Path(spec.source).read_bytes()
    (work.out / "report.jsonl").write_text("")
    if text.startswith(b"bad"):
        raise DataInvalid("line 17: bad", code="invalid_training_file", details=[{"line": 17, "reason": "bad"}])
    (work.out / "records.parquet").write_bytes(text)
    return IngestOutput(format="openai", records=5, bad_records=0, content_sha256=hashlib.sha256(text).hexdigest())


def _tune(work: JobFolder) -> TuneOutput:
    total = random.Random(work.job.task_id).randint(5, 30)
    history = _resumed(work)
    work.progress(phase=Phase.RUNNING, step=len(history), total=total)
    for step in range(len(history) + 1, total + 1):
        time.sleep(STEP_S)
        history.append(hashlib.sha256(f"{work.job.task_id}:{step}:{history[-1:]}".encode()).hexdigest()[:16])
        checkpoint = _checkpoint(work, history) if step % 3 == 0 or work.stop_requested.is_set() else None
        work.progress(step=step, total=total, metrics={"loss": 1 / step}, checkpoint=checkpoint)
        if work.stop_requested.is_set():
            raise Terminated(TuneOutput(steps=step, trained_tokens=step * 10))
    (work.out / "adapter").mkdir()
    (work.out / "adapter" / "adapter_config.json").write_text(json.dumps(history))
    return TuneOutput(steps=total, trained_tokens=total * 10, metrics={"loss": 1 / total})


def _checkpoint(work: JobFolder, history: list[str]) -> CheckpointRef:
    step = len(history)
    staged = work.folder / f".staged-{step}"
    staged.mkdir()
    (staged / "state.json").write_text(json.dumps(history))
    published = publish_checkpoint(staged, work.checkpoints, step=step)
    return CheckpointRef(step=step, path=published.name, metrics={"loss": 1 / step})


def _resumed(work: JobFolder) -> list[str]:
    for folder in work.job.resume_from:
        if not verify_checkpoint(Path(folder)):
            continue
        history: list[str] = json.loads((Path(folder) / "state.json").read_text())
        expected = list[str]()
        for step in range(1, len(history) + 1):
            expected.append(hashlib.sha256(f"{work.job.task_id}:{step}:{expected[-1:]}".encode()).hexdigest()[:16])
        assert history == expected, f"{folder} is of another history"
        return history
    return []


def _mark(work: JobFolder) -> None:
    """One file for each start; the folder of marks lies above all job folders of the house."""
    marks = next(folder / MARKS for folder in work.folder.parents if (folder / MARKS).is_dir())
    name = f"{work.job.task_id}.{work.job.attempt}.{os.getpid()}.{time.monotonic_ns()}"
    (marks / name).touch()


def main(argv: list[str] | None = None) -> int:
    """An engine's life."""
    return run(engine, argv)


if __name__ == "__main__":
    raise SystemExit(main())
