"""``/api/v1/labellings``: make one, ask for the next record, judge it, see agreement, make a dataset."""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Query
from sqlmodel import Session

from finery_contracts.access import Actor, Role
from finery_contracts.datasets import DatasetLineage, DatasetView
from finery_contracts.errors import Conflict, InvalidRequest
from finery_contracts.jobs import TaskKind
from finery_contracts.labelling import (
    Agreement,
    AssignmentRequest,
    Candidate,
    ItemView,
    LabelExport,
    LabellingRequest,
    LabellingView,
    NextItem,
    VerdictRequest,
)
from finery_contracts.preparing import SourceUsed
from finery_kit.db import Database, Transaction
from finery_kit.storage import Storage
from finery_studio.datasets import handlers as dataset_handlers
from finery_studio.datasets import inputs
from finery_studio.edge.answers import page
from finery_studio.edge.auth import Gate
from finery_studio.edge.wishes import Wish
from finery_studio.labelling import domain, export, handlers, records, store
from finery_studio.tasks.submit import SpecMaker

LETTERS: tuple[Literal["a"], Literal["b"]] = ("a", "b")


@dataclass(frozen=True)
class LabellingRoutes:
    """What the routes need."""

    gate: Gate
    database: Database
    storage: Storage
    specs: Mapping[TaskKind, SpecMaker]
    max_bytes: int
    changed: Callable[[], None]

    async def create(self, asked: LabellingRequest, wish: Wish) -> LabellingView:
        """Look at every record first; nothing is made of a dataset that cannot be labelled so."""
        if asked.against is not None and asked.mode != "pair":
            raise InvalidRequest("a second dataset is for mode pair", code="invalid_value", param="against")

        def find(session: Session) -> tuple[str | None, str | None]:
            mine = handlers.ready(session, wish.actor.project, asked.dataset)
            other = (
                handlers.ready(session, wish.actor.project, asked.against, param="against") if asked.against else None
            )
            return mine.content, other.content if other else None

        content = self._content(*await self.database.read(find))
        total = await asyncio.to_thread(records.check, content, asked.mode)
        made = await self.gate.once(wish, LabellingView, lambda tx: handlers.create(tx, asked, wish.actor, total=total))
        self.changed()
        return made

    async def item(self, actor: Actor, ref: str, record: int) -> ItemView:
        """A record that this labeller has, with its prompt and its answers under this labeller's letters."""

        def find(session: Session) -> tuple[store.LabellingRow, store.JudgementRow]:
            row = store.row_of(session, actor.project, ref)
            return row, store.judgement(session, row.id, record, actor.user)

        row, kept = await self.database.read(find)
        view = store.view_of(row)
        content = self._content(row.content, row.against)
        shown = await asyncio.to_thread(records.read_one, content, kept.record, view.mode)
        flipped = domain.is_flipped(row.id, kept.record, kept.labeller)
        answers = list(reversed(shown.answers)) if flipped else list(shown.answers)
        return ItemView(
            labelling=row.id, record=kept.record, until=kept.until, prompt=shown.prompt, text=kept.text,
            answers=[Candidate(key=key, messages=messages) for key, messages in zip(LETTERS, answers, strict=False)],
            verdict=domain.shown(domain.Verdict(kept.verdict), flipped=flipped) if kept.verdict else None,
            comment=kept.comment, skipped=kept.state == "skipped",
        )  # fmt: skip

    async def export(self, ref: str, asked: LabelExport, wish: Wish) -> DatasetView:
        """Write what was said as a file, keep it, and have it ingested like any other."""
        actor = wish.actor

        def find(session: Session) -> tuple[store.LabellingRow, list[store.Judgement], list[SourceUsed]]:
            row = store.row_of(session, actor.project, ref)
            view = store.view_of(row)
            used = [inputs.used(source) for source in handlers.sources_of(session, view)]
            return row, store.judgements(session, row.id), used

        row, said, used = await self.database.read(find)
        view = store.view_of(row)
        made = partial(export.lines, self._content(row.content, row.against), view.mode, said, asked)
        blob = await self.storage.put_stream(actor.project, _chunks(made), max_bytes=self.max_bytes)
        if blob.size_bytes == 0:
            raise Conflict(
                f"nothing of {view.name} is decided yet under these conditions; ask for fewer verdicts or a smaller "
                "majority, or label more records",
                code="nothing_decided",
            )
        upload = dataset_handlers.Upload(
            blob=blob, filename=f"{asked.name}.jsonl", name=asked.name, purpose="fine-tune",
            format=export.FORMATS[view.mode], lineage=DatasetLineage(labelling=row.id, sources=used),
        )  # fmt: skip

        def register(tx: Transaction) -> DatasetView:
            return dataset_handlers.register(tx, upload, actor, self.specs)

        dataset = await self.gate.once(wish, DatasetView, register)
        self.changed()
        return dataset

    def _content(self, mine: str | None, other: str | None) -> records.Content:
        return records.Content(self.storage.path(mine or ""), self.storage.path(other) if other else None)


async def _chunks(made: Callable[[], Any]) -> AsyncIterator[bytes]:
    """The lines are made in a thread, some at a time."""
    found = made()
    while some := await asyncio.to_thread(lambda: b"".join(line for line, _ in zip(found, range(1000), strict=False))):
        yield some


