"""Trial deployments: woken by calls, stopped when idle or when their model goes."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime

from deployer_bench import Bench

from finery_contracts.deployments import DeploymentDeploying, DeploymentState, DeploymentStopping
from finery_contracts.ids import new_id
from finery_contracts.models import ModelDeleted, ModelState, ModelView
from finery_kit.db import Transaction

State = DeploymentState


async def test_wakes_at_the_same_time_start_one_trial(bench: Bench):
    async with bench.deployer() as service:
        # given
        model = bench.model()

        # when
        views = await asyncio.gather(*(bench.wake(model) for _ in range(12)))
        trial = await bench.until(views[0].id, State.RUNNING)
        again = await bench.wake(model)

        # then
        assert {view.id for view in views} == {trial.id}
        assert again == trial
        assert len(bench.children) == 1
        assert [type(f) for f in await bench.facts(service)].count(DeploymentDeploying) == 1
        assert (trial.trial, trial.name, trial.qps, trial.default_max_tokens) == (True, "trial-model_m", 5.0, None)


async def test_a_trial_is_called_by_its_ft_name(bench: Bench):
    async with bench.deployer():
        trial = await bench.wake(bench.model())
        route = await bench.until_route(trial.id, State.RUNNING)
        job = next((bench.home / "serve").glob("*/serve.json")).read_text()
    assert route.names == ["trial-model_m", "ft:base:p:s:m"]
    assert '"served_name": "ft:base:p:s:m"' in job


async def test_an_idle_trial_stops_and_wakes_again(bench: Bench):
    async with bench.deployer(trial_idle_s=30):
        model = bench.model(idle_s=60.0)
        trial = await bench.wake(model)
        await bench.until(trial.id, State.STOPPED)
        bench.model(idle_s=0.0)
        woken = await bench.wake(model)
        await bench.until(trial.id, State.RUNNING)
    assert woken.id == trial.id
    assert woken.runs == 2


async def test_a_wake_while_the_trial_stops_brings_it_back(bench: Bench):
    async with bench.deployer(deployer_drain_grace_s=0.3):
        model = bench.model()
        trial = await bench.wake(model)
        await bench.until(trial.id, State.RUNNING)
        await bench.command("stop", trial.id)
        await bench.wake(model)
        await bench.until(trial.id, State.RUNNING, lambda seen: seen.runs == 2)


async def test_a_trial_that_failed_rests_before_it_is_tried_again(bench: Bench):
    model = bench.model(refuse=True)
    async with bench.deployer(deployer_failed_rest_s=600):
        trial = await bench.wake(model)
        failed = await bench.until(trial.id, State.FAILED)
        rests = await bench.wake(model)
    async with bench.deployer(deployer_failed_rest_s=0):
        tried = await bench.wake(model)
    assert rests == failed
    assert tried.state is State.DEPLOYING


async def test_trials_of_two_projects_are_two(bench: Bench):
    async with bench.deployer():
        one = await bench.wake(bench.model(project="proj_a"))
        other = await bench.wake(bench.model(project="proj_b"))
    assert one.id != other.id


async def test_the_trial_of_a_deleted_model_stops_once_and_a_persons_deployment_runs_on(bench: Bench):
    async with bench.deployer() as service:
        # given
        model = bench.model()
        trial = await bench.wake(model)
        kept = await bench.deploy(model)
        await bench.until(trial.id, State.RUNNING)
        await bench.until(kept.id, State.RUNNING)

        # when: the same event comes twice
        event = _model_deleted(model.id, project="proj_a")
        for _ in range(2):
            body = event.model_copy(update={"id": new_id("evt")}).model_dump_json().encode()
            await bench.client.jetstream().publish(event.bus_subject, body)
        await bench.until(trial.id, State.STOPPED)

        # then
        facts = await bench.facts(service)
        assert [type(fact) for fact in facts].count(DeploymentStopping) == 1
        assert (await bench.command("get", kept.id)).state is State.RUNNING


async def test_the_same_event_twice_changes_nothing_twice(bench: Bench):
    from finery_deployer import handlers
    from finery_kit.bus import apply_once

    async with bench.deployer() as service:
        # given
        model = bench.model()
        trial = await bench.wake(model)
        await bench.until(trial.id, State.RUNNING)
        event = _model_deleted(model.id, project="proj_a")
        assert service.database is not None

        # when
        def twice(tx: Transaction) -> list[bool]:
            return [apply_once(tx, event, handlers.on_model_deleted) for _ in range(2)]

        applied = await service.database.write(twice)

        # then
        assert applied == [True, False]
        assert [type(f) for f in await bench.facts(service)].count(DeploymentStopping) == 1


def _model_deleted(model: str, *, project: str) -> ModelDeleted:
    now = datetime.now(UTC)
    view = ModelView(
        id=model, project=project, name="m", state=ModelState.DELETED, version=9, created_by="u", created_at=now
    )
    return ModelDeleted(
        id=new_id("evt"), type=ModelDeleted.type_name(), source="finery/studio", subject=f"model/{model}", time=now,
        project=project, nounversion=9, data=view,
    )  # fmt: skip
