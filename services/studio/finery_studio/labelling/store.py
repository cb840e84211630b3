"""Where labellings, their queue and their verdicts lie. A record that nobody has seen yet has no row."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from sqlalchemy import Index, Integer, Text, func, text
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import aliased
from sqlmodel import Field, Session, col, delete, or_, select

from finery_contracts.envelope import Event
from finery_contracts.errors import Conflict, NotFound
from finery_contracts.labelling import Judgement, LabellingState, LabellingView, Verdict
from finery_kit.columns import UtcText
from finery_kit.db import Transaction
from finery_kit.delivery import emit
from finery_kit.rows import insert_rows
from finery_studio.store import StudioTable

_LIVING = text("state <> 'deleted'")


class LabellingRow(StudioTable, table=True):
    """One labelling. ``turns``: how many records of its order were taken out so far; ``total``: of the dataset."""

    __tablename__ = "labelling"  # pyright: ignore[reportAssignmentType]
    __table_args__ = (
        Index("labelling_name_once", "project", "name", unique=True, sqlite_where=_LIVING, postgresql_where=_LIVING),
    )
    id: str = Field(primary_key=True)
    project: str = Field(index=True)
    name: str
    state: str
    turns: int = 0
    total: int
    content: str
    """Store URL of the records."""
    against: str | None = None
    """Store URL of the records with the other answers."""
    view: str = Field(sa_type=Text)


class ItemRow(StudioTable, table=True):
    """A record that somebody has seen; ``left``: how many people's verdicts it still needs."""

    __tablename__ = "labelling_item"  # pyright: ignore[reportAssignmentType]
    __table_args__ = (Index("labelling_item_open", "labelling", "left", "turn"),)
    labelling: str = Field(primary_key=True)
    record: int = Field(primary_key=True, sa_type=Integer)
    turn: int
    left: int


class JudgementRow(StudioTable, table=True):
    """A record and a labeller: kept for them until then, or judged, or skipped."""

    __tablename__ = "labelling_judgement"  # pyright: ignore[reportAssignmentType]
    __table_args__ = (Index("labelling_judgement_of", "labelling", "labeller", "state", "turn"),)
    labelling: str = Field(primary_key=True)
    record: int = Field(primary_key=True, sa_type=Integer)
    labeller: str = Field(primary_key=True)
    turn: int
    state: str
    """assigned, judged or skipped."""
    judge: bool = False
    until: datetime | None = Field(default=None, sa_type=UtcText)
    verdict: str | None = None
    text: str | None = Field(default=None, sa_type=Text)
    comment: str = Field(default="", sa_type=Text)
    at: datetime = Field(sa_type=UtcText)


JUDGEMENTS = JudgementRow.__table__  # pyright: ignore[reportAttributeAccessIssue]


def row_of(session: Session, project: str, ref: str, *, locked: bool = False) -> LabellingRow:
    """By id or name.

    Raises:
        NotFound: this project has none.
    """
    query = select(LabellingRow).where(
        LabellingRow.project == project, LabellingRow.state != LabellingState.DELETED,
        or_(LabellingRow.id == ref, LabellingRow.name == ref),
    )  # fmt: skip
    row = session.exec(query.with_for_update() if locked else query).first()
    if row is None:
        raise NotFound(f"there is no labelling {ref[:80]!r} in this project", code="labelling_not_found")
    return row


def view_of(row: LabellingRow) -> LabellingView:
    """Its whole public state."""
    return LabellingView.model_validate_json(row.view)


def save(tx: Transaction, row: LabellingRow, view: LabellingView, fact: type[Event]) -> LabellingView:
    """Store it and say so.

    Raises:
        Conflict: the name is taken.
    """
    row.name, row.state, row.view = view.name, str(view.state), view.model_dump_json()
    tx.session.add(row)
    try:
        tx.session.flush()
    except IntegrityError as fault:
        raise Conflict(f"there is a labelling named {view.name} already", code="name_taken", param="name") from fault
    emit(tx, fact, view.id, project=view.project, version=view.version, data=view)
    return view


def list_labellings(session: Session, project: str, *, after: str | None, limit: int) -> list[LabellingView]:
    """Newest first."""
    query = select(LabellingRow).where(LabellingRow.project == project, LabellingRow.state != LabellingState.DELETED)
    if after:
        query = query.where(col(LabellingRow.id) < after)
    return [view_of(row) for row in session.exec(query.order_by(col(LabellingRow.id).desc()).limit(limit))]


def open_on(session: Session, project: str, dataset: str) -> list[str]:
    """Names of open labellings that show records of this dataset."""
    query = select(LabellingRow).where(LabellingRow.project == project, LabellingRow.state == LabellingState.OPEN)
    views = [view_of(row) for row in session.exec(query.where(col(LabellingRow.view).contains(dataset)))]
    return [view.name for view in views if dataset in (view.dataset, view.against)]


