"""Tables and queries of the deployer. Every query that serves a person names the project; only the supervisor, which
looks after all instances of this machine, does not.

It refuses to commit. A route is stored with the change it tells of and put on the bus afterwards, as a fact is.
"""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum

from sqlalchemy import MetaData, Text, UniqueConstraint, and_, delete, func, or_, update
from sqlalchemy.orm import registry
from sqlmodel import Field, Session, SQLModel, col, select

from finery_contracts.deployments import DeploymentState, DeploymentView
from finery_contracts.errors import NotFound
from finery_deployer import domain
from finery_deployer.domain import Decision, Wanted
from finery_kit.columns import UtcText
from finery_kit.db import Transaction
from finery_kit.delivery import emit
from finery_kit.telemetry import current_traceparent

DEPLOYER_METADATA = MetaData()


class _Table(SQLModel, registry=registry(metadata=DEPLOYER_METADATA)):
    metadata = DEPLOYER_METADATA


class DeploymentRow(_Table, table=True):
    """A deployment. ``body`` is the whole view; the columns beside it are what is asked for."""

    __tablename__ = "deployment"  # pyright: ignore[reportAssignmentType]
    __table_args__ = (UniqueConstraint("project", "name"),)
    id: str = Field(primary_key=True)
    project: str = Field(index=True)
    name: str
    model: str = Field(index=True)
    trial: bool
    state: str = Field(index=True)
    wanted: str
    body: str = Field(sa_type=Text)
    weights: str
    adapter: str | None = None
    openai_name: str | None = None
    asked_at: datetime = Field(sa_type=UtcText)
    traceparent: str | None = None

    @property
    def view(self) -> DeploymentView:
        """As the world sees it."""
        return DeploymentView.model_validate_json(self.body)


class InstanceState(StrEnum):
    """From spawn to end."""

    STARTING = "starting"
    RUNNING = "running"
    DRAINING = "draining"
    ENDED = "ended"


class InstanceRow(_Table, table=True):
    """A serving engine. ``measured_s``: its running time up to ``seen_at``; ``born`` tells its pid from a later one."""

    __tablename__ = "instance"  # pyright: ignore[reportAssignmentType]
    id: str = Field(primary_key=True)
    deployment_id: str = Field(index=True)
    project: str
    state: str = Field(index=True)
    token: str
    pid: int | None = None
    born: str | None = None
    url: str | None = None
    created_at: datetime = Field(sa_type=UtcText)
    started_at: datetime | None = Field(default=None, sa_type=UtcText)
    seen_at: datetime | None = Field(default=None, sa_type=UtcText)
    measured_s: float = 0.0
    drained_at: datetime | None = Field(default=None, sa_type=UtcText)
    ended_at: datetime | None = Field(default=None, sa_type=UtcText)
    crashed: bool = False


class HoldRow(_Table, table=True):
    """A budget that is used up and stops work."""

    __tablename__ = "hold"  # pyright: ignore[reportAssignmentType]
    project: str = Field(primary_key=True)
    budget: str = Field(primary_key=True)


class RouteRow(_Table, table=True):
    """What the gateways are to know of a deployment; without ``body`` they are to forget it."""

    __tablename__ = "route"  # pyright: ignore[reportAssignmentType]
    deployment_id: str = Field(primary_key=True)
    project: str
    body: str | None = Field(default=None, sa_type=Text)
    revision: int
    published: bool = Field(default=False, index=True)
    published_at: datetime | None = Field(default=None, sa_type=UtcText)


def deployment(session: Session, project: str, ref: str, *, hold: bool = False) -> DeploymentRow:
    """By id, or else by name; ``hold`` keeps other writers away until the end of the transaction.

    Raises:
        NotFound: this project has no such deployment.
    """
    query = select(DeploymentRow).where(
        DeploymentRow.project == project, or_(col(DeploymentRow.id) == ref, col(DeploymentRow.name) == ref)
    )
    rows = sorted(session.exec(query.with_for_update() if hold else query), key=lambda row: row.id != ref)
    if not rows:
        raise NotFound(
            f"there is no deployment {ref[:80]!r} in this project; list them to see what there is",
            code="deployment_not_found",
        )
    return rows[0]


def held(session: Session, deployment_id: str) -> DeploymentRow | None:
    """For the supervisor: by id, and kept from other writers until the end of the transaction."""
    return session.get(DeploymentRow, deployment_id, with_for_update=True, populate_existing=True)


def running_ids(session: Session, project: str) -> list[str]:
    """The project's deployments that run, or are to run."""
    resting = [state.value for state in domain.RESTING]
    query = select(DeploymentRow.id).where(DeploymentRow.project == project, col(DeploymentRow.state).not_in(resting))
    return sorted(session.exec(query))


def hold(tx: Transaction, project: str, budget: str) -> None:
    """Nothing of the project is started while this budget is used up."""
    if tx.session.get(HoldRow, (project, budget)) is None:
        tx.session.add(HoldRow(project=project, budget=budget))


def release(tx: Transaction, project: str, budget: str) -> None:
    """There is money again."""
    row = tx.session.get(HoldRow, (project, budget))
    if row is not None:
        tx.session.delete(row)


def is_held(session: Session, project: str) -> bool:
    """Whether a budget of the project is used up."""
    return session.exec(select(HoldRow.budget).where(HoldRow.project == project)).first() is not None