def routes(desk: LabellingRoutes) -> APIRouter:
    """``/api/v1/labellings``."""
    router = APIRouter(prefix="/api/v1/labellings", tags=["labellings"])
    _labellings(router, desk)
    _labelling(router, desk)
    _results(router, desk)
    return router


def _labellings(router: APIRouter, desk: LabellingRoutes) -> None:
    reader, owner = Depends(desk.gate.needs(Role.READ)), Depends(desk.gate.needs(Role.FULL))
    writer = desk.gate.wishes(Role.COMMON)

    @router.post("", status_code=201)
    async def create(body: LabellingRequest, wish: Wish = writer) -> LabellingView:
        return await desk.create(body, wish)

    @router.get("")
    async def list_all(
        actor: Actor = reader, limit: Annotated[int, Query(ge=1, le=100)] = 20, after: str | None = None
    ) -> dict[str, Any]:
        found = await desk.database.read(
            lambda session: store.list_labellings(session, actor.project, after=after, limit=limit + 1)
        )
        return page(found, limit)

    @router.get("/{ref}")
    async def one(ref: str, actor: Actor = reader) -> LabellingView:
        return await desk.database.read(lambda session: store.view_of(store.row_of(session, actor.project, ref)))

    @router.post("/{ref}/close")
    async def close(ref: str, wish: Wish = writer) -> LabellingView:
        view = await desk.gate.once(wish, LabellingView, lambda tx: handlers.close(tx, ref, wish.actor))
        desk.changed()
        return view

    @router.delete("/{ref}")
    async def delete(ref: str, actor: Actor = owner, confirm: Literal["DELETE"] | None = None) -> LabellingView:
        if confirm is None:
            raise InvalidRequest(
                "deleting a labelling drops its verdicts for good: say confirm=DELETE", code="confirm_missing",
                param="confirm",
            )  # fmt: skip
        view = await desk.database.write(lambda tx: handlers.delete(tx, ref, actor))
        desk.changed()
        return view


def _labelling(router: APIRouter, desk: LabellingRoutes) -> None:
    labeller = desk.gate.wishes(Role.COMMON)

    @router.post("/{ref}/next")
    async def next_record(ref: str, wish: Wish = labeller) -> NextItem:
        def work(tx: Transaction) -> dict[str, int | None]:
            kept = handlers.hand_out(tx, ref, wish.actor)
            return {"record": kept.record if kept else None}

        record = (await desk.gate.once(wish, dict[str, int | None], work))["record"]
        answer = NextItem(item=None if record is None else await desk.item(wish.actor, ref, record))
        return NextItem.model_validate(await desk.gate.settled(wish, answer.model_dump(mode="json")))

    @router.post("/{ref}/assignments", status_code=201)
    async def assign(ref: str, body: AssignmentRequest, wish: Wish = labeller) -> dict[str, Any]:
        def work(tx: Transaction) -> dict[str, Any]:
            kept = handlers.assign(tx, ref, body, wish.actor)
            return {"user": body.user, "records": kept}

        return await desk.gate.once(wish, dict[str, Any], work)

    @router.post("/{ref}/records/{record}/verdict")
    async def verdict(ref: str, record: int, body: VerdictRequest, wish: Wish = labeller) -> ItemView:
        def work(tx: Transaction) -> dict[str, int]:
            handlers.judge(tx, ref, record, body, actor=wish.actor)
            return {"record": record}

        await desk.gate.once(wish, dict[str, int], work)
        desk.changed()
        shown = await desk.item(wish.actor, ref, record)
        return ItemView.model_validate(await desk.gate.settled(wish, shown.model_dump(mode="json")))


def _results(router: APIRouter, desk: LabellingRoutes) -> None:
    reader, writer = Depends(desk.gate.needs(Role.READ)), desk.gate.wishes(Role.COMMON)

    @router.get("/{ref}/agreement")
    async def agreement(ref: str, actor: Actor = reader) -> Agreement:
        def read(session: Session) -> Agreement:
            row = store.row_of(session, actor.project, ref)
            return handlers.agreement(store.judgements(session, row.id), store.view_of(row))

        return await desk.database.read(read)

    @router.get("/{ref}/judgements")
    async def judgements(
        ref: str,
        actor: Actor = reader,
        after: Annotated[int, Query(ge=-1, description="the last record seen")] = -1,
        limit: Annotated[int, Query(ge=1, le=1000, description="records")] = 100,
    ) -> dict[str, Any]:
        def read(session: Session) -> list[store.Judgement]:
            row = store.row_of(session, actor.project, ref)
            return store.judgements(session, row.id, after=after, records=limit + 1)

        found = await desk.database.read(read)
        shown = sorted({one.record for one in found})[:limit]
        data = [one.model_dump(mode="json") for one in found if one.record in set(shown)]
        more = len(data) < len(found)
        return {"data": data, "has_more": more, "next": shown[-1] if more else None}

    @router.post("/{ref}/export", status_code=201)
    async def export_dataset(ref: str, body: LabelExport, wish: Wish = writer) -> DatasetView:
        return await desk.export(ref, body, wish)
