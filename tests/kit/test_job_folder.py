"""Job folders: paths become local, what is reported has room on the bus, what was left lies in the store."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from finery_contracts.errors import ErrorBody, NotFound
from finery_contracts.jobs import CheckpointRef, EngineJob, IngestOutput, IngestSpec, JobResult, TuneSpec
from finery_contracts.tasks import EndReason
from finery_contracts.tuning import TuneParameters
from finery_contracts.work import Claim
from finery_kit.job_folder import MAX_DETAILS_BYTES, AttemptFolder
from finery_kit.storage import Storage

DONE = JobResult(
    status="succeeded", output=IngestOutput(format="csv", records=1, bad_records=0, content_sha256="c" * 64)
)  # fmt: skip


def a_folder(tmp_path: Path, spec: IngestSpec | TuneSpec | None = None, **said: object) -> AttemptFolder:
    storage = Storage(tmp_path.resolve() / "store")
    (tmp_path / "source").mkdir(exist_ok=True)
    storage.put_tree(tmp_path / "source", "prj_1/source")
    spec = spec or IngestSpec(source="store://prj_1/source", filename="store://prj_1/f")
    claim = Claim.model_validate({"task_id": "task_1", "attempt": 2, "project": "prj_1", "spec": spec, **said})
    return AttemptFolder(claim, tmp_path / "work" / "task_1" / "2", storage, tmp_path / "packages")


def left(files: AttemptFolder, result: JobResult | None, log: str = "") -> None:
    files.prepare(None)
    (files.folder / "log.txt").write_text(log)
    if result is not None:
        (files.folder / "result.json").write_text(result.model_dump_json())


def test_only_paths_become_local(tmp_path: Path) -> None:
    spec = TuneSpec(model="package://llm", train="store://prj_1/source", parameters=TuneParameters())
    files = a_folder(tmp_path, spec, resume_from=["store://prj_1/gone", "store://prj_1/source"])
    files.prepare("00-x")
    job = EngineJob.model_validate_json((files.folder / "job.json").read_bytes())
    here = str(files.storage.root / "prj_1" / "source")
    assert (job.spec.model_dump()["train"], job.resume_from) == (here, [here])
    assert job.spec.model_dump()["model"] == str(tmp_path / "packages" / "llm")

    named = a_folder(tmp_path / "b")
    named.prepare(None)
    job = EngineJob.model_validate_json((named.folder / "job.json").read_bytes())
    assert job.spec.model_dump()["filename"] == "store://prj_1/f"


def test_an_input_that_is_gone_is_said(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="is gone"):
        a_folder(tmp_path, IngestSpec(source="store://prj_1/none", filename="f")).prepare(None)


@pytest.mark.parametrize(
    ("result", "status", "told_to", "reason"),
    [
        (DONE, 0, None, EndReason.SUCCEEDED),
        (DONE, 0, "stop", EndReason.SUCCEEDED),  # it was done before it heard of it
        (DONE, 0, "leave", EndReason.SUCCEEDED),
        (DONE, -9, None, EndReason.CRASHED),
        (None, 0, None, EndReason.CRASHED),
        (None, -11, None, EndReason.CRASHED),
        (None, -9, "stop", EndReason.CRASHED),
        (None, 0, "leave", EndReason.LOST),
        (None, -9, "cut_off", EndReason.LOST),
        (JobResult(status="terminated"), 0, "stop", EndReason.TERMINATED),
        (JobResult(status="terminated"), 0, "leave", EndReason.LOST),
        (JobResult(status="terminated"), 0, None, EndReason.LOST),  # somebody else's SIGTERM
        (JobResult(status="failed", error=ErrorBody(code="c", message="m")), 2, None, EndReason.USER_MISTAKE),
        (JobResult(status="failed", error=ErrorBody(code="c", message="m")), 1, None, EndReason.CRASHED),
    ],
)
def test_how_an_attempt_ended(
    tmp_path: Path, result: JobResult | None, status: int, told_to: str | None, reason: EndReason
) -> None:
    files = a_folder(tmp_path)
    left(files, result)
    end = files.conclude(status, told_to=told_to)
    assert end.reason is reason
    assert end.artefact == "store://prj_1/tasks/task_1/2/left"
    lost = "worker_left" if told_to else "engine_stopped"
    codes = {EndReason.LOST: lost, EndReason.CRASHED: "engine_crashed"}
    said = result.error if result else None
    assert (end.error.code if end.error else None) == (said.code if said else codes.get(reason))


def test_a_crash_shows_the_end_of_the_log_and_no_more_than_fits(tmp_path: Path) -> None:
    files = a_folder(tmp_path)
    left(files, None, "first\n" + "x" * 2**20 + "\nlast\n")
    end = files.conclude(-11, told_to=None)
    assert end.error is not None
    assert "signal 11" in end.error.message
    assert end.error.details[0]["log"][-1] == "last"
    assert "first" not in end.error.details[0]["log"]
    assert len(end.error.model_dump_json()) < 20_000


def test_an_engine_that_knew_what_failed_is_tried_again_and_its_words_are_kept(tmp_path: Path) -> None:
    files = a_folder(tmp_path)
    known = ErrorBody(code="source_unreachable", message="cannot connect to db:5432: Connection refused")
    left(files, JobResult(status="failed", error=known), "Traceback …")

    end = files.conclude(1, told_to=None)

    assert (end.reason, end.error) == (EndReason.CRASHED, known)


def test_a_thousand_usual_details_all_have_room(tmp_path: Path) -> None:
    files = a_folder(tmp_path)
    details = [{"file": "训练数据.jsonl", "line": n, "reason": "空" * 60, "remedy": "r" * 60} for n in range(1000)]
    left(files, JobResult(status="failed", error=ErrorBody(code="c", message="m", details=details)))

    end = files.conclude(2, told_to=None)

    assert end.error is not None
    assert end.error.details == details


def test_a_mistake_with_endless_details_keeps_the_first_and_the_artefact_keeps_all(tmp_path: Path) -> None:
    files = a_folder(tmp_path)
    details = [{"line": n, "file": "n" * 1000} for n in range(1000)]
    left(files, JobResult(status="failed", error=ErrorBody(code="c", message="m", details=details)))

    end = files.conclude(2, told_to=None)

    assert end.error is not None
    assert end.error.details == details[: len(end.error.details)]
    assert 100 < len(end.error.details) < 1000
    assert len(end.error.model_dump_json()) < MAX_DETAILS_BYTES * 1.1
    kept = files.storage.path(f"{end.artefact}/result.json").read_text()
    assert len(json.loads(kept)["error"]["details"]) == 1000


def test_a_checkpoint_outlives_the_engines_own_copy_and_one_that_is_gone_is_none(tmp_path: Path) -> None:
    files = a_folder(tmp_path)
    files.prepare(None)
    made = files.folder / "checkpoints" / "checkpoint-4"
    made.mkdir(parents=True)
    (made / "state.json").write_text("4")

    kept = files.keep_checkpoint(CheckpointRef(step=4, path="checkpoint-4"))
    (made / "state.json").unlink()

    assert kept is not None
    assert (files.storage.path(kept.path) / "state.json").read_text() == "4"
    assert files.keep_checkpoint(CheckpointRef(step=5, path="checkpoint-5")) is None
