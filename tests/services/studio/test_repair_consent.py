"""Repairs over HTTP: shown as diffs, agreed to, made in a copy that is the next version; and code that may run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
from repair_rig import AFTER, BEFORE, a_repair, fault, invalid, refused, told, valid
from studio_rig import OUTPUTS, Rig, studio_rig
from test_model_versions import MERGED, put, tuned

from finery_contracts.access import Role
from finery_contracts.errors import Conflict, Forbidden
from finery_contracts.jobs import ImportOutput, ImportSpec, MergeSpec, TaskKind, ValidateSpec
from finery_contracts.models import ModelState, ModelView
from finery_contracts.options import TaskOptions
from finery_contracts.tasks import EndReason
from finery_contracts.work import Claim
from finery_kit.settings import SettingsError, load
from finery_studio.models import removal, repairs, store
from finery_studio.settings import StudioSettings

SAMPLE, PAD, GLM = "generation_do_sample", "tokenizer_pad_token", "chatglm_padding_side"


def made_with(*names: str) -> ImportOutput:
    came = OUTPUTS[TaskKind.IMPORT]
    assert isinstance(came, ImportOutput)
    return came.model_copy(update={"repairs": [a_repair(name) for name in names]})


async def shown(studio: Rig, ref: str) -> dict[str, dict[str, Any]]:
    async with studio.http() as api:
        answer = await api.get(f"/api/v1/models/{ref}/repairs")
    assert answer.status_code == 200, answer.text
    return {repair["id"]: repair for repair in answer.json()["data"]}


async def agree(studio: Rig, ref: str, *names: str) -> tuple[int, dict[str, Any]]:
    async with studio.http() as api:
        answer = await api.post(f"/api/v1/models/{ref}/repairs", json={"apply": list(names)})
    return answer.status_code, answer.json()


async def agreed(studio: Rig, ref: str, *names: str) -> ModelView:
    status, body = await agree(studio, ref, *names)
    assert status == 201, body
    return ModelView.model_validate(body)


async def importing(studio: Rig) -> tuple[Claim, ImportSpec]:
    claim = await studio.claim(TaskKind.IMPORT)
    assert claim is not None
    assert isinstance(claim.spec, ImportSpec)
    return claim, claim.spec


async def finish(studio: Rig, *names: str) -> None:
    """The import and the validation that follows succeed."""
    claim, _ = await importing(studio)
    await studio.end(claim, output=made_with(*names))
    await studio.work(TaskKind.VALIDATE)


@pytest.mark.parametrize("kind", [valid, invalid])
async def test_what_is_proposed_is_shown_with_its_diff_for_valid_and_invalid_models(studio: Rig, kind: Any) -> None:
    await kind(studio, SAMPLE, GLM)

    found = await shown(studio, "mine")

    assert found[SAMPLE] == {
        **a_repair(SAMPLE).model_dump(), "applied": False, "allowed": None, "versions": [],
    }  # fmt: skip
    assert found[GLM]["allowed"] is False
    async with studio.http() as api:
        findings = (await api.get("/api/v1/models/mine/findings")).json()["data"]
    assert [f["data"]["repair"]["diff"] for f in findings if f["code"] == "repair_available"] == [
        a_repair(SAMPLE).diff, a_repair(GLM).diff,
    ]  # fmt: skip


async def test_a_consent_makes_a_repaired_copy_that_takes_the_name_when_it_is_ready(studio: Rig) -> None:
    first = await invalid(studio, SAMPLE, PAD)

    copy = await agreed(studio, "mine", SAMPLE)

    assert (copy.name, copy.number, copy.current, copy.state) == ("mine", 2, False, ModelState.IMPORTING)
    assert (copy.lineage["repaired_from"], copy.lineage["repairs"]) == (first.id, SAMPLE)
    claim, spec = await importing(studio)
    assert (spec.source, spec.apply_repairs) == (first.weights, [SAMPLE])
    assert claim.task_id == copy.tasks[0]
    await studio.end(claim, output=made_with(SAMPLE))
    assert (await studio.model("mine")).id == first.id
    await studio.work(TaskKind.VALIDATE)

    ready = await studio.model("mine")
    assert (ready.id, ready.state, ready.repairs) == (copy.id, ModelState.READY, [a_repair(SAMPLE)])
    assert ready.weights != first.weights
    assert (await studio.model("mine@1")).model_dump(exclude={"version", "current"}) == first.model_dump(
        exclude={"version", "current"}
    )
    assert {name: repair["applied"] for name, repair in (await shown(studio, "mine")).items()} == {SAMPLE: True}
    assert (await shown(studio, "mine@1"))[SAMPLE]["versions"] == ["mine@2"]
    assert (await shown(studio, "mine@1"))[PAD]["versions"] == []


async def test_a_copy_of_a_repaired_version_says_all_that_its_files_have(studio: Rig) -> None:
    await valid(studio, SAMPLE)
    await agreed(studio, "mine", SAMPLE)
    claim, _ = await importing(studio)
    await studio.end(claim, output=made_with(SAMPLE))
    checked = await studio.claim(TaskKind.VALIDATE)
    assert checked is not None
    await studio.end(checked, reason=EndReason.USER_MISTAKE, error=fault("not_finite", PAD))
    assert (await studio.model("mine@2")).state is ModelState.INVALID
    assert (await studio.model("mine")).number == 1, "a copy that is not ready takes no name"

    await agreed(studio, "mine@2", PAD)
    await finish(studio, PAD)

    third = await studio.model("mine")
    assert (third.number, [repair.id for repair in third.repairs]) == (3, [SAMPLE, PAD])
    assert third.lineage["repaired_from"] == (await studio.model("mine@2")).id


async def test_of_a_refused_import_the_copy_is_made_from_where_it_came(studio: Rig, tmp_path: Path) -> None:
    first = await refused(studio, tmp_path / "weights", SAMPLE)
    assert (first.state, first.weights, list(await shown(studio, "mine"))) == (ModelState.INVALID, None, [SAMPLE])

    second = await agreed(studio, "mine", SAMPLE)
    claim, spec = await importing(studio)
    assert (spec.source, spec.apply_repairs) == (str(tmp_path / "weights"), [SAMPLE])
    error = fault("remote_code", PAD, applied=(SAMPLE,))
    await studio.end(claim, reason=EndReason.USER_MISTAKE, error=error)
    assert {name: repair["applied"] for name, repair in (await shown(studio, second.id)).items()} == {
        SAMPLE: True, PAD: False,
    }  # fmt: skip

    await agreed(studio, second.id, PAD)
    _, spec = await importing(studio)
    assert (spec.source, spec.apply_repairs) == (str(tmp_path / "weights"), [SAMPLE, PAD]), (
        "the consent of before stays"
    )


async def test_a_folder_that_the_asker_may_not_name_is_not_read_for_him_again(studio: Rig, tmp_path: Path) -> None:
    model = await refused(studio, tmp_path / "weights", SAMPLE)
    common = studio.by(Role.COMMON)

    with pytest.raises(Forbidden) as said:
        await studio.write(
            lambda tx: repairs.repair(studio.studio.models, tx, model.id, [SAMPLE], common, TaskOptions())
        )

    assert said.value.error_code == "path_not_allowed"


async def test_what_was_not_proposed_is_refused_and_what_is_proposed_is_named(studio: Rig) -> None:
    await valid(studio, SAMPLE, PAD)

    status, body = await agree(studio, "mine", SAMPLE, "qwen_dtype_probing", "nonsense")

    assert (status, body["error"]["code"]) == (400, "repair_not_proposed")
    assert body["error"]["details"] == [{"proposed": SAMPLE}, {"proposed": PAD}]
    assert "qwen_dtype_probing, nonsense" in body["error"]["message"]
    assert (await agree(studio, "mine"))[0] == 400
    assert (await agree(studio, "other", SAMPLE))[0] == 404
    found = await studio.read(lambda s: store.versions(s, studio.actor.project, "mine"))
    assert [view.number for view in found] == [1]


async def test_a_model_that_is_still_looked_at_waits_and_an_adapter_has_a_base(studio: Rig) -> None:
    await valid(studio, SAMPLE)
    await agreed(studio, "mine", SAMPLE)
    for state in ("importing", "validating"):
        status, body = await agree(studio, "mine@2", SAMPLE)
        assert (status, body["error"]["code"]) == (409, "model_not_ready")
        assert state in body["error"]["message"]
        await studio.work(TaskKind.IMPORT)

    adapter = await tuned(studio)
    status, body = await agree(studio, adapter.id, SAMPLE)
    assert (status, body["error"]["code"]) == (400, "adapter_not_repairable")
    assert (await studio.model(adapter.base or "")).name in body["error"]["message"]


async def test_a_validation_of_a_ready_model_that_fails_proposes_too(studio: Rig) -> None:
    await valid(studio)
    async with studio.http() as api:
        await api.post("/api/v1/tasks", json={"kind": "validate", "model": "mine"})
    claim = await studio.claim(TaskKind.VALIDATE)
    assert claim is not None
    await studio.end(claim, reason=EndReason.USER_MISTAKE, error=fault("do_sample_missing", SAMPLE))

    assert (await studio.model("mine")).state is ModelState.READY
    assert list(await shown(studio, "mine")) == [SAMPLE]
    assert (await agreed(studio, "mine", SAMPLE)).number == 2


async def test_the_source_is_kept_while_its_copy_is_made_and_not_longer(studio: Rig) -> None:
    first = await invalid(studio, SAMPLE)
    put(studio, f"{first.weights}/config.json")
    copy = await agreed(studio, "mine", SAMPLE)

    desk, project = studio.studio.models, studio.actor.project
    with pytest.raises(Conflict) as refusal:
        await studio.write(lambda tx: desk.delete(tx, project, first.id, []))
    assert [detail["used_by"] for detail in refusal.value.details] == copy.tasks

    await finish(studio, SAMPLE)
    put(studio, f"{(await studio.model(copy.id)).weights}/config.json")
    await studio.write(lambda tx: desk.delete(tx, project, first.id, []))
    await studio.pass_time(hours=1)
    assert studio.studio.storage.find(first.weights or "") is None
    assert studio.studio.storage.find((await studio.model("mine")).weights or "") is not None


async def test_bytes_that_a_repair_reads_are_not_swept_even_if_the_model_is_gone(studio: Rig) -> None:
    first = await invalid(studio, SAMPLE)
    put(studio, f"{first.weights}/config.json")
    await agreed(studio, "mine", SAMPLE)
    await studio.write(lambda tx: removal.let_model_go(tx, first))
    await studio.pass_time(hours=1)

    assert studio.studio.storage.find(first.weights or "") is not None


async def test_a_repair_is_a_task_that_can_be_asked_for_and_copied_as_such(studio: Rig) -> None:
    first = await valid(studio, SAMPLE, PAD)
    async with studio.http() as api:
        body = {"kind": "import", "repair_of": "mine", "apply_repairs": [SAMPLE], "priority": 70}
        task = (await api.post("/api/v1/tasks", json=body)).json()
        assert task["priority"] == 70
        await finish(studio, SAMPLE)
        again = await api.post(f"/api/v1/tasks/{task['id']}/copy", json={"apply_repairs": [PAD]})

    assert again.status_code == 201, again.text
    copy = await studio.model(again.json()["result"]["model"])
    assert (copy.number, copy.lineage["repaired_from"], copy.lineage["repairs"]) == (3, first.id, PAD)


@pytest.mark.parametrize("path", ["/api/v1/models", "/api/v1/tasks"])
async def test_a_consent_may_be_given_with_the_import(studio: Rig, path: str) -> None:
    source = {"gallery": "smollm2-135m-instruct"}
    body = {"name": "mine", "source": source, "apply_repairs": [SAMPLE]}
    if path.endswith("tasks"):
        body = {"kind": "import", "model": "mine", "source": source, "apply_repairs": [SAMPLE]}
    async with studio.http() as api:
        assert (await api.post(path, json=body)).status_code == 201

    claim, spec = await importing(studio)
    assert spec.apply_repairs == [SAMPLE]
    await studio.end(claim, output=made_with(SAMPLE))
    await studio.work()
    assert (await studio.model("mine")).repairs == [a_repair(SAMPLE)]


async def test_a_consent_that_fits_nothing_names_what_would(studio: Rig, tmp_path: Path) -> None:
    model = await refused(studio, tmp_path / "weights", name="other")
    error = fault("repair_unknown", SAMPLE).model_copy(
        update={"details": [finding.model_dump() for finding in told(SAMPLE)]}
    )
    await agreed_import(studio, tmp_path / "weights")
    claim, _ = await importing(studio)
    await studio.end(claim, reason=EndReason.USER_MISTAKE, error=error)

    mine = await studio.model("mine")
    assert [finding.code for finding in mine.findings] == ["repair_unknown", "repair_available"]
    assert list(await shown(studio, "mine")) == [SAMPLE]
    assert model.name == "other"


async def test_allowed_code_goes_to_every_import_and_validation_and_repaired_code_with_it(tmp_path: Path) -> None:
    studio = await studio_rig(tmp_path, allowed_code=[BEFORE[GLM].upper()])
    await refused(studio, tmp_path / "weights", GLM)
    assert (await shown(studio, "mine"))[GLM]["allowed"] is True

    await agreed(studio, "mine", GLM)
    claim, spec = await importing(studio)
    assert spec.allowed_code == [BEFORE[GLM]]
    await studio.end(claim, output=made_with(GLM))
    checked = await studio.claim(TaskKind.VALIDATE)
    assert checked is not None
    assert isinstance(checked.spec, ValidateSpec)
    assert checked.spec.allowed_code == [BEFORE[GLM], AFTER[GLM]], "what our repair made of it may run, too"
    await studio.end(checked)

    await valid(studio, name="other")
    row = await studio.model("other")
    assert (await studio.task(row.tasks[1])).kind is TaskKind.VALIDATE
    studio.studio.database.close()


async def test_a_python_file_that_nobody_allows_is_not_repaired(studio: Rig) -> None:
    await invalid(studio, GLM)

    status, body = await agree(studio, "mine", GLM)

    assert (status, body["error"]["code"]) == (403, "code_not_allowed")
    (detail,) = body["error"]["details"]
    assert (detail["sha256_before"], detail["sha256_after"]) == (BEFORE[GLM], AFTER[GLM])


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        ("nonsense", "no JSON"), ('{"a": 1}', "no list"), ('["abc"]', "'abc' is no SHA-256"), ("[1]", "'1' is no"),
        (f'["{"a" * 63}g"]', "is no SHA-256"),
    ],
)  # fmt: skip
def test_a_wrong_list_of_allowed_code_stops_the_start_and_is_named(
    said: str, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FINERY_ALLOWED_CODE", said)
    with pytest.raises(SettingsError) as stopped:
        load(StudioSettings)
    assert "FINERY_ALLOWED_CODE" in str(stopped.value)
    assert reason in str(stopped.value)


def test_a_list_of_allowed_code_is_read_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FINERY_ALLOWED_CODE", f'["{"AB" * 32}", "{"ab" * 32}", "{"01" * 32}"]')
    assert load(StudioSettings).allowed_code == ("01" * 32, "ab" * 32)


async def test_card_and_bill_of_a_repaired_copy_say_what_was_repaired(studio: Rig) -> None:
    first = await valid(studio, SAMPLE)
    await agreed(studio, "mine", SAMPLE)
    await finish(studio, SAMPLE)
    model = await studio.model("mine")
    put(studio, f"{model.weights}/config.json", "{}")

    signed = await studio.studio.registrar.certify(model)

    assert signed.certificate is not None
    place = studio.studio.storage.path(signed.certificate.url)
    card, text = (place / "README.md").read_text(), (place / "bom.cdx.json").read_text()
    assert f"| repaired copy of | {first.id} |" in card
    assert f"{SAMPLE} | generation_config.json: why {SAMPLE} (sha256 `{BEFORE[SAMPLE]}`" in card
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(text) is None
    pedigree = json.loads(text)["metadata"]["component"]["pedigree"]
    assert [patch["diff"]["text"]["content"] for patch in pedigree["patches"]] == [a_repair(SAMPLE).diff]
    assert first.id in pedigree["notes"]


async def agreed_import(studio: Rig, folder: Path) -> None:
    async with studio.http() as api:
        body = {"name": "mine", "source": {"path": str(folder)}, "apply_repairs": ["nonsense"]}
        assert (await api.post("/api/v1/models", json=body)).status_code == 201


async def test_a_merge_and_its_validation_may_take_the_code_that_its_base_may_run(tmp_path: Path) -> None:
    studio = await studio_rig(tmp_path, allowed_code=[BEFORE[GLM]])
    await refused(studio, tmp_path / "weights", GLM)
    await agreed(studio, "mine", GLM)
    await finish(studio, GLM)
    model = await tuned(studio, model="mine")
    async with studio.http() as api:
        made = await api.post(f"/api/v1/models/{model.id}/publish", json={"form": "merged", "name": "whole"})
    assert made.status_code == 200, made.text

    merge = await studio.claim()
    assert merge is not None
    await studio.end(merge, output=MERGED)
    check = await studio.claim()

    assert check is not None
    assert isinstance(merge.spec, MergeSpec)
    assert isinstance(check.spec, ValidateSpec)
    assert merge.spec.allowed_code == check.spec.allowed_code == [BEFORE[GLM], AFTER[GLM]]
    studio.studio.database.close()
