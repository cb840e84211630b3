"""The gallery over HTTP, and the support matrix at every door: native, OpenAI's, events, deployments, new models."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from studio_posts import Owner
from studio_rig import GALLERY_MODEL, OUTPUTS, Rig, studio_rig

from finery_contracts.errors import InvalidRequest
from finery_contracts.gallery import Expected
from finery_contracts.jobs import EngineOutput, ImportSpec, TaskKind, ValidateOutput, ValidateSpec
from finery_contracts.models import ModelView
from finery_contracts.tasks import TaskState
from finery_studio.models.requests import NewModel
from finery_studio.models.support import Action

DEPLOYABLE_ONLY, CUSTOM = "Llama3.1-8B", "Baichuan2-13B"


def a_folder(place: Path) -> str:
    place.mkdir(parents=True)
    (place / "config.json").write_text("{}")
    return str(place)


async def brought(studio: Rig, tmp_path: Path, *, gallery: str | None = None, name: str = "mine") -> ModelView:
    """A model of a folder of one's own, as far as its import was submitted."""
    new = NewModel(name, gallery=gallery, path=a_folder(tmp_path / name))
    return await studio.write(lambda tx: studio.studio.models.create(tx, new, studio.actor))


def saying(monkeypatch: pytest.MonkeyPatch, **facts: str | bool) -> None:
    output: EngineOutput = ValidateOutput(facts={**facts})
    monkeypatch.setitem(OUTPUTS, TaskKind.VALIDATE, output)


async def ids(http: httpx.AsyncClient, **asked: str) -> list[str]:
    answer = await http.get("/api/v1/gallery", params=asked)
    assert answer.status_code == 200, answer.text
    return [entry["id"] for entry in answer.json()["data"]]


def error_of(answer: httpx.Response) -> tuple[int, str, str | None, str]:
    error = answer.json()["error"]
    return answer.status_code, error["code"], error["param"], error["details"][0]["rule"]


async def test_the_gallery_is_filtered_by_family_language_use_support_and_words(studio: Rig) -> None:
    async with studio.http() as http:
        everything = await ids(http)
        assert await ids(http, family="qwen 2") == [
            "Qwen2-0.5B", "Qwen2-1.5B", "Qwen2-7B", "Qwen2-72B", "Qwen2-72B-1K", "Qwen2-72B-32K", "Qwen2-7B-AWQ",
            "Qwen2-72B-AWQ",
        ]  # fmt: skip
        assert {"ChatGLM3-6B", "Yi-6B"} <= set(await ids(http, language="zh"))
        assert "Llama2-7B" not in await ids(http, language="zh")
        assert "Baichuan2-13B" in await ids(http, use="translation", language="en")
        assert await ids(http, search="smollm2-135M") == [GALLERY_MODEL]
        assert await ids(http, family="Yi", search="34b") == ["Yi-34B"]
        tunable, compressible = await ids(http, supports="tune"), await ids(http, supports="compress")
        assert (await http.get("/api/v1/gallery", params={"supports": "sell"})).status_code == 400

    assert len(everything) == len(set(everything)) > 60
    assert DEPLOYABLE_ONLY in everything
    assert DEPLOYABLE_ONLY not in tunable
    assert ("Llama2-7B" in compressible, "Qwen2-7B" in compressible) == (True, False)


async def test_one_entry_says_everything_and_an_unknown_id_is_answered_with_near_ones(studio: Rig) -> None:
    async with studio.http() as http:
        told = (await http.get("/api/v1/gallery/Qwen2-7B")).json()
        missing = await http.get("/api/v1/gallery/Qwen2-7b")

    assert told["supports"] == {"tune": ["full", "lora"], "compress": {}, "deploy": ["none", "awq"]}
    assert told["published_config"]["hidden_size"] == 3584
    assert (missing.status_code, missing.json()["error"]["code"]) == (404, "model_not_found")
    assert "Qwen2-7B" in missing.json()["error"]["message"]


