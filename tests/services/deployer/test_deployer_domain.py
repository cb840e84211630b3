"""The moves of a deployment, without anything around them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from itertools import product

import pytest

from finery_contracts.deployments import DeploymentState, DeploymentView, DeployRequest, InstanceInterval, ServableModel
from finery_contracts.errors import ErrorBody
from finery_deployer import domain
from finery_deployer.domain import MOVES, IllegalMove

NOW = datetime(2026, 1, 1, tzinfo=UTC)
State = DeploymentState
ERROR = ErrorBody(code="instance_died", message="it died")
STEPS = {
    State.RUNNING: lambda view: domain.ready(view, NOW, max_length=128),
    State.STOPPED: lambda view: domain.stopped(view, NOW),
    State.FAILED: lambda view: domain.fail(view, ERROR, NOW),
}


def a_view(state: State) -> DeploymentView:
    model = ServableModel(
        id="model_1", project="p", name="m", openai_name=None, weights="store://p/m", adapter=None, max_length=256
    )
    view, _ = domain.create(
        DeployRequest(name="chat", model="m"), model, deployment_id="dep_1", project="p", user="u", now=NOW
    )
    return view.model_copy(update={"state": state})


@pytest.mark.parametrize(("state", "to"), list(product(State, STEPS)))
def test_a_move_is_in_the_table_or_it_is_refused_with_both_states_named(state: State, to: State):
    view = a_view(state)
    if to in MOVES[state]:
        moved, facts = STEPS[to](view)
        assert moved.state is to
        assert [fact.version for fact in facts] == [view.version + 1]
    else:
        with pytest.raises(IllegalMove, match=f"is {state} and cannot become {to}"):
            STEPS[to](view)


def test_a_deployment_cannot_be_longer_than_its_model():
    model = ServableModel(
        id="model_1", project="p", name="m", openai_name=None, weights="w", adapter=None, max_length=256
    )
    request = DeployRequest(name="chat", model="m", max_length=1000)
    view, _ = domain.create(request, model, deployment_id="dep_1", project="p", user="u", now=NOW)
    assert view.max_length == 256


def test_running_time_adds_up_over_instances():
    view = a_view(State.RUNNING)
    for number in range(3):
        interval = InstanceInterval(instance=f"inst_{number}", n=1, started_at=NOW, running_s=2.5)
        view, facts = domain.instance_ended(view, interval)
        assert facts[0].version == view.version
    assert view.running_s == 7.5


@pytest.mark.parametrize(("ages_s", "allowed"), [([0, 10, 20], True), ([0, 1, 2, 3], False), ([0, 1, 2, 601], True)])
def test_three_restarts_in_ten_minutes_are_the_most(ages_s: list[int], allowed: bool):
    crashes = [NOW - timedelta(seconds=age) for age in ages_s]
    assert domain.may_restart(crashes, NOW, limit=3, window_s=600) is allowed


def test_a_route_says_where_only_while_it_runs():
    for state in State:
        route = domain.route_of(a_view(state), openai_name=None, url="http://127.0.0.1:1", token="t")
        assert (route.url is not None) == (state is State.RUNNING)
