"""Calls on an ft: name wake its trial deployment."""

from __future__ import annotations

import asyncio

from gateway_rig import Rig, servable, trial

from finery_contracts.deployments import DeploymentState, DeploymentView
from finery_contracts.errors import ErrorBody, NotFound
from finery_contracts.model import Record
from finery_kit.bus import RpcRequest

NAME = "ft:base:proj:s:1"
CALL = {"model": NAME, "messages": [{"role": "user", "content": "hi"}]}
ROUTE = {"deployment": "dep_trial", "names": ["trial-mdl_1", NAME]}


async def test_calls_on_an_ft_name_wait_for_the_one_trial_they_wake(rig: Rig):
    # given
    async def wake(request: RpcRequest) -> Record:
        await rig.add_route("trial", **ROUTE, state=DeploymentState.DEPLOYING, url=None, token=None)
        return trial(request)

    asked = await rig.answer_rpc("studio", "servable", servable)
    woken = await rig.answer_rpc("deployer", "wake", wake)
    async with rig.gateway():
        # when
        calls = [asyncio.ensure_future(rig.post(CALL).__aenter__()) for _ in range(5)]
        await rig.until_true(lambda: len(woken) == 1)
        await rig.add_route("trial", **ROUTE)
        answers = await asyncio.gather(*calls)

    # then
    assert {answer.status for answer in answers} == {200}
    assert (len(asked), len(woken)) == (1, 1)
    assert asked[0].actor is not None
    assert (asked[0].actor.project, asked[0].actor.user) == ("proj_a", "user_1")
    assert rig.engine.bodies[0]["model"] == NAME
    for answer in answers:
        answer.release()


async def test_a_stopped_trial_is_woken_again(rig: Rig):
    async def wake(request: RpcRequest) -> Record:
        await rig.add_route("trial", **ROUTE)
        return trial(request)

    await rig.answer_rpc("studio", "servable", servable)
    await rig.answer_rpc("deployer", "wake", wake)
    await rig.add_route("trial", **ROUTE, state=DeploymentState.STOPPED, url=None, token=None)
    async with rig.gateway(), rig.post(CALL) as answer:
        assert answer.status == 200


async def test_an_ft_name_that_nobody_has_is_a_404(rig: Rig):
    def nobody(_: RpcRequest) -> Record:
        raise NotFound("there is no such model in this project", code="model_not_found")

    await rig.answer_rpc("studio", "servable", nobody)
    async with rig.gateway():
        status, code, _ = await rig.refusal(CALL)
    assert (status, code) == (404, "model_not_found")


async def test_a_trial_that_takes_too_long_is_a_503_that_says_when_to_come_back(rig: Rig):
    await rig.answer_rpc("studio", "servable", servable)
    await rig.answer_rpc("deployer", "wake", trial)
    async with rig.gateway(gateway_wake_s=0.2):
        status, code, answer = await rig.refusal(CALL)
    assert (status, code) == (503, "deployment_starting")
    assert int(answer.headers["Retry-After"]) >= 1


async def test_a_trial_that_cannot_start_is_a_503_with_the_reason_at_once(rig: Rig):
    error = ErrorBody(code="weights_unsupported", message="this architecture is not served")

    async def wake(request: RpcRequest) -> Record:
        await rig.add_route("trial", **ROUTE, state=DeploymentState.FAILED, url=None, token=None, revision=9)
        return trial(request)

    def get(_: RpcRequest) -> DeploymentView:
        made = trial(RpcRequest(body={"model": servable(_asked()).model_dump()}), DeploymentState.FAILED)
        return made.model_copy(update={"error": error})

    await rig.answer_rpc("studio", "servable", servable)
    await rig.answer_rpc("deployer", "wake", wake)
    await rig.answer_rpc("deployer", "get", get)
    async with rig.gateway():
        status, code, answer = await rig.refusal(CALL)
    assert (status, code) == (503, "deployment_failed")
    assert "this architecture is not served" in (await answer.json())["error"]["message"]


async def test_without_studio_an_ft_name_is_a_503(rig: Rig):
    async with rig.gateway():
        status, code, _ = await rig.refusal(CALL)
    assert (status, code) == (503, "unavailable")


def _asked() -> RpcRequest:
    from finery_contracts.access import Actor, Role

    actor = Actor(project="proj_a", project_name="a", user="u", key="k", role=Role.COMMON)
    return RpcRequest(actor=actor, body={"name": NAME})
