"""Models: names, gallery, sources that may be read, what tuning leaves, publication, expiry, deletion."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from studio_rig import GALLERY_MODEL, Rig

from finery_contracts.access import Role
from finery_contracts.deployments import DeploymentState, DeploymentView
from finery_contracts.errors import Conflict, ErrorBody, Forbidden, InvalidRequest, NotFound, Unavailable
from finery_contracts.jobs import TaskKind
from finery_contracts.models import ModelState, ModelView
from finery_contracts.tasks import EndReason
from finery_studio.edge import forward
from finery_studio.models.handlers import NewModel
from finery_studio.models.sources import source_of
from finery_studio.projects.domain import check_name


async def made(studio: Rig, name: str = "base") -> ModelView:
    return await studio.write(
        lambda tx: studio.studio.models.create(tx, NewModel(name, gallery=GALLERY_MODEL), studio.actor)
    )


async def tuned(studio: Rig, **said: object) -> ModelView:
    task = await studio.tune((await studio.upload()).id, **said)
    await studio.work()
    return await studio.model((await studio.task(task.id)).result["model"])


def a_folder(place: Path) -> Path:
    place.mkdir(parents=True)
    (place / "config.json").write_text("{}")
    return place


@pytest.mark.parametrize("name", ["a", "Llama-3.1_x", "模型1", "模", "x" * 64])
def test_a_model_name_of_the_rule_is_taken(name: str) -> None:
    assert check_name(name, model=True) == name


@pytest.mark.parametrize("name", ["", "1a", "-a", "_a", ".a", "a b", "a/b", "x" * 65, "a\n", "é", "ft:a"])
def test_a_name_outside_the_rule_is_refused(name: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        check_name(name, model=True)
    assert refused.value.error_code == "name_invalid"


def test_only_names_of_models_have_dots() -> None:
    with pytest.raises(InvalidRequest):
        check_name("a.b")


async def test_only_an_operator_names_a_folder_outside_the_allowed_roots(studio: Rig, tmp_path: Path) -> None:
    allowed, other = a_folder(tmp_path / "roots" / "m"), a_folder(tmp_path / "elsewhere")
    (tmp_path / "roots" / "way-out").symlink_to(other)
    roots = (tmp_path / "roots",)

    def ask(path: str, role: Role) -> str:
        return source_of(None, path, None, studio.by(role), roots)["source"]

    assert ask(str(allowed), Role.COMMON) == str(allowed)
    assert ask(f"file://{allowed}", Role.COMMON) == str(allowed)
    for path in (str(other), f"{allowed}/../../elsewhere", str(tmp_path / "roots" / "way-out"), "/etc", "/absent"):
        with pytest.raises(Forbidden) as refused:
            ask(path, Role.FULL)
        assert refused.value.error_code == "path_not_allowed"
    assert ask(str(tmp_path / "roots" / "way-out"), Role.OPERATOR) == str(other)


async def test_an_imported_model_is_validated_and_then_ready(studio: Rig) -> None:
    model = await made(studio)
    assert [claim.spec.kind for claim in await studio.work()] == [TaskKind.IMPORT, TaskKind.VALIDATE]
    ready = await studio.model("base")
    assert (ready.state, ready.parameters, len(ready.tasks)) == (ModelState.READY, 10**8, 2)
    assert ready.weights == f"store://{studio.actor.project}/tasks/{ready.tasks[0]}/1/left/out/model"
    assert await studio.said(model.id) == ["model.created", "model.created", "model.ready"]


async def test_a_failed_validation_leaves_an_invalid_model_that_names_its_findings(studio: Rig) -> None:
    await made(studio)
    imported = await studio.claim()
    assert imported is not None
    await studio.end(imported)
    waiting = await studio.tune((await studio.upload()).id, model="base")
    finding = {"code": "nan", "severity": "error", "message": "m", "where": "lm_head", "remedy": "r"}
    fault = ErrorBody(code="invalid_weights", message="1 error", details=[finding])
    checked = await studio.claim(TaskKind.VALIDATE)
    assert checked is not None

    report = await studio.end(checked, reason=EndReason.USER_MISTAKE, error=fault)
    said = await studio.said()
    await studio.write(lambda tx: studio.studio.tasks.on_report(tx, report.model_copy(update={"seq": 9})))

    model = await studio.model("base")
    assert (model.state, [f.where for f in model.findings]) == (ModelState.INVALID, ["lm_head"])
    failed = await studio.task(waiting.id)
    assert failed.error is not None
    assert (failed.error.code, failed.error.param, failed.error.details) == ("model_not_ready", "model", [finding])
    assert await studio.said() == said  # the second report changed nothing
    with pytest.raises(InvalidRequest, match="not valid"):
        await studio.tune((await studio.upload()).id, model="base")


async def test_an_unnamed_tuning_leaves_a_temporary_model_that_expires(studio: Rig) -> None:
    model = await tuned(studio)
    assert model.published is False
    assert model.expires_at == model.created_at + timedelta(days=15)
    assert model.lineage.keys() == {"dataset", "task"}

    async def expire(after: timedelta) -> None:
        desk, now = studio.studio.models, model.created_at + after
        await studio.write(lambda tx: desk.expire(replace(tx, now=now)))

    await expire(timedelta(days=14, hours=23))
    assert (await studio.model(model.id)).state is ModelState.READY
    for _ in range(2):
        await expire(timedelta(days=15, seconds=1))
    assert await studio.said(model.id) == ["model.ready", "model.expires_soon", "model.deleted"]
    with pytest.raises(NotFound):
        await studio.model(model.id)


async def test_a_temporary_model_that_a_deployment_serves_stays_as_long_as_it_does(studio: Rig) -> None:
    model = await tuned(studio)
    loops = studio.studio.loops
    served = DeploymentView(
        id="dep_1", project=model.project, name="chat", model=model.id, model_name=model.name, version=1, qps=1,
        state=DeploymentState.RUNNING, created_by="ann", created_at=model.created_at,
    )  # fmt: skip
    studio.deployed = [served.model_dump(mode="json")]
    await studio.pass_time(hours=16 * 24)
    await loops.let_models_go()
    assert (await studio.model(model.id)).state is ModelState.READY

    async def away(*_: Any, **__: Any) -> None:
        raise Unavailable("the deployer does not answer")

    ask, studio.studio._ask = studio.studio._ask, forward.Ask(away)
    await loops.let_models_go()
    assert (await studio.model(model.id)).state is ModelState.READY

    studio.studio._ask, studio.deployed = ask, []
    await loops.let_models_go()
    with pytest.raises(NotFound):
        await studio.model(model.id)


async def test_a_published_model_is_kept_and_published_once(studio: Rig) -> None:
    model = await tuned(studio)
    desk, project = studio.studio.models, studio.actor.project
    with pytest.raises(Conflict) as taken:
        await studio.write(lambda tx: desk.publish(tx, project, model.id, GALLERY_MODEL))
    assert taken.value.error_code == "name_taken"

    kept = await studio.write(lambda tx: desk.publish(tx, project, model.id, "mine"))

    assert (kept.name, kept.published, kept.expires_at) == ("mine", True, None)
    with pytest.raises(Conflict) as again:
        await studio.write(lambda tx: desk.publish(tx, project, "mine", None))
    assert again.value.error_code == "already_published"
    assert (await studio.said(model.id))[-1] == "model.published"


async def test_two_tunings_to_one_name_leave_two_models_of_two_names(studio: Rig) -> None:
    dataset = await studio.upload()
    tasks = [await studio.tune(dataset.id, output="mine") for _ in range(2)]

    await studio.work()

    names = {(await studio.model((await studio.task(task.id)).result["model"])).name for task in tasks}
    assert len(names) == 2
    assert "mine" in names
    with pytest.raises(Conflict, match="named mine already"):
        await studio.tune(dataset.id, output="mine")


async def test_a_model_that_something_uses_is_not_deleted_and_the_answer_names_it(studio: Rig) -> None:
    await tuned(studio, output="child")
    base = await studio.model(GALLERY_MODEL)
    waiting = await studio.tune((await studio.upload()).id)
    desk, project = studio.studio.models, studio.actor.project

    with pytest.raises(Conflict) as refused:
        await studio.write(lambda tx: desk.delete(tx, project, base.id, ["deployment chat"]))

    assert refused.value.error_code == "in_use"
    assert {d["used_by"] for d in refused.value.details} == {waiting.id, "child", "deployment chat"}
    gone = await studio.write(lambda tx: desk.delete(tx, project, "child", []))
    assert (gone.state, (await studio.said(gone.id))[-1]) == (ModelState.DELETED, "model.deleted")
