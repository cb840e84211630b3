"""One picture of what came of what, asked from either end; and withdrawal along the same lines."""

from __future__ import annotations

from typing import Any

import pytest
from studio_rig import Rig
from test_model_versions import merges, tuned
from test_studio_preparing import made_of
from test_withdrawal import withdraw

from finery_contracts.datasets import DatasetLineage, DatasetReady
from finery_contracts.jobs import TaskKind
from finery_contracts.models import ModelReady
from finery_contracts.preparing import SourceUsed
from finery_kit.db import Transaction
from finery_studio import lineage
from finery_studio.datasets import store as dataset_store
from finery_studio.datasets.store import DatasetRow
from finery_studio.datasets.withdrawal import flagged_at_birth
from finery_studio.models import store as model_store
from finery_studio.models.store import ModelRow

__all__ = ["merges"]


async def picture(studio: Rig, noun: str, ref: str) -> dict[str, Any]:
    async with studio.http() as api:
        answer = await api.get(f"/api/v1/{noun}/{ref}/lineage")
    assert answer.status_code == 200, answer.text
    return answer.json()


def ids(graph: dict[str, Any]) -> set[str]:
    return {node["id"] for node in graph["nodes"]}


def arrows(graph: dict[str, Any]) -> set[tuple[str, str, str]]:
    return {(edge["source"], edge["target"], edge["role"]) for edge in graph["edges"]}


async def prepared(studio: Rig, *sources: str, **said: Any) -> str:
    task = await made_of(studio, *sources, **said)
    await studio.work(TaskKind.INGEST, TaskKind.PREPARE)
    return (await studio.task(task)).result["dataset"]


async def test_both_routes_answer_with_one_picture_in_one_form(studio: Rig) -> None:
    raw = await studio.upload("raw.jsonl")
    clean = await prepared(studio, raw.id, output="clean")
    model = await tuned(studio, clean)
    above, below = await picture(studio, "datasets", raw.id), await picture(studio, "models", model.id)
    assert above.keys() == below.keys() == {"of", "nodes", "edges", "complete"}
    assert (above["of"], below["of"], above["complete"]) == (raw.id, model.id, True)
    aside = (await studio.dataset("clean-validation")).id
    assert ids(above) - {aside} <= ids(below), "the other half of a split did not go into the model"
    assert (aside in ids(above), model.base in ids(above), model.base in ids(below)) == (True, False, True)
    chain = {(raw.id, clean, "source"), (clean, model.id, "dataset")}
    assert chain <= arrows(above)
    assert chain | {(model.base, model.id, "base")} <= arrows(below)
    tuning = model.lineage["task"]
    assert {(clean, tuning, "dataset"), (tuning, model.id, "made")} <= arrows(above) & arrows(below)
    import_task = (await studio.model(model.base or "")).tasks[0]
    assert (import_task, model.base, "made") in arrows(below)
    assert next(node for node in below["nodes"] if node["id"] == model.id)["number"] == 1


async def test_what_else_was_made_of_an_ancestor_is_not_in_the_picture(studio: Rig) -> None:
    data = await studio.upload()
    first, second = await tuned(studio, data.id), await tuned(studio, data.id)
    shown = ids(await picture(studio, "models", first.id))
    assert {data.id, first.base} <= shown
    assert shown.isdisjoint({second.id, second.lineage["task"]})
    assert {first.id, second.id} <= ids(await picture(studio, "models", first.base or ""))