async def test_tuning_of_what_is_only_deployed_is_refused_on_both_surfaces_and_leaves_nothing(studio: Rig) -> None:
    dataset = await studio.upload()
    native = {"kind": "tune", "model": DEPLOYABLE_ONLY, "dataset": dataset.id}
    job = {"model": DEPLOYABLE_ONLY, "training_file": f"file-{dataset.id.split('_')[1]}"}

    async with studio.http() as http:
        answers = [await http.post("/api/v1/tasks", json=native), await http.post("/v1/fine_tuning/jobs", json=job)]

    assert {error_of(answer) for answer in answers} == {(400, "not_supported", "model", "tune_not_offered")}
    assert [fact for fact in await studio.said() if fact.startswith(("model.", "task.created"))] == ["task.created"]


@pytest.mark.parametrize(
    ("model", "strategy", "rule"),
    [
        ("Qwen2-7B", "awq-w4a16", "compress_not_offered"),
        ("Qwen2-72B", "awq-w4a16", "strategy_not_offered"),
        ("Qwen2-7B", "smoothquant-w8a8", "smoothquant_not_for_awq_only"),
        ("Llama2-7B", "int3", "strategy_unknown"),
    ],
)
async def test_what_could_never_be_compressed_is_told_by_its_rule(
    studio: Rig, model: str, strategy: str, rule: str
) -> None:
    async with studio.http() as http:
        refused = await http.post("/api/v1/tasks", json={"kind": "compress", "model": model, "strategy": strategy})
        fitting = {"kind": "compress", "model": "Llama2-7B", "strategy": "awq-w4a16"}
        later = await http.post("/api/v1/tasks", json=fitting)
        unknown = await http.post("/api/v1/tasks", json={**fitting, "model": "nothing"})

    assert error_of(refused) == (400, "not_supported", "model", rule)
    assert (later.status_code, later.json()["error"]["code"]) == (501, "not_offered_yet")
    assert (unknown.status_code, unknown.json()["error"]["code"]) == (404, "model_not_found")


async def test_an_upstream_event_is_refused_by_the_same_rule(studio: Rig) -> None:
    data = {"kind": "tune", "model": DEPLOYABLE_ONLY, "dataset": (await studio.upload()).id}
    event = {"specversion": "1.0", "id": "1", "source": "mes", "type": "io.finery.task.requested.v1", "data": data}

    async with studio.http() as http:
        answer = await http.post(
            "/api/v1/inbound", content=json.dumps(event), headers={"content-type": "application/cloudevents+json"}
        )

    assert answer.status_code == 400
    assert "tune_not_offered" in answer.text
    assert "inbound.refused" in await studio.said()


