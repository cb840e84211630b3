"""Giving, narrowing and withdrawing grants, and the question that every task's source asks.

Roles decide who may give grants, grants decide what tasks may touch: no role, the operator's included, is exempt.
"""

from __future__ import annotations

from finery_contracts.access import Actor
from finery_contracts.grants import (
    Action,
    GrantChange,
    GrantExpired,
    GrantGiven,
    GrantNarrowed,
    GrantRequest,
    GrantView,
    GrantWithdrawn,
)
from finery_contracts.ids import new_id
from finery_kit.db import Transaction
from finery_studio.grants import domain, store
from finery_studio.pools.store import LOCK_PROJECT, one_at_a_time


def give(tx: Transaction, asked: GrantRequest, actor: Actor) -> GrantView:
    """A new grant of the project.

    Raises:
        Conflict: it has as many as it may have.
        InvalidRequest: the resource is none.
    """
    resource = domain.check_resource(asked.action, asked.resource)
    one_at_a_time(tx.session, LOCK_PROJECT, of=actor.project)
    expire(tx, actor.project)
    domain.check_room(len(store.of_project(tx.session, actor.project)))
    view = GrantView(
        id=new_id("grant"), project=actor.project, action=asked.action, resource=resource,
        target=domain.target_of(asked.target),
        description=asked.description, expires_at=domain.ends_at(asked.days, tx.now), version=1,
        created_by=actor.user, created_at=tx.now,
    )  # fmt: skip
    return store.save(tx, view, GrantGiven)


def narrow(tx: Transaction, grant_id: str, asked: GrantChange, *, actor: Actor) -> GrantView:
    """Less than before."""
    grant = store.load(tx.session, actor.project, grant_id, now=tx.now)
    return store.save(tx, domain.narrowed(grant, asked, tx.now), GrantNarrowed)


def withdraw(tx: Transaction, grant_id: str, actor: Actor) -> GrantView:
    """One of them goes."""
    return store.remove(tx, store.load(tx.session, actor.project, grant_id, now=tx.now), GrantWithdrawn)


def clear(tx: Transaction, actor: Actor) -> int:
    """All of them go; how many there were."""
    gone = [store.remove(tx, grant, GrantWithdrawn) for grant in store.of_project(tx.session, actor.project)]
    return len(gone)


def expire(tx: Transaction, project: str | None = None) -> None:
    """Those whose time is over go."""
    for grant in store.over(tx.session, tx.now, project):
        store.remove(tx, grant, GrantExpired)


def check(tx: Transaction, actor: Actor, action: Action, *, resource: str) -> None:
    """Raises Forbidden ``grant_missing`` unless a living grant of the project lets the actor's tasks do that."""
    grants = store.of_project(tx.session, actor.project)
    domain.check_granted(grants, actor, action, resource=resource, now=tx.now)
