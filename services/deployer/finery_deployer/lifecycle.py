"""The supervisor's side of a deployment's life: what is stored when an instance starts, serves, drains or dies.

Each function is one transaction's work, looks again at what is stored before it changes anything, and returns quietly
when somebody else was faster: so an interval is counted exactly once.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from datetime import timedelta

from finery_contracts.deployments import DeploymentState, InstanceInterval
from finery_contracts.errors import ErrorBody
from finery_contracts.ids import new_id
from finery_deployer import domain, store
from finery_deployer.domain import Wanted
from finery_deployer.store import DeploymentRow, InstanceRow, InstanceState
from finery_kit.db import Transaction


@dataclass(frozen=True)
class RestartLimit:
    """So many restarts after crashes within the window; one more crash and the deployment has failed."""

    restarts: int
    window_s: float


@dataclass(frozen=True)
class Death:
    """An instance that ended without being asked; ``final``: another one would end the same way."""

    error: ErrorBody
    final: bool = False


def begin_instance(tx: Transaction, deployment_id: str) -> tuple[DeploymentRow, InstanceRow] | None:
    """Name the next instance before it is started, so that none runs that nobody knows of."""
    row = store.held(tx.session, deployment_id)
    if row is None or row.state != DeploymentState.DEPLOYING or store.live_instance(tx.session, deployment_id):
        return None
    instance = InstanceRow(
        id=new_id("inst"), deployment_id=row.id, project=row.project, state=InstanceState.STARTING.value,
        token=secrets.token_urlsafe(32), created_at=tx.now,
    )  # fmt: skip
    tx.session.add(instance)
    tx.session.flush()
    return row, instance


def spawned(tx: Transaction, instance_id: str, *, pid: int, born: str | None) -> None:
    """It has a process."""
    instance = tx.session.get_one(InstanceRow, instance_id)
    instance.pid, instance.born = pid, born
    tx.session.add(instance)


def serving(tx: Transaction, instance_id: str, *, url: str, pid: int, born: str | None, max_length: int) -> bool:
    """It answers: the deployment runs and its running time begins. False when it is not wanted any more."""
    row, instance = _held(tx, instance_id)
    if instance.state != InstanceState.STARTING or row.state != DeploymentState.DEPLOYING:
        return False
    instance.state, instance.url, instance.pid, instance.born = InstanceState.RUNNING.value, url, pid, born
    instance.started_at = instance.seen_at = tx.now
    tx.session.add(instance)
    tx.session.flush()
    store.save(tx, row, domain.ready(row.view, tx.now, max_length=max_length))
    return True


def measured(tx: Transaction, running_s: dict[str, float]) -> None:
    """Keep how long each has run, so that a deployer that died loses little of it."""
    for instance_id, seconds in running_s.items():
        instance = tx.session.get(InstanceRow, instance_id)
        if instance is not None and instance.state == InstanceState.RUNNING:
            instance.measured_s, instance.seen_at = seconds, tx.now
            tx.session.add(instance)


def rest(tx: Transaction, deployment_id: str, *, wanted: Wanted) -> None:
    """Stop a deployment that was not deleted meanwhile; ``wanted`` says whether it is to come back."""
    row = store.held(tx.session, deployment_id)
    if row is None:
        return
    if row.wanted != Wanted.DELETED:
        row.wanted = wanted.value
    store.save(tx, row, domain.stop(row.view))


def may_drain(tx: Transaction, deployment_id: str, *, grace_s: float) -> bool:
    """True once the gateways were told, and the word had time to arrive."""
    route = tx.session.get_one(store.RouteRow, deployment_id)
    if not route.published or route.published_at is None:
        return False
    return tx.now >= route.published_at + timedelta(seconds=grace_s)


def draining(tx: Transaction, instance_id: str) -> None:
    """It was asked to leave."""
    instance = tx.session.get_one(InstanceRow, instance_id)
    if instance.state != InstanceState.ENDED:
        instance.state, instance.drained_at = InstanceState.DRAINING.value, tx.now
        tx.session.add(instance)


def ended(tx: Transaction, instance_id: str, *, running_s: float, death: Death | None, limit: RestartLimit) -> None:
    """It is gone: count its running time once, then see what becomes of the deployment."""
    row, instance = _held(tx, instance_id)
    if instance.state == InstanceState.ENDED:
        return
    died = death if row.state != DeploymentState.STOPPING else None
    instance.state, instance.ended_at, instance.crashed = InstanceState.ENDED.value, tx.now, died is not None
    instance.measured_s = running_s
    tx.session.add(instance)
    tx.session.flush()
    interval = InstanceInterval(
        instance=instance.id, n=1, started_at=instance.started_at or instance.created_at, running_s=running_s,
        billed=instance.started_at is not None,
    )  # fmt: skip
    store.save(tx, row, domain.instance_ended(row.view, interval))
    if died is not None:
        _after_death(tx, row, died, limit)
    elif row.state == DeploymentState.STOPPING:
        settle(tx, row.id)


def settle(tx: Transaction, deployment_id: str) -> None:
    """No instance is left: stopped, and then on to where it is wanted."""
    row = store.held(tx.session, deployment_id)
    if row is None:
        return
    if row.state == DeploymentState.STOPPING and store.live_instance(tx.session, row.id) is None:
        store.save(tx, row, domain.stopped(row.view, tx.now))
    if row.state in domain.RESTING and row.wanted == Wanted.DELETED:
        store.remove(tx, row)


def resume(tx: Transaction, deployment_id: str) -> None:
    """It stopped although it is wanted: because the deployer left, or because it was asked for again while stopping."""
    row = store.held(tx.session, deployment_id)
    if row is None:
        return
    if row.state == DeploymentState.STOPPED and row.wanted == Wanted.RUNNING:
        row.asked_at = tx.now
        store.save(tx, row, domain.start(row.view))


def _held(tx: Transaction, instance_id: str) -> tuple[DeploymentRow, InstanceRow]:
    """An instance with its deployment, both kept from other writers."""
    deployment_id = tx.session.get_one(InstanceRow, instance_id).deployment_id
    row = store.held(tx.session, deployment_id)
    if row is None:
        raise LookupError(f"instance {instance_id} has no deployment")
    return row, tx.session.get_one(InstanceRow, instance_id, with_for_update=True, populate_existing=True)


def _after_death(tx: Transaction, row: DeploymentRow, death: Death, limit: RestartLimit) -> None:
    crashes = store.crashes(tx.session, row)
    if not death.final and domain.may_restart(crashes, tx.now, limit=limit.restarts, window_s=limit.window_s):
        store.save(tx, row, domain.replace(row.view, death.error))
        return
    _fail(tx, row, death.error)


def _fail(tx: Transaction, row: DeploymentRow, error: ErrorBody) -> None:
    if row.wanted == Wanted.RUNNING:
        row.wanted = Wanted.STOPPED.value
    store.save(tx, row, domain.fail(row.view, error, tx.now))
    settle(tx, row.id)