async def test_a_folder_that_validation_finds_quantised_is_deployed_and_not_tuned(
    studio: Rig, owner: Owner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    saying(monkeypatch, quantised=True, quantisation="awq")
    await brought(studio, tmp_path)
    await studio.work()

    assert (await studio.model("mine")).quantisation == "awq"
    with pytest.raises(InvalidRequest) as refused:
        await studio.tune((await studio.upload()).id, model="mine")
    assert refused.value.details[0]["rule"] == "quantised_deploy_only"
    async with studio.http() as http:
        deployed = await http.post("/api/v1/deployments", json={"name": "chat", "model": "mine"})
    assert deployed.status_code == 201, deployed.text
    assert [verb for verb, _ in owner.asked] == ["create"]


async def test_a_tuning_that_waits_for_weights_fails_when_they_turn_out_to_be_quantised(
    studio: Rig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    saying(monkeypatch, quantised=True)
    await brought(studio, tmp_path)
    waiting = await studio.tune((await studio.upload()).id, model="mine")

    await studio.work()

    failed = await studio.task(waiting.id)
    assert failed.state is TaskState.FAILED
    assert failed.error is not None
    assert (failed.error.code, failed.error.details[0]["rule"]) == ("not_supported", "quantised_deploy_only")
    assert (await studio.model("mine")).quantisation == "unknown"


async def test_a_deployment_that_the_matrix_refuses_never_reaches_its_owner(
    studio: Rig, owner: Owner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    saying(monkeypatch, quantised=True, quantisation="smoothquant")
    await brought(studio, tmp_path)
    await studio.work()

    async with studio.http() as http:
        answer = await http.post("/api/v1/deployments", json={"name": "chat", "model": "mine"})

    assert error_of(answer) == (400, "not_supported", "model", "smoothquant_only_from_compression")
    assert owner.asked == []


async def test_a_trial_that_the_matrix_refuses_is_not_woken(studio: Rig) -> None:
    await studio.tune((await studio.upload()).id)
    await studio.work()
    models = studio.studio.models
    bare = (await studio.model(GALLERY_MODEL)).model_copy(update={"quantisation": "smoothquant"})

    with pytest.raises(InvalidRequest) as refused:
        models.deployable(bare)
    assert refused.value.details[0]["rule"] == "smoothquant_only_from_compression"


async def test_compression_is_judged_by_the_same_table(studio: Rig) -> None:
    await studio.tune((await studio.upload()).id, output="child")
    await studio.work()
    models = studio.studio.models

    with pytest.raises(InvalidRequest) as refused:
        models.check(await studio.model("child"), Action("compress", "awq-w4a16"))
    assert refused.value.details[0]["rule"] == "adapter_unmerged"
    models.check(await studio.model(GALLERY_MODEL), Action("compress", "awq-w4a16"))


async def test_a_model_without_recommended_weights_needs_a_folder(studio: Rig, tmp_path: Path) -> None:
    body = {"name": "mine", "source": {"gallery": CUSTOM}}
    folder = a_folder(tmp_path / "weights")

    async with studio.http() as http:
        refused = await http.post("/api/v1/models", json=body)
        made = await http.post("/api/v1/models", json={**body, "source": {"gallery": CUSTOM, "path": folder}})
        tuned = await http.post(
            "/api/v1/tasks", json={"kind": "tune", "model": "Qwen2-7B", "dataset": (await studio.upload()).id}
        )

    assert error_of(refused) == (400, "custom_weights_needed", "path", "custom_weights_only")
    assert (made.status_code, made.json()["family"], made.json()["gallery"]) == (201, "Baichuan", CUSTOM)
    assert error_of(tuned) == (400, "custom_weights_needed", "path", "custom_weights_only")


@pytest.mark.parametrize(
    ("gallery", "quantised", "architecture"),
    [("Qwen2-7B", False, "qwen2"), ("Qwen2-7B-AWQ", True, "qwen2"), (None, None, None)],
)
async def test_validation_is_told_what_the_entry_was_published_as(
    studio: Rig, tmp_path: Path, gallery: str | None, quantised: bool | None, architecture: str | None
) -> None:
    model = await brought(studio, tmp_path, gallery=gallery)
    imported = await studio.claim(TaskKind.IMPORT)
    assert imported is not None
    await studio.end(imported)

    checked = await studio.claim(TaskKind.VALIDATE)

    assert checked is not None
    assert isinstance(checked.spec, ValidateSpec)
    assert isinstance(imported.spec, ImportSpec)
    expected = set(Expected.model_fields)
    assert imported.spec.model_dump(include=expected) == checked.spec.model_dump(include=expected)
    assert (checked.spec.expected_quantised, checked.spec.expected_architecture) == (quantised, architecture)
    config = checked.spec.published_config
    assert (config and config["hidden_size"]) == (3584 if gallery else None)
    assert model.quantisation == ("awq" if quantised else None)


async def test_an_operators_entry_is_served_and_estimated_like_a_shipped_one(tmp_path: Path, database_url: str) -> None:
    said: dict[str, Any] = {
        "family": "Yi", "parameters": 9, "supports": {"tune": ["lora"]}, "throughput": {"lora": [100, 200]},
    }  # fmt: skip
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump({"models": {"own-1b": said}}))
    rig = await studio_rig(tmp_path, database_url=database_url, gallery_file=tmp_path / "mine.yaml")

    try:
        async with rig.http() as http:
            assert await ids(http, search="own-1b") == ["own-1b"]
        assert rig.studio.gallery.entries["own-1b"].throughput["lora"] == (100, 200)
    finally:
        rig.studio.database.close()
