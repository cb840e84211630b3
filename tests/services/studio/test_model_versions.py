"""Versions of a name, publishing a checkpoint or a merged model, and what becomes of the bytes when all that goes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from studio_rig import OUTPUTS, Rig, code_of

from finery_contracts.datasets import DatasetView
from finery_contracts.errors import Conflict, NotFound
from finery_contracts.jobs import CheckpointRef, MergeOutput, MergeSpec, Phase, TaskKind
from finery_contracts.models import ModelState, ModelView
from finery_contracts.work import Claim, Report
from finery_studio.datasets import removal as dataset_removal
from finery_studio.models import removal, versions

MERGED = MergeOutput(
    architecture="llama", parameters=10**8, size_bytes=9, dtype="bf16", max_length=2048, merged_tensors=4
)


@pytest.fixture(autouse=True)
def merges(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(OUTPUTS, TaskKind.MERGE, MERGED)


def put(studio: Rig, url: str, text: str = "bytes") -> Path:
    path = studio.studio.storage.place(url)
    path.write_text(text)
    return path


async def tuned(studio: Rig, dataset: str | None = None, **said: Any) -> ModelView:
    """A tuned model with all its files, and a kept checkpoint of step 7."""
    task = await studio.tune(dataset or (await studio.upload()).id, **said)
    await studio.work(TaskKind.INGEST, TaskKind.IMPORT, TaskKind.VALIDATE)
    claim = await studio.claim()
    assert claim is not None
    root = f"store://{claim.project}/tasks/{claim.task_id}/1"
    for place in ("left/out/adapter", "checkpoints/checkpoint-7"):
        for name in ("adapter_config.json", "adapter_model.safetensors"):
            put(studio, f"{root}/{place}/{name}", place)
    put(studio, f"{root}/checkpoints/checkpoint-7/optimizer.pt")
    kept = CheckpointRef(step=7, path=f"{root}/checkpoints/checkpoint-7")
    await studio.write(lambda tx: studio.studio.tasks.on_report(tx, _running(claim, kept)))
    await studio.end(claim, seq=2)
    return await studio.model((await studio.task(task.id)).result["model"])


def _running(claim: Claim, kept: CheckpointRef) -> Report:
    return Report(
        task_id=claim.task_id, attempt=claim.attempt, project=claim.project, worker="w", seq=1, phase=Phase.RUNNING,
        checkpoints=[kept],
    )  # fmt: skip


async def published(studio: Rig, name: str) -> ModelView:
    """A tuned model that becomes the next version of a name."""
    model = await tuned(studio)
    return await studio.write(lambda tx: versions.publish(tx, studio.actor.project, model.id, name, new_version=True))


async def numbers(studio: Rig, name: str) -> list[tuple[int, bool]]:
    async with studio.http() as api:
        found = (await api.get(f"/api/v1/models/{name}/versions")).json()["data"]
    return [(version["number"], version["current"]) for version in found]


async def test_a_name_means_its_current_version_and_each_version_stays_what_it_was(studio: Rig) -> None:
    first, second = await published(studio, "mine"), await published(studio, "mine")

    assert (first.number, second.number) == (1, 2)
    assert (await studio.model("mine")).id == (await studio.model("mine@2")).id == second.id
    assert (await studio.model("mine@1")).id == first.id
    assert (await studio.model("mine@1")).adapter == first.adapter
    with pytest.raises(NotFound):
        await studio.model("mine@3")

    await studio.write(lambda tx: versions.make_current(tx, studio.actor.project, "mine@1"))

    assert (await studio.model("mine")).id == first.id
    assert (await studio.model("mine@2")).id == second.id
    assert await numbers(studio, "mine") == [(2, False), (1, True)]
    assert (await studio.said(second.id))[-1] == "model.stepped_back"
    with pytest.raises(Conflict, match="current one already"):
        await studio.write(lambda tx: versions.make_current(tx, studio.actor.project, "mine"))


async def test_without_asking_for_a_version_a_name_in_use_is_refused(studio: Rig) -> None:
    await published(studio, "mine")
    other = await tuned(studio)
    with pytest.raises(Conflict) as refused:
        await studio.write(lambda tx: versions.publish(tx, studio.actor.project, other.id, "mine"))
    assert refused.value.error_code == "name_taken"
    assert await numbers(studio, "mine") == [(1, True)]


async def test_a_bare_name_of_several_versions_is_not_deleted_and_a_number_never_comes_back(studio: Rig) -> None:
    for _ in range(2):
        await published(studio, "mine")
    async with studio.http() as api:
        refused = await api.delete("/api/v1/models/mine?confirm=DELETE")
        assert (refused.status_code, refused.json()["error"]["code"]) == (409, "several_versions")
        assert (await api.delete("/api/v1/models/mine@2")).json()["error"]["code"] == "confirm_missing"
        assert (await api.delete("/api/v1/models/mine@2?confirm=DELETE")).status_code == 200

    assert await numbers(studio, "mine") == [(1, True)]
    await published(studio, "mine")
    assert await numbers(studio, "mine") == [(3, True), (1, False)]


async def test_a_base_in_use_is_told_each_version_that_stands_on_it(studio: Rig) -> None:
    for _ in range(2):
        await published(studio, "mine")
    async with studio.http() as api:
        refused = await api.delete(f"/api/v1/models/{(await studio.model('mine')).base}?confirm=DELETE")
    details = refused.json()["error"]["details"]
    assert {detail["used_by"] for detail in details} == {"mine", "mine@1"}


async def test_a_checkpoint_becomes_a_model_of_its_own_with_the_adapter_alone(studio: Rig) -> None:
    model = await tuned(studio)
    async with studio.http() as api:
        wrong = await api.post(f"/api/v1/models/{model.id}/publish", json={"step": 8})
        made = ModelView.model_validate(
            (await api.post(f"/api/v1/models/{model.id}/publish", json={"step": 7, "name": "early"})).json()
        )

    assert wrong.json()["error"]["code"] == "checkpoint_not_found"
    assert "kept are: 7" in wrong.json()["error"]["message"]
    assert (made.published, made.expires_at, made.lineage["step"], made.base) == (True, None, "7", model.base)
    assert made.id != model.id
    assert made.openai_name == f"{model.openai_name}:ckpt-step-7"
    folder = studio.studio.storage.path(made.adapter or "")
    assert {path.name: path.read_text() for path in folder.iterdir()} == {
        "adapter_config.json": "checkpoints/checkpoint-7", "adapter_model.safetensors": "checkpoints/checkpoint-7",
    }  # fmt: skip


async def test_a_merged_model_is_made_by_a_task_validated_and_takes_the_name_when_it_is_ready(studio: Rig) -> None:
    first = await published(studio, "mine")
    async with studio.http() as api:
        said = {"form": "merged", "step": 7, "new_version": True}
        made = (await api.post("/api/v1/models/mine/publish", json=said)).json()
    assert (made["state"], made["current"], made["number"]) == ("importing", False, 2)
    assert (await studio.model("mine")).id == first.id

    done = await studio.work()

    assert [claim.spec.kind for claim in done] == [TaskKind.MERGE, TaskKind.VALIDATE]
    spec = done[0].spec
    assert isinstance(spec, MergeSpec)
    assert spec.adapter.endswith("/checkpoints/checkpoint-7")
    assert spec.model == first.weights
    whole = await studio.model("mine")
    assert (whole.id, whole.state, whole.base, whole.adapter) == (made["id"], ModelState.READY, None, None)
    assert whole.weights == f"store://{whole.project}/tasks/{done[0].task_id}/1/left/out/model"
    assert whole.lineage["merged_from"] == first.id
    assert await numbers(studio, "mine") == [(2, True), (1, False)]


async def test_only_what_was_tuned_can_be_merged(studio: Rig) -> None:
    model = await tuned(studio)
    async with studio.http() as api:
        answer = await api.post(f"/api/v1/models/{model.base}/publish", json={"form": "merged"})
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "not_tuned")


async def test_the_bytes_of_a_deleted_model_go_and_those_that_others_need_stay(studio: Rig) -> None:
    model = await tuned(studio)
    storage, root = studio.studio.storage, f"store://{model.project}/tasks/{model.lineage['task']}/1"
    weights = put(studio, f"{model.weights}/model.safetensors")
    async with studio.http() as api:
        early = (await api.post(f"/api/v1/models/{model.id}/publish", json={"step": 7, "name": "early"})).json()
    card = put(studio, f"store://{model.project}/models/{early['id']}/certificate/README.md")
    await studio.pass_time()
    assert card.exists()

    await studio.write(lambda tx: removal.delete(tx, model.project, model.id, []))
    await studio.pass_time()

    assert storage.find(f"{root}/left/out") is None
    assert storage.find(f"{root}/checkpoints/checkpoint-7") is not None, "early can still be merged from it"
    assert storage.find(early["adapter"]) is not None
    assert weights.exists()
    with pytest.raises(Conflict):
        await studio.write(lambda tx: removal.restore(tx, model.project, model.id))

    await studio.write(lambda tx: removal.delete(tx, model.project, "early", []))
    await studio.pass_time()

    assert (storage.find(early["adapter"]), card.exists()) == (None, False)
    assert storage.find(f"{root}/checkpoints") is None
    assert weights.exists(), "the base is a model of its own"
    await studio.write(lambda tx: removal.delete(tx, model.project, model.base or "", []))
    await studio.pass_time()
    assert not weights.exists()


async def test_what_openais_surface_deleted_comes_back_for_a_day(studio: Rig) -> None:
    model = await published(studio, "mine")
    adapter = studio.studio.storage.path(model.adapter or "")
    async with studio.http() as api:
        assert (await api.delete("/v1/models/mine")).json()["deleted"]
        assert (await api.get("/api/v1/models/mine")).status_code == 404
        await studio.pass_time(hours=23)
        assert adapter.is_dir()
        back = await api.post("/api/v1/models/mine/restore")
        assert (back.json()["id"], back.json()["state"]) == (model.id, "ready")
        await studio.pass_time(hours=48)
        assert adapter.is_dir(), "it was brought back"

        await api.delete("/v1/models/mine")
        await studio.pass_time(hours=25)
        late = await api.post("/api/v1/models/mine/restore")
    assert (late.status_code, late.json()["error"]["code"]) == (409, "not_restorable")
    assert not adapter.exists()


async def test_a_restored_model_whose_name_was_given_away_is_found_by_its_number(studio: Rig) -> None:
    first = await published(studio, "mine")
    async with studio.http() as api:
        await api.delete("/v1/models/mine")
        second = await published(studio, "mine")
        back = (await api.post(f"/api/v1/models/{first.id}/restore")).json()

    assert (back["current"], back["number"]) == (False, 1)
    assert (await studio.model("mine")).id == second.id
    assert (await studio.model("mine@1")).id == first.id


async def test_the_bytes_of_a_dataset_go_original_canonical_and_report(studio: Rig) -> None:
    async with studio.http() as api:
        made = (await api.post("/api/v1/datasets", files={"file": ("a.jsonl", b"{}")})).json()
        claim = await studio.claim()
        assert claim is not None
        root = f"store://{claim.project}/tasks/{claim.task_id}/1/left"
        files = [put(studio, f"{root}/out/{name}") for name in ("records.parquet", "report.jsonl", "stats.json")]
        log = put(studio, f"{root}/log.txt")
        await studio.end(claim)
        blob = studio.studio.storage.path(claim.spec.source)  # type: ignore[union-attr]
        assert (await api.delete(f"/api/v1/datasets/{made['id']}")).json()["error"]["code"] == "confirm_missing"
        assert (await api.delete(f"/api/v1/datasets/{made['id']}?confirm=DELETE")).status_code == 200

    await studio.pass_time()

    assert not any(path.exists() for path in (*files, blob))
    assert log.exists(), "logs age by their own rule"


async def test_a_dataset_comes_back_for_a_day_and_bytes_that_another_has_stay(studio: Rig) -> None:
    async with studio.http() as api:
        kept, gone = [
            (await api.post("/v1/files", files={"file": (name, b"x")}, data={"purpose": "user_data"})).json()
            for name in ("a", "b")
        ]
        ids = [found["x_finery"]["dataset"] for found in (kept, gone)]
        await api.delete(f"/v1/files/{gone['id']}")
        back = await api.post(f"/api/v1/datasets/{ids[1]}/restore")
        assert DatasetView.model_validate(back.json()).state == "ready"
        await studio.write(lambda tx: dataset_removal.delete(tx, studio.actor.project, ids[1]))
        await studio.pass_time(hours=48)
        assert (await api.get(f"/v1/files/{kept['id']}/content")).content == b"x"
        assert (await api.post(f"/api/v1/datasets/{ids[1]}/restore")).status_code == 409


async def test_a_place_that_an_unfinished_task_reads_waits_for_it(studio: Rig) -> None:
    model = await published(studio, "mine")
    async with studio.http() as api:
        await api.post("/api/v1/models/mine/publish", json={"form": "merged", "name": "whole"})
    claim = await studio.claim()
    assert claim is not None
    adapter = studio.studio.storage.path(model.adapter or "")
    with pytest.raises(Conflict, match=claim.task_id):
        await studio.write(lambda tx: removal.delete(tx, model.project, "mine", []))
    held = await studio.model("mine")
    await studio.write(lambda tx: removal.let_model_go(tx, held))

    await studio.pass_time()
    assert adapter.is_dir()
    await studio.end(claim)
    await studio.pass_time(hours=1)
    assert not adapter.exists()


async def test_of_two_deletions_of_a_name_the_one_that_can_be_taken_back_is(studio: Rig) -> None:
    await published(studio, "mine")
    async with studio.http() as api:
        await api.delete("/api/v1/models/mine?confirm=DELETE")
        second = await published(studio, "mine")
        await api.delete("/v1/models/mine")
        back = await api.post("/api/v1/models/mine/restore")
        assert (back.status_code, back.json()["id"]) == (200, second.id)
        await api.delete("/v1/models/mine")
        assert (await api.post("/api/v1/models/mine@2/restore")).json()["id"] == second.id
        for number in ("3", "9" * 30, "9" * 5000):
            none = await api.post(f"/api/v1/models/mine@{number}/restore")
            assert code_of(none) == (404, "model_not_found")


async def test_an_adapter_does_not_come_back_without_its_base(studio: Rig) -> None:
    model = await published(studio, "mine")
    async with studio.http() as api:
        await api.delete("/v1/models/mine")
        await api.delete(f"/v1/models/{model.base}")
        refused = await api.post("/api/v1/models/mine/restore")
        assert code_of(refused) == (409, "base_deleted")
        assert f"restore {model.base} first" in refused.json()["error"]["message"]
        assert (await api.post(f"/api/v1/models/{model.base}/restore")).status_code == 200
        assert (await api.post("/api/v1/models/mine/restore")).status_code == 200

        await api.delete("/v1/models/mine")
        await api.delete(f"/api/v1/models/{model.base}?confirm=DELETE")
        gone = await api.post("/api/v1/models/mine/restore")
    assert code_of(gone) == (409, "base_deleted")
    assert "went for good" in gone.json()["error"]["message"]


async def test_a_search_finds_a_name_however_it_is_spelled(studio: Rig) -> None:
    await published(studio, "Helpdesk")
    async with studio.http() as api:
        found = (await api.get("/api/v1/models", params={"search": "helpDESK"})).json()["data"]
    assert [view["name"] for view in found] == ["Helpdesk"]


async def test_what_was_restored_and_then_deleted_for_good_goes_at_once(studio: Rig) -> None:
    model = await published(studio, "mine")
    storage = studio.studio.storage
    adapter, task = storage.path(model.adapter or ""), model.lineage["task"]
    checkpoints = storage.path(f"store://{model.project}/tasks/{task}/1/checkpoints")
    async with studio.http() as api:
        await api.post("/api/v1/models/mine/publish", json={"step": 7, "name": "early"})
        await api.delete("/v1/models/mine")
        await api.post("/api/v1/models/mine/restore")
        await api.delete("/v1/models/early")
        await studio.pass_time(hours=1)
        assert adapter.is_dir()
        await api.delete("/api/v1/models/mine?confirm=DELETE")
        await studio.pass_time()
        assert (adapter.exists(), checkpoints.is_dir()) == (False, True), "another one may still come back"
        assert (await api.post("/api/v1/models/early/restore")).status_code == 200
        await api.delete("/api/v1/models/early?confirm=DELETE")
    await studio.pass_time()
    assert not checkpoints.exists()
