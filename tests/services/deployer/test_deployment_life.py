"""A deployment's life through the requests of its owner, with real processes."""

from __future__ import annotations

import asyncio
import os
import signal

import pytest
from deployer_bench import Bench

from finery_contracts.deployments import (
    DeployCommand,
    DeploymentDeleted,
    DeploymentDeploying,
    DeploymentFailed,
    DeploymentInstanceEnded,
    DeploymentPage,
    DeploymentRunning,
    DeploymentsRequest,
    DeploymentState,
    DeploymentStopped,
    DeploymentStopping,
    DeploymentView,
    DeployRequest,
    WakeCommand,
)
from finery_contracts.errors import Conflict, InvalidRequest, NotFound, Unavailable, Unprocessable

State = DeploymentState


async def test_a_deployment_runs_until_it_is_stopped_and_runs_again_when_started(bench: Bench):
    async with bench.deployer() as service:
        # given
        view = await bench.deploy(bench.model(), qps=3)
        assert view.state is State.DEPLOYING
        await bench.until(view.id, State.RUNNING)

        # when
        await bench.command("stop", "chat")
        stopped = await bench.until(view.id, State.STOPPED)
        await bench.command("start", "chat")
        again = await bench.until(view.id, State.RUNNING)

        # then
        assert (stopped.runs, again.runs) == (1, 2)
        facts = await bench.facts(service)
        assert [type(fact) for fact in facts] == [
            DeploymentDeploying, DeploymentRunning, DeploymentStopping, DeploymentInstanceEnded, DeploymentStopped,
            DeploymentDeploying, DeploymentRunning,
        ]  # fmt: skip
        versions = [fact.nounversion for fact in facts]
        assert versions == sorted(set(versions))


async def test_the_route_follows_the_deployment_and_goes_with_it(bench: Bench):
    async with bench.deployer():
        # given
        view = await bench.deploy(bench.model(), qps=3, default_max_tokens=7)

        # when
        running = await bench.until_route(view.id, State.RUNNING)
        await bench.command("stop", view.id)
        stopped = await bench.until_route(view.id, State.STOPPED)
        await bench.command("delete", view.id)

        # then
        assert running.url is not None
        assert running.token is not None
        assert (running.names, running.qps, running.default_max_tokens) == (["chat"], 3.0, 7)
        assert (stopped.url, stopped.token) == (None, None)
        assert stopped.revision > running.revision
        await bench.until_true(lambda: _gone(bench, view.id))


async def test_gateways_hear_of_a_stop_before_the_instance_does(bench: Bench):
    async with bench.deployer(deployer_drain_grace_s=1.0):
        # given
        view = await bench.deploy(bench.model())
        await bench.until(view.id, State.RUNNING)

        # when
        await bench.command("stop", view.id)
        await bench.until_route(view.id, State.STOPPING)

        # then
        assert bench.children[0].process.poll() is None
        await bench.until(view.id, State.STOPPED)


async def test_names_are_unique_in_a_project_and_free_after_deletion(bench: Bench):
    async with bench.deployer() as service:
        # given
        first = await bench.deploy(bench.model())

        # when
        with pytest.raises(Conflict) as taken:
            await bench.deploy(bench.model())
        other = await bench.deploy(bench.model(project="proj_b"))
        await bench.until(first.id, State.RUNNING)
        await bench.command("delete", "chat")
        await bench.until_true(lambda: _name_is_free(bench, "chat"))
        second = await bench.deploy(bench.model())

        # then
        assert taken.value.error_code == "name_taken"
        assert len({first.id, other.id, second.id}) == 3
        assert DeploymentDeleted in [type(fact) for fact in await bench.facts(service)]