# --- the queue --------------------------------------------------------------------------------------------------------


def assigned_to(tx: Transaction, labelling: str, labeller: str) -> JudgementRow | None:
    """The first record that is kept for this labeller."""
    query = select(JudgementRow).where(
        JudgementRow.labelling == labelling, JudgementRow.labeller == labeller, JudgementRow.state == "assigned",
        col(JudgementRow.until) > tx.now,
    )  # fmt: skip
    return tx.session.exec(query.order_by(col(JudgementRow.turn))).first()


def open_items(tx: Transaction, labelling: str, labeller: str, *, limit: int) -> Sequence[ItemRow]:
    """Records that others have seen, that need one more, that are not kept for others and that this one has not had."""
    mine, kept = aliased(JudgementRow), aliased(JudgementRow)
    seen = select(mine.labeller).where(
        mine.labelling == ItemRow.labelling, mine.record == ItemRow.record, mine.labeller == labeller,
        or_(mine.state != "assigned", col(mine.until) > tx.now),
    )  # fmt: skip
    waiting = select(func.count()).where(
        kept.labelling == ItemRow.labelling, kept.record == ItemRow.record, kept.state == "assigned",
        col(kept.until) > tx.now, kept.labeller != labeller,
    ).scalar_subquery()  # fmt: skip
    query = select(ItemRow).where(
        ItemRow.labelling == labelling, col(ItemRow.left) > 0, ~seen.exists(), col(ItemRow.left) > waiting
    )
    return tx.session.exec(query.order_by(col(ItemRow.turn)).limit(limit)).all()


def keep_for(tx: Transaction, item: ItemRow, labeller: str, *, until: datetime) -> JudgementRow:
    """Nobody else gets this record's place until then."""
    row = JudgementRow(
        labelling=item.labelling, record=item.record, labeller=labeller, turn=item.turn, state="assigned",
        until=until, at=tx.now,
    )  # fmt: skip
    return tx.session.merge(row)


def item(tx: Transaction, labelling: str, record: int) -> ItemRow:
    """A record that somebody has seen."""
    return tx.session.get_one(ItemRow, (labelling, record), populate_existing=True)


def judgement(session: Session, labelling: str, record: int, labeller: str) -> JudgementRow:
    """What a labeller has, or has said, of a record.

    Raises:
        Conflict: code ``not_assigned``: they never had it.
    """
    found = session.get(JudgementRow, (labelling, record, labeller), populate_existing=True)
    if found is None:
        raise Conflict(
            f"record {record} was not given to {labeller}; ask for the next one", code="not_assigned", param="record"
        )
    return found


def unfinished(tx: Transaction, labelling: str) -> int:
    """How many of the records that were seen need more verdicts."""
    query = select(func.count()).where(ItemRow.labelling == labelling, col(ItemRow.left) > 0)
    return tx.session.exec(query).one()


# --- the verdicts -----------------------------------------------------------------------------------------------------


def add_judgements(tx: Transaction, judgements: Sequence[JudgementRow]) -> None:
    """A judge's, all at once; what the same judge said before is replaced."""
    tx.session.flush()
    rows = [row.model_dump() for row in judgements]
    insert_rows(tx.session.connection(), JUDGEMENTS, rows, known="replace")


def judgements(
    session: Session, labelling: str, *, judges: bool = True, after: int = -1, records: int | None = None
) -> list[Judgement]:
    """What was said, by record and labeller; ``records``: of so many records at most."""
    query = select(JudgementRow).where(
        JudgementRow.labelling == labelling, JudgementRow.state != "assigned", col(JudgementRow.record) > after
    )
    if not judges:
        query = query.where(col(JudgementRow.judge).is_(False))
    if records is not None:
        some = select(JudgementRow.record).where(
            JudgementRow.labelling == labelling, JudgementRow.state != "assigned", col(JudgementRow.record) > after
        ).distinct().order_by(col(JudgementRow.record)).limit(records)  # fmt: skip
        query = query.where(col(JudgementRow.record).in_(list(session.exec(some))))
    found = session.exec(query.order_by(col(JudgementRow.record), col(JudgementRow.labeller)))
    return [
        Judgement(
            record=row.record, labeller=row.labeller, judge=row.judge, text=row.text, comment=row.comment,
            verdict=Verdict(row.verdict) if row.verdict else None, skipped=row.state == "skipped", at=row.at,
        )
        for row in found
    ]  # fmt: skip


def drop(tx: Transaction, labelling: str) -> None:
    """Its queue and its verdicts."""
    for table in (ItemRow, JudgementRow):
        tx.session.exec(delete(table).where(col(table.labelling) == labelling))