async def test_a_picture_that_is_too_large_keeps_the_nearest_and_says_so(
    studio: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    raw = await studio.upload("raw.jsonl")
    middle = await prepared(studio, raw.id, output="middle")
    far = await prepared(studio, middle, output="far")
    monkeypatch.setattr(lineage, "MAX_NODES", 2)
    graph = await picture(studio, "datasets", raw.id)
    assert (ids(graph), graph["complete"]) == ({raw.id, middle}, False)
    assert arrows(graph) == {(raw.id, middle, "source")}
    monkeypatch.setattr(lineage, "MAX_NODES", 1_000)
    monkeypatch.setattr(lineage, "MAX_TASKS", 1)
    graph = await picture(studio, "datasets", raw.id)
    assert {raw.id, middle, far} <= ids(graph), "what made them is found by its id"
    assert graph["complete"] is False


async def test_a_circle_of_sources_ends(studio: Rig) -> None:
    first, second = await studio.upload("a.jsonl"), await studio.upload("b.jsonl", sha="b" * 64)
    await studio.work()
    for view, other in ((first, second), (second, first)):
        source = SourceUsed(dataset=other.id, name=other.name, version=2, content_sha256="")
        now = await studio.dataset(view.id)
        told = dataset_store.changed(now, lineage=DatasetLineage(sources=[source]))
        await studio.write(lambda tx, told=told: dataset_store.save(tx, told, DatasetReady))
    graph = await picture(studio, "datasets", first.id)
    assert {(first.id, second.id, "source"), (second.id, first.id, "source")} <= arrows(graph)
    assert (await withdraw(studio, first.id))["state"] == "withdrawn"
    assert [told.dataset for told in (await studio.dataset(second.id)).withdrawn_inputs] == [first.id]


async def test_a_withdrawal_reaches_grandchildren_by_preparation_tuning_merging_and_tuning_again(studio: Rig) -> None:
    raw = await studio.upload("raw.jsonl")
    clean = await prepared(studio, raw.id, output="clean")
    model = await tuned(studio, clean)
    async with studio.http() as api:
        await api.post(f"/api/v1/models/{model.id}/publish", json={"form": "merged", "name": "whole"})
        await studio.work()
    whole = await studio.model("whole")
    other = await studio.upload("other.jsonl", sha="e" * 64)
    again = await tuned(studio, other.id, model="whole")
    await withdraw(studio, raw.id)
    for found in (await studio.dataset(clean), await studio.model(model.id), await studio.model(whole.id)):
        assert [told.dataset for told in found.withdrawn_inputs] == [raw.id]
    assert [told.dataset for told in (await studio.model(again.id)).withdrawn_inputs] == [raw.id]
    assert (await studio.dataset(other.id)).withdrawn_inputs == []


async def test_what_is_made_of_a_flagged_dataset_later_is_born_with_the_flag(studio: Rig) -> None:
    raw = await studio.upload("raw.jsonl")
    clean = await prepared(studio, raw.id, output="clean")
    await withdraw(studio, raw.id)
    later = await prepared(studio, clean, output="later")
    async with studio.http() as api:
        copied = await api.post("/api/v1/tasks", json={"kind": "ingest", "dataset": clean, "output": "copied"})
        await studio.work(TaskKind.INGEST)
    for found in (later, copied.json()["result"]["dataset"]):
        view = await studio.dataset(found)
        assert [told.dataset for told in view.withdrawn_inputs] == [raw.id]
        assert "dataset.flagged" in await studio.said(found)


async def test_a_preparation_that_runs_while_its_source_is_withdrawn_makes_a_flagged_dataset(studio: Rig) -> None:
    raw = await studio.upload("raw.jsonl")
    task = await made_of(studio, raw.id, output="clean")
    await studio.work(TaskKind.INGEST)
    claim = await studio.claim(TaskKind.PREPARE)
    assert claim is not None
    await withdraw(studio, raw.id)
    await studio.end(claim)
    made = await studio.dataset((await studio.task(task)).result["dataset"])
    assert [told.reason for told in made.withdrawn_inputs] == ["consent was taken back"]


async def test_the_same_bytes_ingested_again_descend_from_the_dataset_that_brought_them(studio: Rig) -> None:
    raw = await studio.upload("raw.jsonl")
    await studio.work()
    async with studio.http() as api:
        made = await api.post("/api/v1/tasks", json={"kind": "ingest", "dataset": raw.id, "output": "again"})
        await studio.work()
    again = await studio.dataset(made.json()["result"]["dataset"])
    model = await tuned(studio, again.id)
    await withdraw(studio, raw.id)
    for found in (await studio.dataset(again.id), await studio.model(model.id)):
        assert [told.dataset for told in found.withdrawn_inputs] == [raw.id]


async def test_a_birth_reads_what_it_descends_from_and_no_other_view_of_the_project(studio: Rig) -> None:
    raw = await studio.upload("raw.jsonl")
    model = await tuned(studio, await prepared(studio, raw.id, output="clean"))
    aside = await studio.upload("aside.jsonl", sha="e" * 64)
    strange = await tuned(studio, aside.id)
    await withdraw(studio, raw.id)

    def unreadable(tx: Transaction) -> None:
        for kind, found in ((ModelRow, strange.id), (DatasetRow, aside.id)):
            row = tx.session.get(kind, found)
            assert row is not None
            row.view = "nobody reads this"
            tx.session.add(row)

    await studio.write(unreadable)
    child = model.model_copy(
        update={"id": "mdl_child", "name": "child", "openai_name": None, "lineage": {"merged_from": model.id}}
        | {"withdrawn_inputs": [], "base": None}
    )  # fmt: skip
    born = await studio.write(lambda tx: flagged_at_birth(tx, model_store.save(tx, child, ModelReady)))
    assert [told.dataset for told in born.withdrawn_inputs] == [raw.id]


async def test_going_up_step_by_step_finds_what_the_whole_picture_shows(studio: Rig) -> None:
    raw = await studio.upload("raw.jsonl")
    clean = await prepared(studio, raw.id, output="clean")
    model = await tuned(studio, clean, validation=(await studio.upload("v.jsonl", sha="f" * 64)).id)
    async with studio.http() as api:
        await api.post(f"/api/v1/models/{model.id}/publish", json={"form": "merged", "name": "whole"})
        await api.post(f"/api/v1/models/{model.id}/publish", json={"step": 7, "name": "early"})
        await studio.work()
        await api.delete(f"/v1/models/{model.id}")
    family = await studio.read(lambda session: lineage.family_of(session, studio.actor.project))
    for name in [*family.models, *family.datasets]:
        view = family.models.get(name) or family.datasets[name]
        above = await studio.read(lambda session, view=view: lineage.ancestors_of(session, view))
        assert sorted(found.id for found in above) == sorted(family.ancestors(name))
    whole = await studio.model("whole")
    assert {model.id, clean, raw.id, whole.lineage["base"]} <= set(family.ancestors(whole.id))
