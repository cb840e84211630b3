"""Bills, packages, budgets and estimates: authenticate here, ask the billing meter, answer what it answers."""

from __future__ import annotations

import csv
import io
from collections.abc import AsyncIterator
from functools import partial
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Query, Request
from fastapi.responses import StreamingResponse
from sqlmodel import Session

from finery_contracts.access import Actor, Role
from finery_contracts.billing import Accounts, Bill, Cost, ExportPage, Verification
from finery_contracts.budgets import BudgetPage, BudgetRequest, BudgetView
from finery_contracts.deployments import DeploymentCommand
from finery_contracts.errors import Conflict
from finery_contracts.estimates import Estimate, EstimateAsked
from finery_contracts.gallery import Gallery
from finery_contracts.model import Record
from finery_contracts.packages import Offers, PackagePage, PackageRequest, PackageView
from finery_contracts.preparing import CountOutput
from finery_studio.edge.auth import Gate
from finery_studio.edge.forward import Ask, Free, PageSize, carried_out
from finery_studio.edge.wishes import Wish
from finery_studio.models import store as models
from finery_studio.pools import store as pools
from finery_studio.tasks import store as tasks
from finery_studio.tuning.duration import duration_of

OWNER = "billing-meter"
VERIFY_TIMEOUT_S = 600.0
EXPORT_PAGE = 200


def routes(gate: Gate, ask: Ask, gallery: Gallery) -> APIRouter:
    """All of it."""
    router = APIRouter(prefix="/api/v1", tags=["billing"])
    _bills(router, gate, ask)
    _budgets(router, gate, ask)
    _packages(router, gate, ask)
    _estimates(router, gate, ask, gallery=gallery)
    return router


def _bills(router: APIRouter, gate: Gate, ask: Ask) -> None:
    reader = Depends(gate.needs(Role.READ))

    @router.get("/bill")
    async def bill(request: Request, actor: Actor = reader) -> Any:
        return await ask(OWNER, "bill.summary", Free(dict(request.query_params)), actor)

    @router.get("/bill/as-of")
    async def as_of(request: Request, actor: Actor = reader) -> Bill:
        return Bill.model_validate(await ask(OWNER, "bill.as_of", Free(dict(request.query_params)), actor))

    @router.get("/bill/lines")
    async def lines(
        actor: Actor = reader, limit: PageSize = 20, after: str | None = None, noun_id: str | None = None
    ) -> Any:
        return await ask(OWNER, "bill.lines", Free({"limit": limit, "after": after, "noun_id": noun_id}), actor)

    @router.get("/bill/accounts")
    async def accounts(actor: Actor = reader) -> Accounts:
        return Accounts.model_validate(await ask(OWNER, "bill.accounts", None, actor))

    @router.get("/bill/verify")
    async def verify(actor: Actor = reader, all_projects: Annotated[bool, Query()] = False) -> Verification:
        asked = Free({"all_projects": all_projects})
        return Verification.model_validate(await ask(OWNER, "bill.verify", asked, actor, timeout_s=VERIFY_TIMEOUT_S))

    @router.get("/bill/export", response_class=StreamingResponse)
    async def export(
        request: Request, actor: Actor = reader, form: Annotated[Literal["csv", "focus"], Query(alias="format")] = "csv"
    ) -> StreamingResponse:
        asked = {k: v for k, v in request.query_params.items() if k in ("since", "until")} | {"format": form}
        first = await _page(ask, actor, asked, None)  # a request that is refused is refused before the answer begins
        name = {"content-disposition": f'attachment; filename="finery-{form}.csv"'}
        return StreamingResponse(_table(ask, actor, asked, first), media_type="text/csv; charset=utf-8", headers=name)

    @router.get("/cost/{noun_id}")
    async def cost(noun_id: str, actor: Actor = reader) -> Cost:
        found = Cost.model_validate(await ask(OWNER, "cost", Free({"noun_id": noun_id}), actor))
        if not found.amount:  # free so far, or not there at all
            await _must_be_there(gate, ask, noun_id, actor)
        return found

    @router.get("/prices")
    async def prices(actor: Actor = reader) -> Any:
        return await ask(OWNER, "prices", None, actor)


async def _must_be_there(gate: Gate, ask: Ask, noun_id: str, actor: Actor) -> None:
    if noun_id.startswith("dep_"):
        await ask("deployer", "get", DeploymentCommand(deployment=noun_id), actor)
    elif not noun_id.startswith("pkg_"):
        await gate.database.read(lambda s: tasks.load(s, actor.project, noun_id))


