"""Preparing and counting: what is asked for, what is waited for, what is registered in the end, and its lineage."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from studio_rig import GALLERY_MODEL, Rig

from finery_contracts.datasets import DatasetState, DatasetView
from finery_contracts.errors import ErrorBody
from finery_contracts.jobs import TaskKind
from finery_contracts.tasks import EndReason, TaskState
from finery_contracts.work import Claim

CLEAN: list[dict[str, Any]] = [{"step": "exact_duplicates"}, {"step": "personal"}]


async def submit(studio: Rig, **said: Any) -> Any:
    async with studio.http() as api:
        return await api.post("/api/v1/tasks", json={"kind": "prepare", **said})


async def made_of(studio: Rig, *datasets: str, **said: Any) -> str:
    answer = await submit(studio, datasets=list(datasets), steps=CLEAN, **said)
    assert answer.status_code == 201, answer.text
    return answer.json()["id"]


async def lineage(studio: Rig, ref: str) -> dict[str, Any]:
    async with studio.http() as api:
        return (await api.get(f"/api/v1/datasets/{ref}/lineage")).json()


async def test_a_preparation_waits_for_its_sources_and_registers_both_sides(studio: Rig) -> None:
    first, second = await studio.upload("a.csv"), await studio.upload("b.csv", sha="b" * 64)
    task = await made_of(studio, "a.csv", second.id, output="mixture", seed=7)
    assert (await studio.task(task)).waits_for == [first.task, second.task]
    assert await studio.claim(TaskKind.PREPARE) is None

    await studio.work(TaskKind.INGEST)
    claim = await studio.claim(TaskKind.PREPARE)
    assert claim is not None
    spec: Any = claim.spec
    ready = await studio.dataset(first.id)
    assert next((s.dataset, s.name, s.version, s.path) for s in spec.sources) == (first.id, "a.csv", 2, ready.content)
    assert ([step.step for step in spec.steps], spec.seed) == (["exact_duplicates", "personal"], 7)
    report = await studio.end(claim)
    await studio.write(lambda tx: studio.studio.tasks.on_report(tx, report))

    done = await studio.task(task)
    train, aside = await studio.dataset(done.result["dataset"]), await studio.dataset(done.result["validation"])
    assert (train.name, train.state, train.records, train.size_bytes) == ("mixture", DatasetState.READY, 80, 800)
    assert (aside.name, aside.records, aside.sha256) == ("mixture-validation", 20, "e" * 64)
    assert train.content == f"{done.artefact}/out/records.parquet"
    assert aside.content == f"{done.artefact}/out/validation.parquet"
    assert train.lineage is not None
    assert aside.lineage is not None
    assert (train.lineage.task, train.lineage.seed, train.lineage.part) == (task, 7, "train")
    assert aside.lineage.part == "validation"
    assert await studio.said(train.id) == ["dataset.ready"]
    tuning = await studio.tune("mixture", validation="mixture-validation", tolerant=False)
    assert tuning.waits_for != [task], "what is ready need not be waited for"


async def test_what_a_preparation_makes_again_is_kept_once(studio: Rig) -> None:
    def left(claim: Claim, name: str) -> Path:
        storage = studio.studio.storage
        return storage.place(f"store://{claim.project}/tasks/{claim.task_id}/{claim.attempt}/left") / "out" / name

    source = await studio.upload()
    await studio.work(TaskKind.INGEST)
    made, files = list[DatasetView](), list[Path]()
    for name in ("once", "again"):
        task = await made_of(studio, source.id, output=name)
        claim = await studio.claim(TaskKind.PREPARE)
        assert claim is not None
        for part in ("records", "validation"):
            files.append(left(claim, f"{part}.parquet"))
            files[-1].parent.mkdir(parents=True, exist_ok=True)
            files[-1].write_bytes(b"the same")
        await studio.end(claim)
        made += [await studio.dataset((await studio.task(task)).result[part]) for part in ("dataset", "validation")]

    assert [view.content for view in made[2:]] == [view.content for view in made[:2]]
    assert [file.exists() for file in files] == [True, True, False, False]
    assert made[1].statistics == f"{(await studio.task(made[1].task or '')).artefact}/out/validation_stats.json"
    async with studio.http() as api:
        await api.delete(f"/api/v1/datasets/{made[0].id}?confirm=DELETE")
    await studio.pass_time(hours=24 * 365)
    assert [file.exists() for file in files[:2]] == [True, True]


@pytest.mark.parametrize("reason", [EndReason.USER_MISTAKE, EndReason.TERMINATED])
async def test_a_preparation_that_does_not_succeed_leaves_no_dataset(studio: Rig, reason: EndReason) -> None:
    source = await studio.upload()
    task = await made_of(studio, source.id)
    await studio.work(TaskKind.INGEST)
    claim = await studio.claim(TaskKind.PREPARE)
    assert claim is not None
    await studio.end(claim, reason=reason, error=ErrorBody(code="dataset_empty", message="no record is left"))

    done = await studio.task(task)
    assert done.state in (TaskState.FAILED, TaskState.TERMINATED)
    assert done.result == {}
    async with studio.http() as api:
        assert [view["id"] for view in (await api.get("/api/v1/datasets")).json()["data"]] == [source.id]


async def test_a_source_that_is_rejected_fails_what_waits_for_it(studio: Rig) -> None:
    source = await studio.upload()
    task = await made_of(studio, source.id)
    claim = await studio.claim(TaskKind.INGEST)
    assert claim is not None
    await studio.end(claim, reason=EndReason.USER_MISTAKE, error=ErrorBody(code="invalid", message="line 17"))
    failed = await studio.task(task)
    assert failed.error is not None
    assert (failed.state, failed.error.code, failed.error.message) == (TaskState.FAILED, "invalid_dataset", "line 17")
    refused = await submit(studio, datasets=[source.id], steps=CLEAN)
    assert (refused.status_code, refused.json()["error"]["code"]) == (400, "dataset_rejected")


async def test_faults_of_a_chain_are_told_all_at_once_by_their_places(studio: Rig) -> None:
    source = await studio.upload()
    steps: list[dict[str, Any]] = [
        {"step": "lenght"},
        {"step": "sample", "share": 2},
        {"step": "length", "max": 1, "x": 1},
    ]
    wrong = (await submit(studio, datasets=[source.id], steps=steps)).json()["error"]
    fields = [detail["param"] for detail in wrong["details"]]
    assert [field.split(".")[:2] for field in fields] == [["steps", "0"], ["steps", "1"], ["steps", "2"]]
    steps = [{"step": "split"}, {"step": "mix", "weights": [1, 2]}, {"step": "length", "unit": "tokens", "max": 9}]
    wrong = (await submit(studio, datasets=[source.id], steps=steps)).json()["error"]
    assert wrong["code"] == "steps_invalid"
    assert [detail["param"] for detail in wrong["details"]] == ["steps.0.step", "steps.1.weights", "steps.2.unit"]
    twice = (await submit(studio, datasets=[source.id, source.name], steps=[])).json()["error"]
    assert twice["code"] == "dataset_twice"
    absent = await submit(studio, datasets=[source.id], steps=[{"step": "contamination", "against": ["nowhere"]}])
    error = absent.json()["error"]
    assert (absent.status_code, error["code"], error["param"]) == (404, "file_not_found", "steps.against")
    unsaid = (await submit(studio, datasets=[source.id], steps=[{"step": "length"}])).json()["error"]
    assert unsaid["message"] == "the request is not valid: steps.0.length: give min, max or both"


async def test_an_evaluation_set_is_waited_for_and_stands_in_the_lineage(studio: Rig) -> None:
    source, exam = await studio.upload("a.csv"), await studio.upload("exam.csv", sha="b" * 64, purpose="evals")
    answer = await submit(studio, datasets=[source.id], steps=[{"step": "contamination", "against": ["exam.csv"]}])
    task = answer.json()["id"]
    assert (await studio.task(task)).waits_for == [source.task, exam.task]
    claims = {claim.spec.kind: claim for claim in await studio.work(TaskKind.INGEST, TaskKind.PREPARE)}
    spec: Any = claims[TaskKind.PREPARE].spec
    assert spec.steps[0].against == [exam.id]
    assert [(one.dataset, one.name) for one in spec.references] == [(exam.id, "exam.csv")]
    made = await studio.dataset((await studio.task(task)).result["dataset"])
    assert made.lineage is not None
    assert [used.dataset for used in made.lineage.references] == [exam.id]


async def test_tokens_in_a_length_bring_the_models_folder(studio: Rig) -> None:
    source = await studio.upload()
    steps = [{"step": "length", "unit": "tokens", "max": 512}]
    task = (await submit(studio, datasets=[source.id], steps=steps, model=GALLERY_MODEL)).json()
    model = await studio.model(GALLERY_MODEL)
    assert set(task["waits_for"]) == {source.task, model.tasks[0]}
    claims = {claim.spec.kind: claim for claim in await studio.work()}
    spec: Any = claims[TaskKind.PREPARE].spec
    assert spec.model == (await studio.model(model.id)).weights


async def test_a_count_asks_for_the_models_own_length_and_gives_its_figures(studio: Rig) -> None:
    source = await studio.upload()
    async with studio.http() as api:
        wish = {"kind": "count", "dataset": source.id, "model": GALLERY_MODEL}
        made = (await api.post("/api/v1/tasks", json=wish)).json()
        short = (await api.post("/api/v1/tasks", json={**wish, "max_length": 64})).json()
        wrong = await api.post("/api/v1/tasks", json={**wish, "max_length": 1, "lenght": 1})
    assert [detail["param"] for detail in wrong.json()["error"]["details"]] == ["max_length", "lenght"]
    specs: dict[str, Any] = {claim.task_id: claim.spec for claim in await studio.work() if claim.spec.kind == "count"}
    model = await studio.model(GALLERY_MODEL)
    assert (specs[made["id"]].max_length, specs[short["id"]].max_length) == (model.max_length, 64)
    assert specs[made["id"]].dataset == (await studio.dataset(source.id)).content
    output: Any = (await studio.task(made["id"])).output
    assert (output.tokens_per_epoch, output.truncated_records) == (8000, 5)


async def test_lineage_goes_up_to_the_sources_and_down_to_the_models(studio: Rig) -> None:
    first, second = await studio.upload("a.csv"), await studio.upload("b.csv", sha="b" * 64)
    stranger = await studio.upload("c.csv", sha="e" * 64)
    task = await made_of(studio, first.id, second.id)
    await studio.work(TaskKind.INGEST, TaskKind.PREPARE)
    made = (await studio.task(task)).result["dataset"]
    tuning = await studio.tune(made, tolerant=False)
    await studio.work()
    model = (await studio.task(tuning.id)).result["model"]

    up_and_down = await lineage(studio, made)
    nodes = {node["id"]: node["noun"] for node in up_and_down["nodes"]}
    assert {first.id, second.id, task, made, tuning.id, model} <= nodes.keys()
    assert stranger.id not in nodes
    edges = {(edge["source"], edge["target"]) for edge in up_and_down["edges"]}
    assert {
        (first.id, task),
        (second.id, task),
        (task, made),
        (made, tuning.id),
        (made, model),
        (tuning.id, model),
    } <= edges
    below = {node["id"] for node in (await lineage(studio, first.id))["nodes"]}
    assert {first.id, task, made, tuning.id, model} <= below
    assert second.id not in below, "what else went into what it made is not what it comes from"
    async with studio.http() as api:
        assert (await api.get("/api/v1/datasets/nothing/lineage")).status_code == 404


async def test_the_lineage_of_a_dataset_outlives_the_task_that_made_it(studio: Rig) -> None:
    source = await studio.upload()
    task = await made_of(studio, source.id)
    claims = await studio.work(TaskKind.INGEST, TaskKind.PREPARE)
    assert claims[-1].task_id == task
    made = (await studio.task(task)).result["dataset"]
    used = (await studio.dataset(made)).lineage
    assert used is not None
    async with studio.http() as api:
        gone = await api.delete(f"/api/v1/tasks/{task}", params={"confirm": "DELETE"})
    assert gone.status_code == 200
    assert (await studio.dataset(made)).lineage == used
