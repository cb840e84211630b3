"""The service's side of a job folder: filled before the engine starts, read and put away after it has ended.

Only fields that are paths are resolved, so nothing a person typed elsewhere can name a place in the store.
"""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from finery_contracts.errors import EngineFailed, ErrorBody
from finery_contracts.jobs import CheckpointRef, EngineJob, JobResult
from finery_contracts.tasks import EndReason
from finery_contracts.work import AttemptEnd, Claim
from finery_kit.storage import SCHEME, Storage

PATH_FIELDS = frozenset({"source", "model", "adapter", "train", "validation", "dataset", "against"})
PATH_LISTS = frozenset({"sources", "references"})
"""Lists of things that each have a ``path``."""
KEPT = ("out", "log.txt", "progress.jsonl", "result.json")
LOG_TAIL_LINES, LOG_LINE_CHARACTERS, LOG_TAIL_BYTES = 15, 1000, 64 * 2**10
MAX_DETAILS_BYTES = 448 * 2**10
"""Room for the first thousand bad records (SPEC DS3); a report on the bus takes a little more."""
_REASONS = {
    "succeeded": EndReason.SUCCEEDED,
    "terminated": EndReason.TERMINATED,
    "failed": EndReason.USER_MISTAKE,
}


@dataclass(frozen=True)
class AttemptFolder:
    """One attempt's files, and their place in the store."""

    claim: Claim
    folder: Path
    storage: Storage
    packages: Path
    """Where ``package://`` URLs lie: the engine environment's site-packages."""

    @property
    def key(self) -> str:
        """Where everything this attempt writes lies in the store."""
        return f"{self.claim.project}/tasks/{self.claim.task_id}/{self.claim.attempt}"

    def prepare(self, traceparent: str | None) -> None:
        """Make the folder with its job.json; every path in it is local."""
        self.folder.mkdir(parents=True)
        spec: dict[str, Any] = self.claim.spec.model_dump(mode="json")
        for name in PATH_FIELDS & spec.keys():
            if isinstance(spec[name], str):
                spec[name] = self._local(spec[name])
        for name in PATH_LISTS & spec.keys():
            spec[name] = [{**one, "path": self._local(one["path"])} for one in spec[name]]
        resume = [str(path) for url in self.claim.resume_from if (path := self.storage.find(url)) is not None]
        job = EngineJob.model_validate(
            {
                "task_id": self.claim.task_id, "attempt": self.claim.attempt, "project_id": self.claim.project,
                "spec": spec, "resume_from": resume, "traceparent": traceparent,
                "threads": min(os.cpu_count() or 2, 16),
            }
        )  # fmt: skip
        # It may hold what opens a source: nobody else reads it, and it goes with the folder when the attempt ends.
        descriptor = os.open(self.folder / "job.json", os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(job.model_dump_json(indent=1))

    def keep_checkpoint(self, checkpoint: CheckpointRef) -> CheckpointRef | None:
        """A copy by hard links in the store, which outlives this worker; None when the engine removed it already."""
        source = self.folder / "checkpoints" / checkpoint.path
        aside = self.folder / f".{checkpoint.path}"
        try:
            shutil.copytree(source, aside, copy_function=_link)
        except (FileNotFoundError, shutil.Error):
            shutil.rmtree(aside, ignore_errors=True)
            return None
        url = self.storage.put_tree(aside, f"{self.key}/checkpoints/{checkpoint.path}")
        return checkpoint.model_copy(update={"path": url})

    def conclude(self, status: int, *, told_to: str | None) -> AttemptEnd:
        """How it went, from exit status and result.json; what was left moves into the store unless abandoned."""
        (self.folder / "job.json").unlink(missing_ok=True)  # what opens a source has no use any more
        result = self._result()
        artefact = self._store() if told_to != "abandon" else None
        if told_to in ("leave", "cut_off") and (result is None or result.status == "terminated"):
            error = EngineFailed("the worker went away", code="worker_left").body
            return AttemptEnd(reason=EndReason.LOST, error=error, artefact=artefact)
        if told_to is None and result is not None and result.status == "terminated":
            error = EngineFailed("something other than Finery stopped the engine", code="engine_stopped").body
            return AttemptEnd(reason=EndReason.LOST, error=error, artefact=artefact)
        if result is not None and result.error is not None and status not in (0, 2):
            # It knew what it met, such as a source that does not answer: worth another try, and worth telling.
            return AttemptEnd(reason=EndReason.CRASHED, error=_bounded(result.error), artefact=artefact)
        if result is None or status not in (0, 2):
            return AttemptEnd(reason=EndReason.CRASHED, error=self._crash(status, artefact), artefact=artefact)
        error = _bounded(result.error)
        return AttemptEnd(reason=_REASONS[result.status], output=result.output, error=error, artefact=artefact)

    def _local(self, value: str) -> str:
        if value.startswith(SCHEME):
            return str(self.storage.path(value))
        if value.startswith("package://"):
            return str(self.packages / value.removeprefix("package://"))
        return value.removeprefix("file://")

    def _result(self) -> JobResult | None:
        try:
            return JobResult.model_validate_json((self.folder / "result.json").read_bytes())
        except (OSError, ValidationError):
            return None

    def _crash(self, status: int, artefact: str | None) -> ErrorBody:
        how = f"signal {-status}" if status < 0 else f"status {status}"
        log = (self.storage.path(artefact) if artefact else self.folder) / "log.txt"
        tail = [line[:LOG_LINE_CHARACTERS] for line in _end_of(log).splitlines()[-LOG_TAIL_LINES:]]
        return ErrorBody(
            code="engine_crashed",
            message=f"the engine ended with {how}; the last lines of its log follow, all of it is in the task's log",
            details=[{"log": tail}],
        )

    def _store(self) -> str:
        kept = self.folder / "kept"
        kept.mkdir()
        for name in KEPT:
            if (self.folder / name).exists():
                os.rename(self.folder / name, kept / name)
        return self.storage.put_tree(kept, f"{self.key}/left")


def _bounded(error: ErrorBody | None) -> ErrorBody | None:
    """The first details, as many as a message on the bus has room for; all of them stand in the artefact."""
    if error is None:
        return None
    kept, size = list[dict[str, Any]](), 0
    for detail in error.details:
        size += len(json.dumps(detail, default=str, ensure_ascii=False).encode(errors="replace"))
        if size > MAX_DETAILS_BYTES:
            break
        kept.append(detail)
    return error.model_copy(update={"details": kept})


def _end_of(log: Path) -> str:
    if not log.exists():
        return ""
    with log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - LOG_TAIL_BYTES))
        return file.read().decode(errors="replace")


def _link(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)
