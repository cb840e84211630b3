"""What the deployer answers, each within the project of who asks. It only stores what is wanted; the supervisor acts.

An idempotency key is stored with what it made, in the same transaction.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from sqlalchemy.exc import IntegrityError

from finery_contracts.deployments import (
    DeployCommand,
    DeploymentCommand,
    DeploymentPage,
    DeploymentsRequest,
    DeploymentView,
    ServableModel,
    WakeCommand,
)
from finery_contracts.errors import Conflict, NotFound, Unavailable
from finery_contracts.ids import new_id
from finery_deployer import domain, lifecycle, store
from finery_deployer.domain import Decision, Wanted
from finery_deployer.store import DeploymentRow
from finery_kit.bus import Call
from finery_kit.db import Database, Transaction
from finery_kit.idempotency import Asked, once
from finery_kit.telemetry import current_traceparent


@dataclass(frozen=True)
class Desk:
    """What answering needs. ``wake`` says that something was stored for supervisor, routes and relay."""

    database: Database
    wake: Callable[[], None]
    trial_idle_s: float
    failed_rest_s: float
    max_instances: int


async def create(desk: Desk, call: Call[DeployCommand]) -> DeploymentView:
    """``create``: 409 ``name_taken`` for a second deployment of that name in the project."""
    project, request, model = call.by.project, call.body.request, call.body.model
    domain.check_name(request.name)
    _check_project(model, project)

    def work(tx: Transaction) -> DeploymentView:
        if store.name_taken(tx.session, project, request.name):
            raise _name_taken(request.name)
        _check_room(desk, tx, project)
        decision = domain.create(
            request, model, deployment_id=new_id("dep"), project=project, user=call.by.user, now=tx.now
        )
        return _add(tx, decision, model)

    return await _write(desk, work, asked=call.asked, clash=_name_taken(request.name))


async def wake(desk: Desk, call: Call[WakeCommand]) -> DeploymentView:
    """``wake``: a call on an ft: name came. Any number of wakes, also at the same time, start one trial."""
    project, model = call.by.project, call.body.model
    _check_project(model, project)

    def work(tx: Transaction) -> DeploymentView:
        found = store.trials_of(tx.session, project, model.id)
        if not found:
            _check_room(desk, tx, project)
            decision = domain.create_trial(
                model, deployment_id=new_id("dep"), project=project, user=call.by.user, idle_s=desk.trial_idle_s,
                now=tx.now,
            )  # fmt: skip
            return _add(tx, decision, model)
        row = found[0]
        if domain.rests_after_failure(row.view, tx.now, rest_s=desk.failed_rest_s):
            return row.view
        return _start(desk, tx, row, model)

    # On Postgres two first wakes may meet: the one that lost finds the other's trial.
    being_made = Unavailable("this trial is being made at the moment; try again", retry_after_s=1)
    try:
        return await _write(desk, work, clash=being_made)
    except Unavailable as fault:
        if fault is not being_made:
            raise
    return await _write(desk, work, clash=being_made)


async def get(desk: Desk, call: Call[DeploymentCommand]) -> DeploymentView:
    """``get``."""
    return await desk.database.read(
        lambda session: store.deployment(session, call.by.project, call.body.deployment).view
    )


async def list_(desk: Desk, call: Call[DeploymentsRequest]) -> DeploymentPage:
    """``list``."""
    limit = call.body.limit
    rows = await desk.database.read(
        lambda session: store.deployments(session, call.by.project, after=call.body.after, limit=limit + 1)
    )
    more = len(rows) > limit
    return DeploymentPage(
        data=[row.view for row in rows[:limit]], has_more=more, next=rows[limit - 1].id if more else None
    )


async def start(desk: Desk, call: Call[DeploymentCommand]) -> DeploymentView:
    """``start``: one that runs stays as it is; one that stops is started again when it has stopped."""

    def work(tx: Transaction) -> DeploymentView:
        row = store.deployment(tx.session, call.by.project, call.body.deployment, hold=True)
        return _start(desk, tx, row, None)

    return await _write(desk, work, asked=call.asked)


async def stop(desk: Desk, call: Call[DeploymentCommand]) -> DeploymentView:
    """``stop``: what was accepted is answered first; one that rests stays as it is."""

    def work(tx: Transaction) -> DeploymentView:
        row = store.deployment(tx.session, call.by.project, call.body.deployment, hold=True)
        lifecycle.rest(tx, row.id, wanted=Wanted.STOPPED)
        return row.view

    return await _write(desk, work, asked=call.asked)


async def delete(desk: Desk, call: Call[DeploymentCommand]) -> DeploymentView:
    """``delete``: at once when it rests, else as soon as it has stopped; then the name is free."""

    def work(tx: Transaction) -> DeploymentView:
        row = store.deployment(tx.session, call.by.project, call.body.deployment, hold=True)
        row.wanted = Wanted.DELETED.value
        if row.view.state in domain.RESTING:
            return store.remove(tx, row)
        return store.save(tx, row, domain.stop(row.view))

    return await _write(desk, work)


def _start(desk: Desk, tx: Transaction, row: DeploymentRow, model: ServableModel | None) -> DeploymentView:
    if row.wanted == Wanted.DELETED:
        raise Conflict(
            f"deployment {row.name} is being deleted; wait until it is gone and deploy again", code="being_deleted"
        )
    decision = domain.start(row.view)
    if decision[1]:
        _check_room(desk, tx, row.project)
        row.asked_at, row.traceparent = tx.now, current_traceparent()
        if model is not None:
            row.weights, row.adapter, row.openai_name = model.weights, model.adapter, model.openai_name
    row.wanted = Wanted.RUNNING.value
    return store.save(tx, row, decision)


def _add(tx: Transaction, decision: Decision, model: ServableModel) -> DeploymentView:
    view = decision[0]
    row = DeploymentRow(
        id=view.id, project=view.project, name=view.name, model=model.id, trial=view.trial, state=view.state.value,
        wanted=Wanted.RUNNING.value, body=view.model_dump_json(), weights=model.weights, adapter=model.adapter,
        openai_name=model.openai_name, asked_at=tx.now, traceparent=current_traceparent(),
    )  # fmt: skip
    tx.session.add(row)
    tx.session.flush()
    return store.save(tx, row, decision)


async def _write(
    desk: Desk, work: Callable[[Transaction], DeploymentView], *, asked: Asked | None = None,
    clash: Exception | None = None,
) -> DeploymentView:  # fmt: skip
    try:
        view = await desk.database.write(lambda tx: once(tx, asked, DeploymentView, work))
    except IntegrityError as fault:
        raise clash or fault from fault
    desk.wake()
    return view


def _check_room(desk: Desk, tx: Transaction, project: str) -> None:
    if store.is_held(tx.session, project):
        raise Conflict(
            "a budget of this project is used up and stops work; raise or delete it, or wait for the next period",
            code="budget_exhausted",
        )
    if store.live_count(tx.session) >= desk.max_instances:
        raise Unavailable(
            f"all {desk.max_instances} places for instances are taken; stop a deployment, or raise "
            "FINERY_DEPLOYER_MAX_INSTANCES if the machine has room",
            code="no_capacity",
            retry_after_s=30,
        )


def _check_project(model: ServableModel, project: str) -> None:
    if model.project != project:
        raise NotFound(f"there is no model {model.id} in this project", code="model_not_found", param="model")


def _name_taken(name: str) -> Conflict:
    return Conflict(
        f"this project has a deployment {name!r} already; choose another name or delete that one",
        code="name_taken",
        param="name",
    )
