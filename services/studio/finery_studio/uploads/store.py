"""Where uploads are noted: how much of each is safely on disk, and what was made of it."""

from __future__ import annotations

import json
from datetime import datetime

from sqlalchemy import BigInteger, Text, func, update
from sqlmodel import Field, Session, col, select

from finery_contracts.errors import Conflict, NotFound
from finery_contracts.uploads import UploadState, UploadView
from finery_kit.columns import UtcText
from finery_kit.db import Transaction
from finery_kit.storage import SCHEME, Blob
from finery_studio.store import StudioTable

PATH = "/api/v1/uploads"


class UploadRow(StudioTable, table=True):
    """One upload."""

    __tablename__ = "upload"  # pyright: ignore[reportAssignmentType]
    id: str = Field(primary_key=True)
    project: str = Field(index=True)
    filename: str
    size_bytes: int = Field(sa_type=BigInteger)
    received_bytes: int = Field(default=0, sa_type=BigInteger)
    said: str = Field(default="{}", sa_type=Text)
    sha256: str | None = None
    dataset: str | None = Field(default=None, index=True)
    created_by: str
    actor: str = Field(sa_type=Text)
    created_at: datetime = Field(sa_type=UtcText)
    expires_at: datetime = Field(sa_type=UtcText, index=True)


def load(session: Session, project: str, upload_id: str) -> UploadRow:
    """One of this project.

    Raises:
        NotFound: it has none of that id, or it expired.
    """
    row = session.get(UploadRow, upload_id)
    if row is None or row.project != project:
        raise NotFound(f"there is no upload {upload_id} in this project; it may have expired", code="upload_not_found")
    return row


def held_row(tx: Transaction, project: str, upload_id: str) -> UploadRow:
    """The same, kept from other writers until the transaction ends."""
    tx.session.get(UploadRow, upload_id, with_for_update=True, populate_existing=True)
    return load(tx.session, project, upload_id)


def finished(tx: Transaction, project: str, upload_id: str) -> UploadRow:
    """One whose bytes are all there, kept from other writers until the transaction ends.

    Raises:
        Conflict: more bytes have to come, or a dataset was made of it already.
    """
    row = held_row(tx, project, upload_id)
    if row.sha256 is None:
        raise Conflict(
            f"of upload {row.id} {row.received_bytes:,} of {row.size_bytes:,} bytes have come; send the rest first",
            code="upload_incomplete", param="source",
        )  # fmt: skip
    if row.dataset is not None:
        raise Conflict(
            f"upload {row.id} has become dataset {row.dataset}; read that one again instead",
            code="upload_used", param="source",
        )  # fmt: skip
    return row


def advance(tx: Transaction, upload_id: str, *, was: int, now: int, expires_at: datetime) -> bool:
    """Note that more is safely on disk; False when somebody else has moved it meanwhile."""
    tx.session.flush()
    mine = (col(UploadRow.id) == upload_id, col(UploadRow.received_bytes) == was)
    values = {"received_bytes": now, "expires_at": expires_at}
    moved = update(UploadRow).where(*mine).values(**values).returning(col(UploadRow.id))
    return tx.session.execute(moved).first() is not None


def settle(tx: Transaction, upload_id: str, sha256: str) -> None:
    """All has come, and lies in the store under its hash."""
    tx.session.execute(update(UploadRow).where(col(UploadRow.id) == upload_id).values(sha256=sha256))


def used(tx: Transaction, row: UploadRow, dataset: str) -> None:
    """A dataset was made of it: from now on the bytes are the dataset's."""
    row.dataset = dataset
    tx.session.add(row)
    tx.session.flush()


def held_bytes(session: Session, project: str) -> int:
    """What a project's uploads may grow to that nothing was made of yet."""
    mine = (col(UploadRow.project) == project, col(UploadRow.dataset).is_(None))
    return int(session.exec(select(func.coalesce(func.sum(UploadRow.size_bytes), 0)).where(*mine)).one())


def missing_bytes(session: Session) -> int:
    """What has still to come, of all projects: the disk is theirs together."""
    rest = func.coalesce(func.sum(UploadRow.size_bytes - UploadRow.received_bytes), 0)  # pyright: ignore[reportArgumentType]
    return int(session.exec(select(rest).where(col(UploadRow.sha256).is_(None))).one())


def list_uploads(session: Session, project: str, *, limit: int, after: str | None = None) -> list[UploadView]:
    """Newest first."""
    query = select(UploadRow).where(UploadRow.project == project).order_by(col(UploadRow.id).desc())
    if after:
        query = query.where(col(UploadRow.id) < after)
    return [view_of(row) for row in session.exec(query.limit(limit))]


def over(session: Session, now: datetime) -> list[UploadRow]:
    """Uploads whose time is over."""
    return list(session.exec(select(UploadRow).where(col(UploadRow.expires_at) <= now).limit(100)))


def unsettled(session: Session) -> list[UploadRow]:
    """Uploads whose bytes have all come while nobody had the time to hash them."""
    query = select(UploadRow).where(col(UploadRow.sha256).is_(None), UploadRow.received_bytes == UploadRow.size_bytes)
    return list(session.exec(query.limit(100)))


def waits_for_use(session: Session, blob: str) -> bool:
    """Whether these bytes are those of an upload that nothing was made of yet."""
    project, _, digest = blob.removeprefix(SCHEME).partition("/blobs/")
    mine = (col(UploadRow.project) == project, col(UploadRow.sha256) == digest, col(UploadRow.dataset).is_(None))
    return session.exec(select(UploadRow.id).where(*mine)).first() is not None


def blob_of(row: UploadRow) -> Blob:
    """The bytes of one that has come whole."""
    return Blob(f"{SCHEME}{row.project}/blobs/{row.sha256}", row.sha256 or "", row.size_bytes)


def metadata_of(row: UploadRow) -> dict[str, str]:
    """What was said of it when it began, its filename included."""
    return {**json.loads(row.said), "filename": row.filename}


def view_of(row: UploadRow) -> UploadView:
    """The upload as it is told."""
    return UploadView(
        id=row.id, project=row.project, filename=row.filename, size_bytes=row.size_bytes, offset=row.received_bytes,
        state=UploadState.RECEIVING if row.sha256 is None else UploadState.RECEIVED, metadata=json.loads(row.said),
        sha256=row.sha256, dataset=row.dataset, location=f"{PATH}/{row.id}", created_by=row.created_by,
        created_at=row.created_at, expires_at=row.expires_at,
    )  # fmt: skip
