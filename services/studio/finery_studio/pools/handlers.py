"""Making and removing pools, setting quotas, and the check that every submit passes. It never chooses a task."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from sqlmodel import Session, col, select

from finery_contracts.access import Actor, Role
from finery_contracts.errors import Conflict, InvalidRequest, NotFound, RateLimited
from finery_contracts.ids import new_id
from finery_contracts.jobs import TaskKind
from finery_contracts.pools import PUBLIC, Flavour, PoolChange, PoolRequest, PoolView, QuotaChange, QuotaView
from finery_kit.db import Transaction
from finery_studio.pools import counts, store
from finery_studio.pools.counts import Standing
from finery_studio.pools.flavours import can_do, wrong_driver
from finery_studio.projects.domain import check_name, check_role
from finery_studio.projects.store import ProjectRow

FIRST_FLAVOUR = "cpu"


@dataclass(frozen=True)
class PoolDesk:
    """What studio does with pools and quotas. ``changed``: more may run now."""

    policy: store.Policy
    changed: Callable[[], None]

    # --- start --------------------------------------------------------------------------------------------------

    def begin(self, tx: Transaction) -> None:
        """At the start: the policy in force, and the pool that everybody has."""
        tx.session.merge(store.PolicyRow(id=1, policy=self.policy.model_dump_json()))
        if tx.session.get(store.PoolRow, PUBLIC) is None:
            tx.session.add(
                store.PoolRow(
                    id=PUBLIC, name=PUBLIC, description="the pool of all projects", flavours={FIRST_FLAVOUR: None},
                    created_by="finery", created_at=tx.now,
                )
            )  # fmt: skip
        tx.session.flush()

    # --- pools --------------------------------------------------------------------------------------------------

    def create(self, tx: Transaction, asked: PoolRequest, actor: Actor) -> PoolView:
        """A pool of the project, or (operators) of all.

        Raises:
            Conflict: the name is taken.
            InvalidRequest: a flavour is unknown, or its driver another one.
        """
        check_role(actor.role, Role.OPERATOR if asked.public else Role.FULL)
        check_name(asked.name)
        self._check(asked.flavours, asked.driver)
        store.one_at_a_time(tx.session, store.LOCK_PROJECT, of="" if asked.public else actor.project)
        if any(row.name == asked.name for row in store.visible_pools(tx.session, actor.project)):
            raise Conflict(f"there is a pool named {asked.name} already", code="name_taken", param="name")
        row = store.PoolRow(
            id=new_id("public" if asked.public else "pool"), project=None if asked.public else actor.project,
            name=asked.name, description=asked.description, flavours=dict(asked.flavours), driver=asked.driver,
            created_by=actor.user, created_at=tx.now,
        )  # fmt: skip
        tx.session.add(row)
        tx.session.flush()
        return self.view(tx.session, row, actor.project)

    def change(self, tx: Transaction, ref: str, asked: PoolChange, *, actor: Actor) -> PoolView:
        """Other slots, another driver.

        Raises:
            Conflict: a flavour that unfinished tasks have would go.
        """
        row = self._mine(tx, ref, actor)
        flavours = asked.flavours if asked.flavours is not None else row.flavours
        driver = asked.driver if "driver" in asked.model_fields_set else row.driver
        self._check(flavours, driver)
        missing = sorted(store.in_pool(tx.session, row.id).keys() - flavours.keys())
        if missing:
            raise Conflict(
                f"tasks of flavour {', '.join(missing)} have not ended; set its slots to 0 to begin no more of them",
                code="pool_in_use", param="flavours",
            )  # fmt: skip
        row.flavours, row.driver = dict(flavours), driver
        row.description = row.description if asked.description is None else asked.description
        tx.session.add(row)
        tx.session.flush()
        tx.after_commit.append(self.changed)
        return self.view(tx.session, row, actor.project)

    def delete(self, tx: Transaction, ref: str, actor: Actor) -> PoolView:
        """Nothing can be submitted to it any more.

        Raises:
            Conflict: tasks in it have not ended, or it is the one that everybody has.
        """
        row = self._mine(tx, ref, actor)
        if row.id == PUBLIC:
            raise Conflict(f"every installation has the pool {PUBLIC}; change its flavours instead", code="pool_needed")
        unfinished = sum(store.in_pool(tx.session, row.id).values())
        if unfinished:
            raise Conflict(
                f"{unfinished} tasks in pool {row.name} have not ended; wait for them or terminate them first",
                code="pool_in_use",
            )
        view = self.view(tx.session, row, actor.project)
        tx.session.delete(row)
        return view

    def view(self, session: Session, row: store.PoolRow, project: str) -> PoolView:
        """A pool as this project sees it."""
        busy = [count for count in store.usage(session) if count.pool == row.id]
        used = dict.fromkeys(row.flavours, 0)
        for count in busy:
            flavour = self.policy.flavours.get(count.flavour)
            used[count.flavour] = used.get(count.flavour, 0) + count.running * (flavour.slots if flavour else 1)
        return PoolView(
            id=row.id, name=row.name, description=row.description, public=row.project is None, flavours=row.flavours,
            used=used, waiting=sum(count.waiting for count in busy if count.project == project), driver=row.driver,
            created_by=row.created_by, created_at=row.created_at,
        )  # fmt: skip

    # --- quotas -------------------------------------------------------------------------------------------------

    def quotas(self, session: Session, projects: list[ProjectRow]) -> list[QuotaView]:
        """What each of these may, and how much of it is used."""
        usage = store.usage(session)
        costs = {name: flavour.slots for name, flavour in self.policy.flavours.items()}
        views = list[QuotaView]()
        for project in projects:
            quota = store.quota(session, project.id, self.policy.default)
            mine = [count for count in usage if count.project == project.id]
            views.append(
                QuotaView(
                    project=project.id, project_name=project.name, **quota.model_dump(),
                    used_slots=sum(count.running * costs.get(count.flavour, 1) for count in mine),
                    waiting=sum(count.held + count.waiting for count in mine),
                )
            )  # fmt: skip
        return views

    def set_quota(self, tx: Transaction, ref: str, asked: QuotaChange) -> QuotaView:
        """For operators.

        Raises:
            NotFound: there is no such project.
        """
        query = select(ProjectRow).where((col(ProjectRow.id) == ref) | (col(ProjectRow.name) == ref))
        project = tx.session.exec(query).first()
        if project is None:
            raise NotFound(f"there is no project {ref!r}", code="project_not_found", param="project")
        row = tx.session.get(store.QuotaRow, project.id) or store.QuotaRow(project=project.id)
        row.sqlmodel_update(asked.model_dump(exclude_unset=True))
        tx.session.add(row)
        tx.session.flush()
        tx.after_commit.append(self.changed)
        return self.quotas(tx.session, [project])[0]

    # --- below --------------------------------------------------------------------------------------------------

    def _check(self, offered: dict[str, int | None], driver: str | None) -> None:
        unknown = sorted(offered.keys() - self.policy.flavours.keys())
        if unknown:
            raise InvalidRequest(
                f"there is no flavour {', '.join(unknown)}; there are {', '.join(self.policy.flavours)}",
                code="flavour_not_found", param="flavours",
            )  # fmt: skip
        wrong = wrong_driver(offered, self.policy.flavours, driver)
        if wrong:
            raise InvalidRequest(wrong, code="driver_mismatch", param="driver")

    def _mine(self, tx: Transaction, ref: str, actor: Actor) -> store.PoolRow:
        """A pool that the actor may change, kept from submits until the transaction ends."""
        row = store.keep(tx.session, store.load(tx.session, actor.project, ref), exclusively=True)
        if row is None:
            raise NotFound(f"there is no pool {ref!r}", code="pool_not_found", param="pool")
        check_role(actor.role, Role.OPERATOR if row.project is None else Role.FULL)
        return row


# --- what every submit passes -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Wish:
    """Where a task wants to run, and what it is."""

    kind: TaskKind
    pool: str = PUBLIC
    flavour: str = FIRST_FLAVOUR
    method: str | None = None
    parameters: int | None = None
    """Of the model that has to fit."""


def admit(tx: Transaction, wish: Wish, project: str, *, counted: bool = True) -> tuple[str, Flavour]:
    """The pool's id and the flavour, if the task can run there and the project may let one more wait.

    ``counted`` False: a task that follows from another one is not refused for the number of those that wait.

    Raises:
        NotFound: no such pool.
        InvalidRequest: no such flavour in it, or it cannot do that.
        RateLimited: too many wait.
    """
    pool = store.keep(tx.session, store.load(tx.session, project, wish.pool), exclusively=False)
    if pool is None:
        raise NotFound(f"the pool {wish.pool!r} was just deleted", code="pool_not_found", param="pool")
    told = store.policy(tx.session)
    offered = {name: told.flavours[name] for name in pool.flavours if name in told.flavours}
    flavour = offered.get(wish.flavour)
    if flavour is None:
        raise InvalidRequest(
            f"pool {pool.name} has no flavour {wish.flavour!r}; it has {', '.join(offered) or 'none'}",
            code="flavour_not_found", param="flavour",
        )  # fmt: skip
    cannot = can_do(flavour, wish.kind, method=wish.method, parameters=wish.parameters)
    if cannot:
        able = [
            f.name for f in offered.values() if not can_do(f, wish.kind, method=wish.method, parameters=wish.parameters)
        ]
        raise InvalidRequest(
            f"flavour {flavour.name} cannot do that: {cannot}; in pool {pool.name} {', '.join(able) or 'none'} can",
            code="flavour_unfit", param="flavour",
        )  # fmt: skip
    if counted:
        _check_waiting(tx, project, told.default)
    return pool.id, flavour


def _check_waiting(tx: Transaction, project: str, default: store.Quota) -> None:
    store.one_at_a_time(tx.session, store.LOCK_PROJECT, of=project)
    limit = store.quota(tx.session, project, default).waiting_tasks
    unwritten = counts.tally(tx).of(project, Standing.HELD, Standing.WAITING)
    waiting = store.waiting_of(tx.session, project) + unwritten
    if waiting >= limit:
        raise RateLimited(
            f"{waiting:,} tasks of this project wait, its quota allows {limit:,}; wait until some have begun, or ask "
            "an operator for more",
            code="quota_reached", retry_after_s=30,
        )  # fmt: skip
