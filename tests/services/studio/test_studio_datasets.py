"""Datasets: bytes kept once, removed when nobody has them, ready or rejected by their ingest."""

from __future__ import annotations

from pathlib import Path

import pytest
from studio_rig import Rig, studio_rig

from finery_contracts.datasets import DatasetState
from finery_contracts.errors import Conflict, ErrorBody, InvalidRequest
from finery_contracts.jobs import TaskKind
from finery_contracts.tasks import EndReason
from finery_studio.datasets import removal

FAULT = ErrorBody(code="invalid_training_file", message="line 17: broken", details=[{"line": 17}])


def blobs(folder: Path) -> list[Path]:
    return [path for path in (folder / "store").rglob("*") if path.is_file()]


async def test_the_same_bytes_twice_are_kept_once_and_go_with_the_last_dataset(studio: Rig, tmp_path: Path) -> None:
    async with studio.http() as api:
        files = [
            (await api.post("/v1/files", files={"file": (name, b"x")}, data={"purpose": "user_data"})).json()
            for name in ("a.jsonl", "b.jsonl")
        ]
        assert len(blobs(tmp_path)) == 1

        await api.delete(f"/v1/files/{files[0]['id']}")
        assert (await api.get(f"/v1/files/{files[1]['id']}/content")).content == b"x"
        await api.delete(f"/v1/files/{files[1]['id']}")

        await studio.pass_time(hours=23)
        assert len(blobs(tmp_path)) == 1
        await studio.pass_time(hours=2)
        assert blobs(tmp_path) == []
        assert (await api.get("/v1/files")).json()["data"] == []


async def test_what_is_larger_than_the_limit_leaves_nothing(tmp_path: Path) -> None:
    studio = await studio_rig(tmp_path, max_upload_bytes=4)
    async with studio.http() as api:
        answer = await api.post("/v1/files", files={"file": ("a", b"12345")}, data={"purpose": "fine-tune"})
    assert (answer.status_code, answer.json()["error"]["code"]) == (413, "file_too_large")
    assert blobs(tmp_path) == []
    assert await studio.claim() is None
    studio.studio.database.close()


async def test_a_filename_is_only_a_name_and_a_name_has_a_limit(studio: Rig) -> None:
    async with studio.http() as api:
        made = await api.post("/api/v1/datasets", files={"file": ("..\\..//etc/x.jsonl", b"x")})
        long = await api.post("/api/v1/datasets", files={"file": ("a", b"x")}, data={"name": "n" * 256})
    assert made.json()["filename"] == "x.jsonl"
    assert (long.status_code, long.json()["error"]["code"]) == (400, "name_invalid")


async def test_ingest_makes_a_dataset_ready_once(studio: Rig) -> None:
    dataset = await studio.upload()
    claim = await studio.claim()
    assert claim is not None
    assert claim.spec.model_dump()["source"] == f"store://{studio.actor.project}/blobs/{'a' * 64}"

    report = await studio.end(claim)
    await studio.write(lambda tx: studio.studio.tasks.on_report(tx, report))

    ready = await studio.dataset(dataset.id)
    assert (ready.state, ready.records, ready.version) == (DatasetState.READY, 500, 2)
    assert ready.content == f"{report.end.artefact}/out/records.parquet"  # type: ignore[union-attr]
    assert await studio.said(dataset.id) == ["dataset.uploaded", "dataset.ready"]


async def test_a_rejected_dataset_keeps_its_report_and_is_refused_or_fails_the_job(studio: Rig) -> None:
    dataset = await studio.upload()
    claim = await studio.claim()
    assert claim is not None
    await studio.end(claim, reason=EndReason.USER_MISTAKE, error=FAULT, metrics={"records": 9, "bad_records": 1500})

    rejected = await studio.dataset(dataset.id)
    assert (rejected.state, rejected.error) == (DatasetState.REJECTED, FAULT)
    assert (rejected.records, rejected.bad_records) == (0, 1500)
    assert rejected.report is not None
    with pytest.raises(InvalidRequest) as refused:
        await studio.tune(dataset.id, tolerant=False)
    assert (refused.value.error_code, refused.value.details) == ("dataset_rejected", [{"line": 17}])
    job = await studio.tune(dataset.id, tolerant=True)  # as OpenAI does: the job fails, not the call
    await studio.work()
    failed = await studio.task(job.id)
    assert failed.error is not None
    assert (failed.error.code, failed.error.param) == ("invalid_training_file", "training_file")


async def test_a_faulty_validation_file_is_told_apart_from_the_training_file(studio: Rig) -> None:
    train, validation = await studio.upload("t.jsonl"), await studio.upload("v.jsonl", sha="b" * 64)
    job = await studio.tune(train.id, validation=validation.id)
    for _ in range(2):
        claim = await studio.claim(TaskKind.INGEST)
        assert claim is not None
        bad = claim.task_id == validation.task
        await studio.end(claim, **({"reason": EndReason.USER_MISTAKE, "error": FAULT} if bad else {}))

    failed = await studio.task(job.id)
    assert failed.error is not None
    assert (failed.error.code, failed.error.param) == ("invalid_validation_file", "validation_file")
    assert failed.error.details == [{"line": 17}]


async def test_a_dataset_in_use_is_not_deleted_its_own_ingest_does_not_count(studio: Rig) -> None:
    used, free = await studio.upload(), await studio.upload("b.jsonl", sha="b" * 64)
    job = await studio.tune(used.id)

    with pytest.raises(Conflict) as refused:
        await studio.write(lambda tx: removal.delete(tx, studio.actor.project, used.id))
    gone = await studio.write(lambda tx: removal.delete(tx, studio.actor.project, free.id))

    assert refused.value.details == [{"task": job.id}]
    assert gone.state is DatasetState.DELETED


async def test_a_file_of_another_purpose_cannot_train(studio: Rig) -> None:
    dataset = await studio.upload(purpose="user_data")
    with pytest.raises(InvalidRequest) as refused:
        await studio.tune(dataset.id)
    assert refused.value.error_code == "invalid_purpose"


async def test_a_thousand_bad_records_stand_in_the_dataset_and_a_few_of_them_in_lists(studio: Rig) -> None:
    faults = [{"file": "a.jsonl", "line": n, "reason": "r" * 200} for n in range(1_000)]
    dataset = await studio.upload()
    claim = await studio.claim()
    assert claim is not None
    error = ErrorBody(code="invalid_training_file", message="1000 bad records", details=faults)
    await studio.end(claim, reason=EndReason.USER_MISTAKE, error=error)

    async with studio.http() as api:
        one = (await api.get(f"/api/v1/datasets/{dataset.id}")).json()
        task = (await api.get(f"/api/v1/tasks/{dataset.task}")).json()
        lists = [(await api.get(f"/api/v1/{nouns}")).json()["data"][0] for nouns in ("datasets", "tasks")]
        files = (await api.get("/v1/files")).json()["data"][0]
    assert one["error"]["details"] == task["error"]["details"] == faults
    assert [len(listed["error"]["details"]) for listed in (*lists, task["attempts"][0])] == [20, 20, 20]
    assert (len(files["x_finery"]["errors"]), files["status"]) == (20, "error")
