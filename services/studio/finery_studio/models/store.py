"""Where models lie. Versions of one name are rows of their own: ``name`` holds what a row is found by.

That is the bare name for the current version and ``name@number`` for every other one.
"""

from __future__ import annotations

from datetime import datetime, timedelta

from sqlalchemy import Index, Text, cast, func, text
from sqlalchemy.exc import IntegrityError
from sqlmodel import Field, Session, col, or_, select
from sqlmodel.sql.expression import SelectOfScalar

from finery_contracts.envelope import Event
from finery_contracts.errors import Conflict, NotFound
from finery_contracts.models import ModelState, ModelView
from finery_kit.db import Transaction
from finery_kit.delivery import emit
from finery_studio.store import StudioTable

_LIVING = text("state <> 'deleted'")


class ModelRow(StudioTable, table=True):
    """One model."""

    __tablename__ = "model"  # pyright: ignore[reportAssignmentType]
    __table_args__ = (
        Index("model_name_once", "project", "name", unique=True, sqlite_where=_LIVING, postgresql_where=_LIVING),
    )
    id: str = Field(primary_key=True)
    project: str = Field(index=True)
    name: str = Field(index=True)
    openai_name: str | None = Field(default=None, index=True)
    state: str
    expires_at: str | None = Field(default=None, index=True)
    series: str | None = Field(default=None, index=True)
    """The bare name; rows of before there were versions have none."""
    number: int = Field(default=1)
    signed: bool = Field(default=False, index=True)
    restorable_until: str | None = Field(default=None, index=True)
    was: str | None = None
    """The state before it was deleted."""
    origin: str | None = Field(default=None, sa_type=Text)
    sealed: str | None = Field(default=None, sa_type=Text)
    view: str = Field(sa_type=Text)


def find(session: Session, project: str, ref: str) -> ModelView | None:
    """By id, name, name@number or ft: name."""
    query = select(ModelRow).where(
        ModelRow.project == project,
        ModelRow.state != ModelState.DELETED,
        or_(ModelRow.id == ref, ModelRow.name == ref, ModelRow.openai_name == ref),
    )
    row = session.exec(query.order_by(col(ModelRow.id).desc())).first()
    return ModelView.model_validate_json(row.view) if row else _numbered(session, project, ref)


def _numbered(session: Session, project: str, ref: str) -> ModelView | None:
    """The current version, when somebody says its number, too."""
    name, _, number = ref.rpartition("@")
    current = find(session, project, name) if name and "@" not in name and number.isdecimal() else None
    return current if current is not None and current.name == name and str(current.number) == number else None


def load(session: Session, project: str, ref: str) -> ModelView:
    """Like ``find``.

    Raises:
        NotFound: this project has none.
    """
    found = find(session, project, ref)
    if found is None:
        raise NotFound(
            f"there is no model {ref} in this project; list the models to see their names",
            code="model_not_found",
            param="model",
        )
    return found


def mine(tx: Transaction, project: str, ref: str) -> ModelView:
    """Like ``load``; kept from other writers until the transaction ends."""
    held_view = held(tx, load(tx.session, project, ref).id)
    return held_view or load(tx.session, project, ref)


def row_of(session: Session, model_id: str) -> ModelRow:
    """The row of a model that is known to be there."""
    row = session.get(ModelRow, model_id)
    assert row is not None
    return row


def held(tx: Transaction, model_id: str) -> ModelView | None:
    """By id, unless it is deleted; kept from other writers until the transaction ends."""
    row = tx.session.get(ModelRow, model_id, with_for_update=True, populate_existing=True)
    return ModelView.model_validate_json(row.view) if row and row.state != ModelState.DELETED else None


def save(tx: Transaction, view: ModelView, fact: type[Event]) -> ModelView:
    """Store it and say so.

    Raises:
        Conflict: somebody else took the name in the same moment.
    """
    row = tx.session.get(ModelRow, view.id) or ModelRow(id=view.id, project=view.project, name="", state="", view="")
    if view.state is ModelState.DELETED and row.state != ModelState.DELETED:
        row.was = row.state
    row.name, row.openai_name, row.state = address_of(view), view.openai_name, str(view.state)
    row.series, row.number, row.signed = view.name, view.number, view.certificate is not None
    row.restorable_until = view.restorable_until.isoformat() if view.restorable_until else None
    row.expires_at = view.expires_at.isoformat() if view.expires_at else None
    row.view = view.model_dump_json()
    tx.session.add(row)
    try:
        tx.session.flush()
    except IntegrityError as fault:
        raise Conflict(f"there is a model named {view.name} already", code="name_taken", param="name") from fault
    emit(tx, fact, view.id, project=view.project, version=view.version, data=view)
    return view