async def test_a_project_neither_sees_nor_reaches_anothers_deployments(bench: Bench):
    async with bench.deployer():
        # given
        view = await bench.deploy(bench.model(project="proj_a"))

        # when, then
        for verb in ("get", "start", "stop", "delete"):
            for ref in (view.id, view.name):
                with pytest.raises(NotFound) as unknown:
                    await bench.command(verb, ref, project="proj_b")
                assert unknown.value.error_code == "deployment_not_found"
        page = await bench.ask("list", DeploymentsRequest(), DeploymentPage, project="proj_b")
        assert page.data == []
        command = DeployCommand(request=DeployRequest(name="other", model="m"), model=bench.model(project="proj_a"))
        for verb, body in (("create", command), ("wake", WakeCommand(model=command.model))):
            with pytest.raises(NotFound) as foreign:
                await bench.ask(verb, body, DeploymentView, project="proj_b")
            assert foreign.value.error_code == "model_not_found"


async def test_lists_come_in_pages(bench: Bench):
    async with bench.deployer():
        # given
        model = bench.model()
        made = [await bench.deploy(model, name=f"chat{number}") for number in range(3)]

        # when
        first = await bench.ask("list", DeploymentsRequest(limit=2), DeploymentPage)
        second = await bench.ask("list", DeploymentsRequest(limit=2, after=first.next), DeploymentPage)

        # then
        assert [view.id for view in (*first.data, *second.data)] == [view.id for view in made]
        assert (first.has_more, second.has_more) == (True, False)


async def test_the_same_idempotency_key_makes_one_deployment(bench: Bench):
    async with bench.deployer():
        # given
        first = await bench.deploy(bench.model(), idempotency_key="once")

        # when
        second = await bench.deploy(bench.model(), idempotency_key="once")
        with pytest.raises(Unprocessable) as reused:
            await bench.deploy(bench.model(), name="other", idempotency_key="once")

        # then
        assert second == first
        assert reused.value.error_code == "idempotency_key_reused"


@pytest.mark.parametrize(
    ("name", "code"),
    [("9lives", "invalid_name"), ("a b", "invalid_name"), ("x" * 65, "invalid_name"), ("", "invalid_name"),
     ("ft:base", "invalid_name"), ("trial-mdl_1", "name_reserved")],
)  # fmt: skip
async def test_a_name_that_is_not_allowed_is_refused_with_the_reason(bench: Bench, name: str, code: str):
    async with bench.deployer():
        with pytest.raises(InvalidRequest) as refused:
            await bench.deploy(bench.model(), name=name)
    assert refused.value.error_code == code


async def test_a_full_machine_says_so(bench: Bench):
    async with bench.deployer(deployer_max_instances=1):
        await bench.deploy(bench.model())
        with pytest.raises(Unavailable) as full:
            await bench.deploy(bench.model(), name="second")
    assert full.value.error_code == "no_capacity"


async def test_an_instance_that_dies_is_replaced(bench: Bench):
    async with bench.deployer() as service:
        # given
        view = await bench.deploy(bench.model())
        first = await bench.until_route(view.id, State.RUNNING)

        # when
        os.killpg(bench.children[0].pid, signal.SIGKILL)
        await bench.until(view.id, State.RUNNING, lambda seen: seen.version > first.revision)

        # then
        ended = [fact for fact in await bench.facts(service) if isinstance(fact, DeploymentInstanceEnded)]
        assert len(ended) == 1
        assert ended[0].data.interval.billed
        second = await bench.until_route(view.id, State.RUNNING)
        assert second.url != first.url


async def test_an_instance_that_keeps_dying_fails_the_deployment_with_the_end_of_its_log(bench: Bench):
    async with bench.deployer(deployer_max_restarts=3) as service:
        # when
        view = await bench.deploy(bench.model(crash=True))
        failed = await bench.until(view.id, State.FAILED)

        # then
        assert len(bench.children) == 4
        assert failed.error is not None
        assert failed.error.code == "instance_died"
        assert "the weights are torn" in failed.error.message
        ended = [fact for fact in await bench.facts(service) if isinstance(fact, DeploymentInstanceEnded)]
        assert [fact.data.interval.billed for fact in ended] == [False] * 4
        assert isinstance((await bench.facts(service))[-1], DeploymentFailed)


async def test_a_model_that_cannot_be_served_is_not_tried_again(bench: Bench):
    async with bench.deployer():
        view = await bench.deploy(bench.model(refuse=True))
        failed = await bench.until(view.id, State.FAILED)
    assert failed.error is not None
    assert failed.error.code == "weights_unsupported"
    assert len(bench.children) == 1


