"""What may happen to a deployment, and what is said of it. Pure: state and news in, state and facts out."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum

from finery_contracts.deployments import (
    DeploymentAutoStopSoon,
    DeploymentDeleted,
    DeploymentDeploying,
    DeploymentFailed,
    DeploymentInstanceEnded,
    DeploymentRunning,
    DeploymentState,
    DeploymentStopped,
    DeploymentStopping,
    DeploymentView,
    DeployRequest,
    InstanceEndedData,
    InstanceInterval,
    Route,
    ServableModel,
)
from finery_contracts.envelope import Event
from finery_contracts.errors import Conflict, ErrorBody, InvalidRequest
from finery_contracts.jobs import ServeStatus
from finery_contracts.model import Record

State = DeploymentState
MOVES: dict[State, frozenset[State]] = {
    State.DEPLOYING: frozenset({State.RUNNING, State.STOPPING, State.FAILED}),
    # Back to deploying: the instance died and another is being started.
    State.RUNNING: frozenset({State.DEPLOYING, State.STOPPING, State.FAILED}),
    State.STOPPING: frozenset({State.STOPPED}),
    State.STOPPED: frozenset({State.DEPLOYING}),
    State.FAILED: frozenset({State.DEPLOYING}),
    # SPEC DE2 and DE5 name these; nothing here brings a deployment into them yet.
    State.ALARM: frozenset(),
    State.ABNORMAL: frozenset(),
    State.UPGRADING: frozenset(),
}
RESTING = frozenset({State.STOPPED, State.FAILED})
TRIAL_QPS = 5.0
TRIAL_PREFIX = "trial-"
_NAME = re.compile(r"[A-Za-z\u3400-\u4dbf\u4e00-\u9fff][A-Za-z0-9_\-\u3400-\u4dbf\u4e00-\u9fff]{0,63}")


class IllegalMove(Conflict):
    """A deployment does not move that way."""

    code = "illegal_move"


class Wanted(StrEnum):
    """Where a deployment is to end up, whatever it does now."""

    RUNNING = "running"
    STOPPED = "stopped"
    DELETED = "deleted"


@dataclass(frozen=True)
class Fact:
    """What is to be said, once the state is stored."""

    kind: type[Event]
    version: int
    data: Record


Decision = tuple[DeploymentView, list[Fact]]


def check_name(name: str) -> None:
    """SPEC PR6, and the names that trials have.

    Raises:
        InvalidRequest: ``invalid_name`` or ``name_reserved``.
    """
    if not _NAME.fullmatch(name):
        raise InvalidRequest(
            "a deployment's name has 1 to 64 characters: a letter or Chinese character first, then letters, Chinese "
            "characters, digits, _ and -",
            code="invalid_name",
            param="name",
        )
    if name.startswith(f"{TRIAL_PREFIX}mdl_"):
        raise InvalidRequest(
            "names that begin with trial-mdl_ are for trial deployments; choose another one",
            code="name_reserved",
            param="name",
        )


def create(
    request: DeployRequest, model: ServableModel, *, deployment_id: str, project: str, user: str, now: datetime
) -> Decision:
    """Somebody deploys a model."""
    view = DeploymentView(
        id=deployment_id, project=project, name=request.name, description=request.description, model=model.id,
        model_name=model.name, state=State.DEPLOYING, version=1, created_by=user, created_at=now, pool=request.pool,
        flavour=request.flavour, instances=request.instances, qps=request.qps,
        default_max_tokens=request.default_max_tokens,
        max_length=min(request.max_length or model.max_length, model.max_length), idle_stop_s=request.idle_stop_s,
        auto_stop_s=request.auto_stop_s, runs=1, notify=request.notify,
    )  # fmt: skip
    return view, [_said(DeploymentDeploying, view)]


def create_trial(
    model: ServableModel, *, deployment_id: str, project: str, user: str, idle_s: float, now: datetime
) -> Decision:
    """A call on an ft: name came and there is no trial of its model yet."""
    view = DeploymentView(
        id=deployment_id, project=project, name=f"{TRIAL_PREFIX}{model.id}", model=model.id, model_name=model.name,
        trial=True, state=State.DEPLOYING, version=1, created_by=user, created_at=now, qps=TRIAL_QPS,
        default_max_tokens=None, max_length=model.max_length, idle_stop_s=idle_s, runs=1,
    )  # fmt: skip
    return view, [_said(DeploymentDeploying, view)]


def start(view: DeploymentView) -> Decision:
    """Somebody wants it to run; one that runs, or will soon, stays as it is."""
    if view.state not in RESTING:
        return view, []
    started = _moved(view, State.DEPLOYING, error=None, stopped_at=None, auto_stop_at=None, runs=view.runs + 1)
    return started, [_said(DeploymentDeploying, started)]


def ready(view: DeploymentView, now: datetime, *, max_length: int) -> Decision:
    """An instance answers."""
    running = _moved(view, State.RUNNING, running_at=now, error=None, max_length=max_length)
    return running, [_said(DeploymentRunning, running)]


def stop(view: DeploymentView) -> Decision:
    """Nobody wants it to run; one that rests, or will soon, stays as it is."""
    if view.state in RESTING or view.state is State.STOPPING:
        return view, []
    stopping = _moved(view, State.STOPPING)
    return stopping, [_said(DeploymentStopping, stopping)]


def warn_of_auto_stop(view: DeploymentView, due_at: datetime) -> Decision:
    """Its auto-stop is near; nothing to say of one that does not run."""
    if view.state is not State.RUNNING:
        return view, []
    warned = _touched(view, auto_stop_at=due_at)
    return warned, [_said(DeploymentAutoStopSoon, warned)]


def stopped(view: DeploymentView, now: datetime) -> Decision:
    """Its instances are gone."""
    rests = _moved(view, State.STOPPED, stopped_at=now)
    return rests, [_said(DeploymentStopped, rests)]


def replace(view: DeploymentView, error: ErrorBody) -> Decision:
    """Its instance died; another one is started."""
    died_early = view.state is State.DEPLOYING
    again = _touched(view, error=error) if died_early else _moved(view, State.DEPLOYING, error=error)
    return again, [_said(DeploymentDeploying, again)]


def fail(view: DeploymentView, error: ErrorBody, now: datetime) -> Decision:
    """It does not stay up; ``error`` says why."""
    failed = _moved(view, State.FAILED, error=error, stopped_at=now)
    return failed, [_said(DeploymentFailed, failed)]


def delete(view: DeploymentView) -> Decision:
    """It is gone.

    Raises:
        IllegalMove: it does not rest.
    """
    if view.state not in RESTING:
        raise IllegalMove(f"deployment {view.id} is {view.state} and cannot be removed before it rests")
    gone = _touched(view)
    return gone, [_said(DeploymentDeleted, gone)]


def instance_ended(view: DeploymentView, interval: InstanceInterval) -> Decision:
    """An instance's running time is over, whatever becomes of the deployment."""
    counted = _touched(view, running_s=view.running_s + interval.running_s)
    return counted, [
        Fact(DeploymentInstanceEnded, counted.version, InstanceEndedData(deployment=counted, interval=interval))
    ]


