"""Where datasets lie."""

from __future__ import annotations

import json
from typing import Any

from sqlalchemy import Text
from sqlmodel import Field, Session, col, or_, select

from finery_contracts.datasets import DatasetState, DatasetView
from finery_contracts.envelope import Event
from finery_contracts.errors import NotFound
from finery_kit.db import Transaction
from finery_kit.delivery import emit
from finery_kit.storage import Storage
from finery_studio.store import StudioTable


class DatasetRow(StudioTable, table=True):
    """One dataset; the whole view as JSON, and columns for what lists ask."""

    __tablename__ = "dataset"  # pyright: ignore[reportAssignmentType]
    id: str = Field(primary_key=True)
    project: str = Field(index=True)
    name: str = Field(index=True)
    purpose: str
    state: str = Field(index=True)
    blob: str
    restorable_until: str | None = Field(default=None, index=True)
    was: str | None = None
    """The state before it was deleted."""
    origin: str | None = Field(default=None, sa_type=Text)
    sealed: str | None = Field(default=None, sa_type=Text)
    view: str = Field(sa_type=Text)


def load(session: Session, project: str, ref: str, *, param: str | None = None) -> DatasetView:
    """By id, or by name (the newest of that name); ``param``: where it was named.

    Raises:
        NotFound: this project has none.
    """
    row = session.get(DatasetRow, ref)
    if row is None:
        query = select(DatasetRow).where(DatasetRow.project == project, DatasetRow.name == ref)
        query = query.where(DatasetRow.state != DatasetState.DELETED).order_by(col(DatasetRow.id).desc())
        row = session.exec(query).first()
    if row is None or row.project != project or row.state == DatasetState.DELETED:
        raise NotFound(
            f"there is no dataset or file {ref[:255]} in this project; list the datasets to see their names",
            code="file_not_found", param=param,
        )  # fmt: skip
    return DatasetView.model_validate_json(row.view)


def mine(tx: Transaction, project: str, ref: str) -> DatasetView:
    """Like ``load``; kept from other writers until the transaction ends."""
    found = load(tx.session, project, ref)
    tx.session.get(DatasetRow, found.id, with_for_update=True, populate_existing=True)
    return load(tx.session, project, found.id)


def blob_of(session: Session, dataset_id: str) -> str:
    """Store URL of the bytes as they were uploaded."""
    row = session.get(DatasetRow, dataset_id)
    assert row is not None
    return row.blob


def row_of(session: Session, dataset_id: str) -> DatasetRow:
    """The row of a dataset that is known to be there."""
    row = session.get(DatasetRow, dataset_id)
    assert row is not None
    return row


def view_of(session: Session, dataset_id: str) -> DatasetView:
    """A dataset that is known to have been there; it may be deleted."""
    return DatasetView.model_validate_json(row_of(session, dataset_id).view)


def json_of(text: str) -> Any:
    """What a column of JSON holds."""
    return json.loads(text)


def save(tx: Transaction, view: DatasetView, fact: type[Event], *, blob: str | None = None) -> DatasetView:
    """Store it and say so."""
    row = tx.session.get(DatasetRow, view.id) or DatasetRow(
        id=view.id, project=view.project, name=view.name, purpose=view.purpose, state="", blob=blob or "", view=""
    )
    if view.state is DatasetState.DELETED and row.state != DatasetState.DELETED:
        row.was = row.state
    row.state, row.view = str(view.state), view.model_dump_json()
    row.restorable_until = view.restorable_until.isoformat() if view.restorable_until else None
    tx.session.add(row)
    tx.session.flush()
    emit(tx, fact, view.id, project=view.project, version=view.version, data=view)
    return view


def changed(view: DatasetView, **changes: object) -> DatasetView:
    """The next version."""
    return view.model_copy(update={"version": view.version + 1, **changes})


def list_datasets(
    session: Session, project: str, *, purpose: str | None = None, after: str | None = None, limit: int = 20,
    ascending: bool = False,
) -> list[DatasetView]:  # fmt: skip
    """Newest first, unless asked otherwise."""
    query = select(DatasetRow).where(DatasetRow.project == project, DatasetRow.state != DatasetState.DELETED)
    if purpose:
        query = query.where(DatasetRow.purpose == purpose)
    if after:
        query = query.where(col(DatasetRow.id) > after if ascending else col(DatasetRow.id) < after)
    order = col(DatasetRow.id).asc() if ascending else col(DatasetRow.id).desc()
    return [DatasetView.model_validate_json(row.view) for row in session.exec(query.order_by(order).limit(limit))]


def content_with(tx: Transaction, project: str, sha256: str) -> list[str]:
    """Store URLs of canonical files with this content, of ready datasets, which nobody deletes meanwhile."""
    query = select(DatasetRow).where(DatasetRow.project == project, DatasetRow.state == DatasetState.READY)
    query = query.where(col(DatasetRow.view).contains(f'"content_sha256":"{sha256}"')).with_for_update()
    views = [DatasetView.model_validate_json(row.view) for row in tx.session.exec(query)]
    return [view.content for view in views if view.content is not None and view.content_sha256 == sha256]


def kept_once(tx: Transaction, storage: Storage, project: str, sha256: str, *, own: str) -> str:
    """Where this content lies from now on: where it lay already, or at ``own``, of which else nothing is kept."""
    content = next(filter(storage.find, content_with(tx, project, sha256)), own)
    if content != own:
        tx.after_commit.append(lambda: storage.delete(own))
    return content


def deleted(session: Session, project: str, ref: str) -> DatasetRow | None:
    """The newest row of this id or name that is deleted; its bytes may still be there."""
    query = select(DatasetRow).where(
        DatasetRow.project == project, DatasetRow.state == DatasetState.DELETED,
        or_(DatasetRow.id == ref, DatasetRow.name == ref),
    )  # fmt: skip
    newest = col(DatasetRow.restorable_until).desc().nulls_last(), col(DatasetRow.id).desc()
    return session.exec(query.order_by(*newest)).first()


def everything(session: Session, project: str) -> list[DatasetView]:
    """Every dataset of a project, deleted ones too: what descends from what does not end with a deletion."""
    query = select(DatasetRow).where(DatasetRow.project == project).order_by(col(DatasetRow.id))
    return [DatasetView.model_validate_json(row.view) for row in session.exec(query)]