async def test_weights_that_are_gone_fail_the_deployment(bench: Bench):
    async with bench.deployer():
        model = bench.model().model_copy(update={"weights": "store://proj_a/nothing"})
        view = await bench.deploy(model)
        failed = await bench.until(view.id, State.FAILED)
    assert failed.error is not None
    assert failed.error.code == "artefact_missing"


async def test_an_instance_that_is_never_ready_is_ended(bench: Bench):
    async with bench.deployer(deployer_start_timeout_s=0.3, deployer_max_restarts=0):
        view = await bench.deploy(bench.model(never_ready=True))
        failed = await bench.until(view.id, State.FAILED)
        await bench.until_true(lambda: bench.children[0].process.poll() is not None)
    assert failed.error is not None
    assert "was not ready within" in failed.error.message


async def test_an_instance_that_falls_silent_is_replaced(bench: Bench):
    async with bench.deployer(deployer_unhealthy_s=0.2, deployer_max_restarts=0):
        # given
        view = await bench.deploy(bench.model())
        await bench.until(view.id, State.RUNNING)

        # when
        (bench.home / "store/proj_a/m/sick").touch()
        failed = await bench.until(view.id, State.FAILED)

        # then
        assert failed.error is not None
        assert "did not answer" in failed.error.message


async def test_an_instance_that_does_not_leave_is_killed(bench: Bench):
    async with bench.deployer(deployer_kill_after_s=0.3):
        view = await bench.deploy(bench.model(deaf=True))
        await bench.until(view.id, State.RUNNING)
        await bench.command("stop", view.id)
        await bench.until(view.id, State.STOPPED)
    assert await bench.children[0].wait() == -signal.SIGKILL


async def test_a_deployment_that_is_idle_stops(bench: Bench):
    async with bench.deployer() as service:
        view = await bench.deploy(bench.model(idle_s=60.0), idle_stop_s=30)
        await bench.until(view.id, State.STOPPED)
        kinds = [type(fact) for fact in await bench.facts(service)]
    assert kinds[-3:] == [DeploymentStopping, DeploymentInstanceEnded, DeploymentStopped]


async def test_a_start_while_it_stops_starts_it_again_afterwards(bench: Bench):
    async with bench.deployer(deployer_drain_grace_s=0.3):
        # given
        view = await bench.deploy(bench.model())
        await bench.until(view.id, State.RUNNING)
        await bench.command("stop", view.id)

        # when
        meanwhile = await bench.command("start", view.id)

        # then
        assert meanwhile.state is State.STOPPING
        await bench.until(view.id, State.RUNNING, lambda seen: seen.runs == 2)


async def test_a_deployment_that_is_being_deleted_cannot_be_started(bench: Bench):
    async with bench.deployer(deployer_drain_grace_s=0.5):
        view = await bench.deploy(bench.model())
        await bench.until(view.id, State.RUNNING)
        await bench.command("delete", view.id)
        with pytest.raises(Conflict) as late:
            await bench.command("start", view.id)
    assert late.value.error_code == "being_deleted"


async def test_stop_and_start_of_what_is_so_already_change_nothing(bench: Bench):
    async with bench.deployer():
        view = await bench.deploy(bench.model())
        running = await bench.until(view.id, State.RUNNING)
        started = await bench.command("start", view.id)
        await bench.command("stop", view.id)
        stopped = await bench.until(view.id, State.STOPPED)
        again = await bench.command("stop", view.id)
    assert started == running
    assert again == stopped


async def test_only_the_latest_token_opens_an_instance(bench: Bench):
    async with bench.deployer() as service:
        view = await bench.deploy(bench.model())
        route = await bench.until_route(view.id, State.RUNNING)
        (instance,) = await bench.instances(service)
    assert route.token == instance.token
    assert (bench.home / "serve" / instance.id).stat().st_mode & 0o077 == 0


async def _gone(bench: Bench, deployment: str) -> bool:
    return await bench.route(deployment) is None


async def _name_is_free(bench: Bench, name: str) -> bool:
    try:
        await bench.command("get", name)
    except NotFound:
        return True
    await asyncio.sleep(0)
    return False