def may_restart(crashes: Sequence[datetime], now: datetime, *, limit: int, window_s: float) -> bool:
    """Whether one more instance is started after these crashes (the newest included)."""
    recent = [moment for moment in crashes if moment > now - timedelta(seconds=window_s)]
    return len(recent) <= limit


def rests_after_failure(view: DeploymentView, now: datetime, *, rest_s: float) -> bool:
    """True while a failed trial is left alone, so that calls on a broken model do not start it over and over."""
    return (
        view.state is State.FAILED and view.stopped_at is not None and now < view.stopped_at + timedelta(seconds=rest_s)
    )


def is_idle(status: ServeStatus, idle_stop_s: float | None) -> bool:
    """True for an instance that has had nothing to do for as long as its deployment allows."""
    return idle_stop_s is not None and status.active == 0 and status.idle_s >= idle_stop_s


def served_name(view: DeploymentView, openai_name: str | None) -> str:
    """The name the instance answers with: what callers say."""
    return openai_name if view.trial and openai_name else view.name


def route_of(view: DeploymentView, *, openai_name: str | None, url: str | None, token: str | None) -> Route:
    """What the gateways are told; where to call only while it runs."""
    runs = view.state is State.RUNNING
    return Route(
        deployment=view.id, project=view.project,
        names=list(dict.fromkeys([view.name, served_name(view, openai_name)])), state=view.state,
        url=url if runs else None, token=token if runs else None, qps=view.qps * view.instances,
        default_max_tokens=view.default_max_tokens, max_length=view.max_length, revision=view.version,
    )  # fmt: skip


def _said(kind: type[Event], view: DeploymentView) -> Fact:
    return Fact(kind, view.version, view)


def _moved(view: DeploymentView, to: State, **changes: object) -> DeploymentView:
    if to not in MOVES[view.state]:
        raise IllegalMove(f"deployment {view.id} is {view.state} and cannot become {to}")
    return _touched(view, state=to, **changes)


def _touched(view: DeploymentView, **changes: object) -> DeploymentView:
    return view.model_copy(update={"version": view.version + 1, **changes})
