"""What becomes of a labelling: made over a dataset, handed out record by record, judged, turned into a dataset.

Files are read outside transactions; whoever calls passes in what was read.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import timedelta

from sqlmodel import Session

from finery_contracts.access import Actor, Role
from finery_contracts.datasets import DatasetState, DatasetView
from finery_contracts.errors import Conflict, Forbidden, InvalidRequest
from finery_contracts.ids import new_id
from finery_contracts.labelling import (
    MAX_RECORDS,
    Agreement,
    AssignmentRequest,
    LabellingClosed,
    LabellingCreated,
    LabellingDeleted,
    LabellingFinished,
    LabellingRequest,
    LabellingState,
    LabellingView,
    VerdictRequest,
)
from finery_kit.db import Transaction
from finery_studio.datasets import store as dataset_store
from finery_studio.datasets.withdrawal import refuse_withdrawn
from finery_studio.labelling import domain, store
from finery_studio.labelling.domain import Said
from finery_studio.labelling.store import JudgementRow, LabellingRow
from finery_studio.projects.domain import check_name, check_role

KEPT_FOR = timedelta(minutes=30)
"""A record that was handed out and not judged goes to somebody else after so long."""


def ready(session: Session, project: str, ref: str, *, param: str = "dataset") -> DatasetView:
    """A dataset that can be labelled; ``param``: where it was named.

    Raises:
        NotFound, Conflict: there is none, or it is not ready.
    """
    view = dataset_store.load(session, project, ref, param=param)
    refuse_withdrawn(view)
    if view.state is not DatasetState.READY or view.content is None:
        raise Conflict(
            f"dataset {view.name} is {view.state}; wait until it is ready", code="dataset_not_ready", param=param
        )
    return view


def sources_of(session: Session, view: LabellingView) -> list[DatasetView]:
    """The datasets whose records a labelling shows.

    Raises:
        Conflict: code ``dataset_deleted``: one of them is gone.
        InvalidRequest: code ``dataset_withdrawn``.
    """
    found = [dataset_store.view_of(session, one) for one in (view.dataset, view.against) if one]
    for source in found:
        refuse_withdrawn(source)
        if source.state is DatasetState.DELETED:
            raise Conflict(
                f"dataset {source.name} of labelling {view.name} was deleted; what was said of it can be read, but its "
                "records cannot be shown or exported",
                code="dataset_deleted", param="dataset",
            )  # fmt: skip
    return found


def create(tx: Transaction, asked: LabellingRequest, actor: Actor, *, total: int) -> LabellingView:
    """A labelling of a dataset with ``total`` records, each of which was looked at.

    Raises:
        Conflict: the name is taken.
        InvalidRequest: there is nothing to label, or too much.
    """
    check_name(asked.name)
    source = ready(tx.session, actor.project, asked.dataset)
    other = ready(tx.session, actor.project, asked.against, param="against") if asked.against else None
    records = min(total, asked.sample or total)
    if records == 0 or records > MAX_RECORDS:
        raise InvalidRequest(
            f"{source.name} has {total:,} records; a labelling takes 1 to {MAX_RECORDS:,}: say sample",
            code="too_many_records", param="sample",
        )  # fmt: skip
    view = LabellingView(
        id=new_id("lbl"), project=actor.project, name=asked.name, dataset=source.id, mode=asked.mode,
        against=other.id if other else None, state=LabellingState.OPEN, version=1, guidelines=asked.guidelines,
        labellers=asked.labellers, per_record=asked.per_record, records=records, seed=asked.seed,
        created_by=actor.user, created_at=tx.now,
    )  # fmt: skip
    row = LabellingRow(
        id=view.id, project=view.project, name="", state="", total=total, content=source.content or "",
        against=other.content if other else None, view="",
    )  # fmt: skip
    return store.save(tx, row, view, LabellingCreated)


def hand_out(tx: Transaction, ref: str, actor: Actor) -> JudgementRow | None:
    """The next record for this labeller: the one they have, one that needs another verdict, a fresh one; else None."""
    row, view = _open(tx, ref, actor)
    sources_of(tx.session, view)
    mine = store.assigned_to(tx, row.id, actor.user)
    if mine is not None:
        return mine
    kept = _keep(tx, row, view, actor.user, count=1, until=KEPT_FOR)
    return kept[0] if kept else None


def assign(tx: Transaction, ref: str, asked: AssignmentRequest, actor: Actor) -> list[int]:
    """Keep the next records for somebody; which ones. Fewer when the queue is shorter."""
    row, view = _open(tx, ref, None, project=actor.project)
    sources_of(tx.session, view)
    _check_labeller(view, asked.user)
    kept = _keep(tx, row, view, asked.user, count=asked.records, until=timedelta(hours=asked.hours))
    return [one.record for one in kept]


def judge(
    tx: Transaction, ref: str, record: int, asked: VerdictRequest, *, actor: Actor
) -> tuple[LabellingView, JudgementRow]:
    """A labeller's verdict, or their skip; it replaces what they said before.

    Raises:
        Conflict: the record was never given to them, or the labelling is closed.
        InvalidRequest: this mode takes another verdict.
    """
    row, view = _open(tx, ref, actor)
    mine, item = store.judgement(tx.session, row.id, record, actor.user), store.item(tx, row.id, record)
    flipped = domain.is_flipped(row.id, record, actor.user)
    verdict = domain.verdict_of(asked, view.mode, flipped=flipped)
    before, mine.state = mine.state, "judged" if verdict else "skipped"
    item.left += (before == "judged") - (mine.state == "judged")
    mine.verdict, mine.text, mine.comment = verdict, asked.text, asked.comment
    mine.until, mine.at = None, tx.now
    tx.session.add_all([mine, item])
    tx.session.flush()
    if not view.finished and row.turns >= view.records and not store.unfinished(tx, row.id):
        view = store.save(tx, row, _changed(view, finished=True), LabellingFinished)
    return view, mine


def agreement(rows: Sequence[store.Judgement], view: LabellingView) -> Agreement:
    """How far labellers agree."""
    skipped: dict[str, int] = {}
    for one in rows:
        if one.skipped:
            skipped[one.labeller] = skipped.get(one.labeller, 0) + 1
    return domain.agreement(said_of(rows), skipped, records=view.records, per_record=view.per_record)


def said_of(rows: Iterable[store.Judgement]) -> list[Said]:
    """The verdicts, without the skips."""
    return [Said(one.record, one.labeller, one.judge, one.verdict) for one in rows if one.verdict is not None]


def close(tx: Transaction, ref: str, actor: Actor) -> LabellingView:
    """Take no more verdicts."""
    row, view = _open(tx, ref, None, project=actor.project)
    return store.save(tx, row, _changed(view, state=LabellingState.CLOSED), LabellingClosed)


def delete(tx: Transaction, ref: str, actor: Actor) -> LabellingView:
    """The queue and the verdicts go; datasets made of them stay."""
    check_role(actor.role, Role.FULL)
    row = store.row_of(tx.session, actor.project, ref, locked=True)
    store.drop(tx, row.id)
    return store.save(tx, row, _changed(store.view_of(row), state=LabellingState.DELETED), LabellingDeleted)


def _keep(
    tx: Transaction, row: LabellingRow, view: LabellingView, labeller: str, *, count: int, until: timedelta
) -> list[JudgementRow]:
    """Others' records first, so that verdicts overlap early; then fresh ones."""
    items = list(store.open_items(tx, row.id, labeller, limit=count))
    while len(items) < count and row.turns < view.records:
        place = domain.place_of(row.turns, records=view.records, total=row.total, seed=view.seed)
        fresh = store.ItemRow(labelling=row.id, record=place, turn=row.turns, left=view.per_record)
        row.turns += 1
        tx.session.add(fresh)
        items.append(fresh)
    tx.session.add(row)
    tx.session.flush()
    kept = [store.keep_for(tx, item, labeller, until=tx.now + until) for item in items]
    tx.session.flush()
    return kept


def _open(
    tx: Transaction, ref: str, labeller: Actor | None, *, project: str = ""
) -> tuple[LabellingRow, LabellingView]:
    """Kept from other writers until the transaction ends."""
    row = store.row_of(tx.session, labeller.project if labeller else project, ref, locked=True)
    tx.session.refresh(row)
    view = store.view_of(row)
    if view.state is not LabellingState.OPEN:
        raise Conflict(f"labelling {view.name} is {view.state}; it takes no more verdicts", code="labelling_closed")
    if labeller is not None:
        _check_labeller(view, labeller.user)
    return row, view


def _check_labeller(view: LabellingView, user: str) -> None:
    if view.labellers is not None and user not in view.labellers:
        raise Forbidden(
            f"{user} is not one of the labellers of {view.name}; they are {', '.join(view.labellers)}",
            code="not_a_labeller",
        )


def _changed(view: LabellingView, **changes: object) -> LabellingView:
    return view.model_copy(update={"version": view.version + 1, **changes})