def address_of(view: ModelView) -> str:
    """What this version is found by."""
    return view.name if view.current else f"{view.name}@{view.number}"


def next_number(session: Session, project: str, name: str) -> int:
    """One more than any version of this name has ever had, so that ``name@2`` never means something else."""
    last = session.exec(
        select(func.max(ModelRow.number)).where(
            ModelRow.project == project, or_(ModelRow.series == name, ModelRow.name == name)
        )
    ).first()
    return (last or 0) + 1


def versions(session: Session, project: str, name: str) -> list[ModelView]:
    """The living versions of a name, newest first."""
    query = select(ModelRow).where(
        ModelRow.project == project, ModelRow.state != ModelState.DELETED,
        or_(ModelRow.series == name, ModelRow.name == name),
    )  # fmt: skip
    rows = session.exec(query.order_by(col(ModelRow.number).desc()))
    return [ModelView.model_validate_json(row.view) for row in rows]


def deleted(session: Session, project: str, ref: str) -> ModelRow | None:
    """The newest row of this id, name or ft: name that is deleted; its files may still be there."""
    exact = col(ModelRow.series).concat("@").concat(cast(ModelRow.number, Text)) == ref
    query = select(ModelRow).where(
        ModelRow.project == project, ModelRow.state == ModelState.DELETED,
        or_(ModelRow.id == ref, ModelRow.name == ref, ModelRow.openai_name == ref, exact),
    )  # fmt: skip
    newest = col(ModelRow.restorable_until).desc().nulls_last(), col(ModelRow.id).desc()
    return session.exec(query.order_by(*newest)).first()


def unsigned(session: Session, *, limit: int = 20) -> list[ModelView]:
    """Ready models without a certificate, oldest first."""
    query = select(ModelRow).where(col(ModelRow.signed).is_(False), ModelRow.state == ModelState.READY)
    rows = session.exec(query.order_by(col(ModelRow.id)).limit(limit))
    return [ModelView.model_validate_json(row.view) for row in rows]


def everything(session: Session, project: str) -> list[ModelView]:
    """Every model of a project, deleted ones too: what descends from what does not end with a deletion."""
    query = select(ModelRow).where(ModelRow.project == project).order_by(col(ModelRow.id))
    return [ModelView.model_validate_json(row.view) for row in session.exec(query)]


def changed(view: ModelView, **changes: object) -> ModelView:
    """The next version."""
    return view.model_copy(update={"version": view.version + 1, **changes})


def list_models(
    session: Session, project: str, *, after: str | None = None, limit: int = 20, search: str | None = None
) -> list[ModelView]:
    """Newest first."""
    query = select(ModelRow).where(ModelRow.project == project, ModelRow.state != ModelState.DELETED)
    if search:
        query = query.where(col(ModelRow.name).icontains(search, autoescape=True))
    if after:
        query = query.where(col(ModelRow.id) < after)
    rows = session.exec(query.order_by(col(ModelRow.id).desc()).limit(limit))
    return [ModelView.model_validate_json(row.view) for row in rows]


def built_on(session: Session, project: str, model_id: str) -> list[str]:
    """Names of living models whose base this one is, each version by its own."""
    query = select(ModelRow).where(ModelRow.project == project, ModelRow.state != ModelState.DELETED)
    views = [ModelView.model_validate_json(row.view) for row in session.exec(query)]
    return [address_of(view) for view in views if view.base == model_id]


def over(session: Session, now: datetime) -> list[ModelView]:
    """Temporary models whose time is over."""
    return [ModelView.model_validate_json(row.view) for row in session.exec(_expiring_until(now))]


def expiring(tx: Transaction, *, within: timedelta) -> list[ModelView]:
    """Temporary models whose time is over soon or already, kept from other writers."""
    rows = tx.session.exec(_expiring_until(tx.now + within).with_for_update())
    return [ModelView.model_validate_json(row.view) for row in rows]


def _expiring_until(moment: datetime) -> SelectOfScalar[ModelRow]:
    due = col(ModelRow.expires_at).is_not(None), col(ModelRow.expires_at) <= moment.isoformat()
    return select(ModelRow).where(ModelRow.state != ModelState.DELETED, *due)
