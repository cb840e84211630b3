"""A withdrawn dataset: it cannot be used, everything that descends from it is flagged, deploying follows the policy."""

from __future__ import annotations

from typing import Any

import pytest
from studio_rig import Rig
from test_model_versions import merges, put, tuned

from finery_contracts.errors import Conflict, InvalidRequest
from finery_studio.models import versions

__all__ = ["merges"]


async def withdraw(studio: Rig, ref: str) -> dict[str, Any]:
    async with studio.http() as api:
        return (await api.post(f"/api/v1/datasets/{ref}/withdraw", json={"reason": "consent was taken back"})).json()


async def test_every_descendant_is_flagged_whatever_lies_between(studio: Rig) -> None:
    data = await studio.upload()
    model = await tuned(studio, data.id)
    other = await tuned(studio)
    async with studio.http() as api:
        await api.post(f"/api/v1/models/{model.id}/publish", json={"form": "merged", "name": "whole"})
        await studio.work()
        await api.post(f"/api/v1/models/{model.id}/publish", json={"step": 7, "name": "early"})

        gone = await withdraw(studio, data.id)

        lineage = (await api.get("/api/v1/models/whole/lineage")).json()
    assert (gone["state"], gone["withdrawn"]["reason"]) == ("withdrawn", "consent was taken back")
    assert (await studio.said(data.id))[-1] == "dataset.withdrawn"
    for name in (model.id, "whole", "early"):
        flagged = await studio.model(name)
        assert [found.dataset for found in flagged.withdrawn_inputs] == [data.id]
        assert (await studio.said(flagged.id))[-1] == "model.flagged"
    for name in (other.id, model.base or ""):
        assert (await studio.model(name)).withdrawn_inputs == []
    withdrawn = {node["id"] for node in lineage["nodes"] if node["withdrawn"]}
    assert {data.id, model.id} <= withdrawn
    edges = {(edge["source"], edge["target"]) for edge in lineage["edges"]}
    assert {(data.id, model.id), (model.base, model.id), (model.id, (await studio.model("whole")).id)} <= edges
    task = model.lineage["task"]
    assert {(data.id, task), (task, model.id)} <= edges


async def test_a_withdrawn_dataset_cannot_be_used_again_nor_withdrawn_twice(studio: Rig) -> None:
    data = await studio.upload()
    assert (await withdraw(studio, data.id))["error"]["code"] == "not_ready"
    await studio.work()
    await withdraw(studio, data.id)
    with pytest.raises(InvalidRequest) as refused:
        await studio.tune(data.id)
    assert refused.value.error_code == "dataset_withdrawn"
    async with studio.http() as api:
        again = await api.post("/api/v1/tasks", json={"kind": "ingest", "dataset": data.id})
    assert again.json()["error"]["code"] == "dataset_withdrawn"
    assert (await withdraw(studio, data.id))["error"]["code"] == "already_withdrawn"


async def test_what_a_running_task_makes_of_it_is_born_with_the_flag(studio: Rig) -> None:
    data = await studio.upload()
    task = await studio.tune(data.id)
    claim = await studio.claim()
    while claim is not None and claim.task_id != task.id:
        await studio.end(claim)
        claim = await studio.claim()
    assert claim is not None
    await withdraw(studio, data.id)

    await studio.end(claim)

    model = await studio.model((await studio.task(task.id)).result["model"])
    assert [found.dataset for found in model.withdrawn_inputs] == [data.id]


async def test_deploying_a_flagged_model_follows_the_policy(studio: Rig) -> None:
    data = await studio.upload()
    model = await tuned(studio, data.id)
    await studio.write(lambda tx: versions.publish(tx, studio.actor.project, model.id, "mine"))
    put(studio, f"{model.weights}/config.json", "{}")
    registrar = studio.studio.registrar
    assert await registrar.check(await studio.model("mine")) == []
    await withdraw(studio, data.id)
    flagged = await studio.model("mine")

    assert "consent was taken back" in (await registrar.check(flagged))[0]
    registrar.on_withdrawn = "refuse"
    with pytest.raises(Conflict) as refused:
        await registrar.check(flagged)
    assert refused.value.error_code == "input_withdrawn"
    registrar.on_withdrawn = "off"
    assert await registrar.check(flagged) == []