def deployments(session: Session, project: str, *, after: str | None, limit: int) -> list[DeploymentRow]:
    """A page, oldest first."""
    query = select(DeploymentRow).where(DeploymentRow.project == project, col(DeploymentRow.id) > (after or ""))
    return list(session.exec(query.order_by(col(DeploymentRow.id)).limit(limit)))


def name_taken(session: Session, project: str, name: str) -> bool:
    """Whether the project has a deployment of this name."""
    query = select(DeploymentRow.id).where(DeploymentRow.project == project, DeploymentRow.name == name)
    return session.exec(query).first() is not None


def trials_of(session: Session, project: str, model: str) -> list[DeploymentRow]:
    """The trial of a model, if there is one; kept from other writers."""
    query = select(DeploymentRow).where(
        DeploymentRow.project == project, DeploymentRow.model == model, col(DeploymentRow.trial).is_(True)
    )
    return list(session.exec(query.with_for_update()))


def live_count(session: Session) -> int:
    """Deployments of all projects that have, or are to have, an instance on this machine."""
    resting = [state.value for state in domain.RESTING]
    query = select(func.count()).select_from(DeploymentRow).where(col(DeploymentRow.state).not_in(resting))
    return session.exec(query).one()


def unsettled(session: Session) -> list[tuple[DeploymentRow, InstanceRow | None]]:
    """All deployments that do not rest where they are wanted, each with its instance."""
    resting = [state.value for state in domain.RESTING]
    resumed = and_(col(DeploymentRow.state) == DeploymentState.STOPPED, col(DeploymentRow.wanted) == Wanted.RUNNING)
    query = (
        select(DeploymentRow, InstanceRow)
        .join(
            InstanceRow,
            and_(
                col(InstanceRow.deployment_id) == col(DeploymentRow.id), col(InstanceRow.state) != InstanceState.ENDED
            ),
            isouter=True,
        )
        .where(or_(col(DeploymentRow.state).not_in(resting), resumed))
        .order_by(col(DeploymentRow.id))
    )
    return [(row, instance) for row, instance in session.exec(query)]


def live_instance(session: Session, deployment_id: str) -> InstanceRow | None:
    """The one that has not ended."""
    query = select(InstanceRow).where(
        InstanceRow.deployment_id == deployment_id, col(InstanceRow.state) != InstanceState.ENDED
    )
    return session.exec(query).first()


def instance_ids(session: Session, deployment_id: str) -> list[str]:
    """All that were ever started for a deployment and are remembered."""
    return list(session.exec(select(InstanceRow.id).where(InstanceRow.deployment_id == deployment_id)))


def crashes(session: Session, row: DeploymentRow) -> list[datetime]:
    """When its instances died since it was last asked to run."""
    query = select(InstanceRow.ended_at).where(
        InstanceRow.deployment_id == row.id,
        col(InstanceRow.crashed).is_(True),
        col(InstanceRow.created_at) >= row.asked_at,
    )
    return [moment for moment in session.exec(query) if moment is not None]


def save(tx: Transaction, row: DeploymentRow, decision: Decision) -> DeploymentView:
    """Store the new state, its facts and the route that follows from it, in this transaction."""
    view, facts = decision
    row.state, row.body = view.state.value, view.model_dump_json()
    tx.session.add(row)
    for fact in facts:
        emit(
            tx, fact.kind, view.id, project=view.project, version=fact.version, data=fact.data,
            traceparent=current_traceparent() or row.traceparent,
        )  # fmt: skip
    if facts:
        tx.session.flush()
        _save_route(tx, row, view)
    return view


def remove(tx: Transaction, row: DeploymentRow) -> DeploymentView:
    """Say that it is gone, and forget it; the gateways are told to forget it too."""
    view = save(tx, row, domain.delete(row.view))
    route = tx.session.get_one(RouteRow, row.id)
    route.body, route.published = None, False
    tx.session.execute(delete(InstanceRow).where(col(InstanceRow.deployment_id) == row.id))
    tx.session.delete(row)
    return view


def unpublished_routes(session: Session) -> list[RouteRow]:
    """What the gateways have not been told."""
    return list(session.exec(select(RouteRow).where(col(RouteRow.published).is_(False)).limit(200)))


def route_published(tx: Transaction, told: RouteRow) -> None:
    """The bus has it; unless it changed meanwhile, that is all."""
    same = (col(RouteRow.deployment_id) == told.deployment_id, col(RouteRow.revision) == told.revision)
    if told.body is None:
        tx.session.execute(delete(RouteRow).where(*same, col(RouteRow.body).is_(None)))
    else:
        unchanged = col(RouteRow.body).is_not(None)
        tx.session.execute(update(RouteRow).where(*same, unchanged).values(published=True, published_at=tx.now))


def republish_routes(tx: Transaction) -> None:
    """Tell everything again, as after a loss of the bus's storage."""
    tx.session.execute(update(RouteRow).values(published=False))


def _save_route(tx: Transaction, row: DeploymentRow, view: DeploymentView) -> None:
    instance = live_instance(tx.session, row.id)
    route = domain.route_of(
        view,
        openai_name=row.openai_name,
        url=instance.url if instance else None,
        token=instance.token if instance else None,
    )
    stored = tx.session.get(RouteRow, row.id) or RouteRow(deployment_id=row.id, project=row.project, revision=0)
    stored.body, stored.revision, stored.published = route.model_dump_json(), route.revision, False
    tx.session.add(stored)
    tx.session.flush()