async def _page(ask: Ask, actor: Actor, asked: dict[str, Any], after: str | None) -> ExportPage:
    body = Free({**asked, "after": after, "limit": EXPORT_PAGE})
    return ExportPage.model_validate(await ask(OWNER, "bill.export", body, actor))


async def _table(ask: Ask, actor: Actor, asked: dict[str, Any], page: ExportPage) -> AsyncIterator[str]:
    yield _text([page.columns])
    while True:
        yield _text(page.rows)
        if page.next is None:
            return
        page = await _page(ask, actor, asked, page.next)


def _text(rows: list[list[str]]) -> str:
    text = io.StringIO()
    csv.writer(text).writerows(rows)
    return text.getvalue()


def _budgets(router: APIRouter, gate: Gate, ask: Ask) -> None:
    reader, writer = Depends(gate.needs(Role.READ)), Depends(gate.needs(Role.FULL))
    wisher = gate.wishes(Role.FULL)

    @router.get("/budgets")
    async def list_budgets(actor: Actor = reader) -> BudgetPage:
        return BudgetPage.model_validate(await ask(OWNER, "budget.list", None, actor))

    @router.post("/budgets", status_code=201)
    async def create_budget(body: BudgetRequest, wish: Wish = wisher) -> BudgetView:
        async def send() -> dict[str, Any]:
            return _shown(BudgetView, await ask.once(OWNER, "budget.create", body, wish))

        return BudgetView.model_validate(await carried_out(gate, wish, send))

    @router.delete("/budgets/{ref}")
    async def delete_budget(ref: str, actor: Actor = writer) -> BudgetView:
        return BudgetView.model_validate(await ask(OWNER, "budget.delete", Free({"budget": ref}), actor))


def _packages(router: APIRouter, gate: Gate, ask: Ask) -> None:
    reader, wisher = Depends(gate.needs(Role.READ)), gate.wishes(Role.FULL)

    @router.get("/packages/offers")
    async def offers(actor: Actor = reader) -> Offers:
        return Offers.model_validate(await ask(OWNER, "package.offers", None, actor))

    @router.get("/packages")
    async def list_packages(actor: Actor = reader, limit: PageSize = 20, after: str | None = None) -> PackagePage:
        found = await ask(OWNER, "package.list", Free({"limit": limit, "after": after}), actor)
        return PackagePage.model_validate(found)

    @router.post("/packages", status_code=201)
    async def buy(body: PackageRequest, wish: Wish = wisher) -> PackageView:
        async def send() -> dict[str, Any]:
            return _shown(PackageView, await ask.once(OWNER, "package.buy", body, wish))

        return PackageView.model_validate(await carried_out(gate, wish, send))


def _estimates(router: APIRouter, gate: Gate, ask: Ask, *, gallery: Gallery) -> None:
    wisher = gate.wishes(Role.READ)

    @router.post("/estimates")
    async def estimate(body: EstimateAsked, wish: Wish = wisher) -> Estimate:
        if body.count is not None:
            body = await gate.database.read(partial(counted, asked=body, project=wish.actor.project))
        guess = duration_of(body, gallery)
        asked = {"flavour": body.flavour, "instances": body.instances}
        asked |= {"seconds": guess.seconds, "low_s": guess.low_s, "high_s": guess.high_s}

        async def send() -> dict[str, Any]:
            project = wish.actor.project
            asked["pool"] = await gate.database.read(lambda s: pools.load(s, project, body.pool).id)
            price = await ask(OWNER, "estimate", Free(asked), wish.actor)
            return _shown(Estimate, {"duration": guess.model_dump(mode="json"), "price": price})

        return Estimate.model_validate(await carried_out(gate, wish, send))


def counted(session: Session, *, asked: EstimateAsked, project: str) -> EstimateAsked:
    """With the tokens that a count found, and the gallery's name of its model unless another one is asked for.

    Raises:
        NotFound: there is no such task, or its model is gone and nothing else says how quick it would be.
        Conflict: ``not_counted``.
    """
    task = tasks.view_of(tasks.load(session, project, asked.count or ""))
    if not isinstance(task.output, CountOutput):
        raise Conflict(
            f"task {task.id} ({task.kind}, {task.state}) has counted no tokens; name one of kind count that succeeded",
            code="not_counted", param="count",
        )  # fmt: skip
    name = asked.model
    if name is None and asked.throughput is None:
        name = models.load(session, project, task.request["model"]).gallery
    return asked.model_copy(update={"tokens": task.output.tokens_per_epoch, "model": name})


def _shown(view: type[Record], answer: dict[str, Any]) -> dict[str, Any]:
    """As it is answered now, and again under the same key."""
    return view.model_validate(answer).model_dump(mode="json")


__all__ = ["routes"]
