"""Routes of pools, flavours and quotas."""

from collections.abc import Callable
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Query
from sqlmodel import Session

from finery_contracts.access import Actor, Role
from finery_contracts.errors import InvalidRequest
from finery_contracts.jobs import TaskKind
from finery_contracts.pools import PoolChange, PoolRequest, PoolView, QuotaChange, QuotaView
from finery_kit.db import Database
from finery_studio.edge.auth import Gate
from finery_studio.edge.wishes import Wish
from finery_studio.models import store as model_store
from finery_studio.pools import store
from finery_studio.pools.flavours import can_do
from finery_studio.pools.handlers import PoolDesk
from finery_studio.projects import store as project_store


def routes(gate: Gate, database: Database, desk: PoolDesk, pools_changed: Callable[[], None]) -> APIRouter:
    """``pools_changed`` makes and removes doorbells."""
    router = APIRouter(prefix="/api/v1")
    _pools(router, gate, database, desk=desk, pools_changed=pools_changed)
    _flavours(router, gate, database, desk=desk)
    _quotas(router, gate, database, desk=desk)
    return router


def _pools(
    router: APIRouter, gate: Gate, database: Database, *, desk: PoolDesk, pools_changed: Callable[[], None]
) -> None:
    reader, owner = Depends(gate.needs(Role.READ)), Depends(gate.needs(Role.FULL))
    maker = gate.wishes(Role.FULL)

    @router.get("/pools", tags=["pools"])
    async def list_pools(actor: Actor = reader) -> dict[str, Any]:
        def read(session: Session) -> list[PoolView]:
            return [desk.view(session, row, actor.project) for row in store.visible_pools(session, actor.project)]

        return _page(await database.read(read))

    @router.get("/pools/{ref}", tags=["pools"])
    async def one(ref: str, actor: Actor = reader) -> PoolView:
        return await database.read(lambda s: desk.view(s, store.load(s, actor.project, ref), actor.project))

    @router.post("/pools", status_code=201, tags=["pools"])
    async def create(body: PoolRequest, wish: Wish = maker) -> PoolView:
        made = await gate.once(wish, PoolView, lambda tx: desk.create(tx, body, wish.actor))
        pools_changed()
        return made

    @router.patch("/pools/{ref}", tags=["pools"])
    async def change(ref: str, body: PoolChange, actor: Actor = owner) -> PoolView:
        return await database.write(lambda tx: desk.change(tx, ref, body, actor=actor))

    @router.delete("/pools/{ref}", tags=["pools"])
    async def delete(ref: str, actor: Actor = owner, confirm: Literal["DELETE"] | None = None) -> dict[str, Any]:
        if confirm is None:
            raise InvalidRequest(
                "deleting a pool cannot be undone: say confirm=DELETE", code="confirm_missing", param="confirm"
            )
        gone = await database.write(lambda tx: desk.delete(tx, ref, actor))
        pools_changed()
        return {"id": gone.id, "deleted": True}


def _flavours(router: APIRouter, gate: Gate, database: Database, *, desk: PoolDesk) -> None:
    reader = Depends(gate.needs(Role.READ))

    @router.get("/flavours", tags=["pools"])
    async def list_flavours(
        actor: Actor = reader,
        pool: Annotated[str | None, Query(description="only those it offers")] = None,
        kind: Annotated[TaskKind | None, Query(description="only those that can do it")] = None,
        method: Annotated[str | None, Query(description="likewise")] = None,
        model: Annotated[str | None, Query(description="only those that its weights fit")] = None,
    ) -> dict[str, Any]:
        def read(session: Session) -> tuple[set[str], int | None]:
            offered = store.load(session, actor.project, pool).flavours if pool else desk.policy.flavours
            parameters = model_store.load(session, actor.project, model).parameters if model else None
            return set(offered), parameters

        offered, parameters = await database.read(read)
        able = [
            flavour
            for flavour in desk.policy.flavours.values()
            if flavour.name in offered
            and can_do(flavour, kind or flavour.kinds[0], method=method, parameters=parameters) is None
        ]
        return _page(able)


def _quotas(router: APIRouter, gate: Gate, database: Database, *, desk: PoolDesk) -> None:
    reader, operator = Depends(gate.needs(Role.READ)), Depends(gate.needs(Role.OPERATOR))

    @router.get("/quotas", tags=["pools"])
    async def quotas(actor: Actor = reader) -> dict[str, Any]:
        def read(session: Session) -> list[QuotaView]:
            projects = project_store.projects(session)
            seen = [p for p in projects if actor.role is Role.OPERATOR or p.id == actor.project]
            return desk.quotas(session, seen)

        return _page(await database.read(read))

    @router.patch("/quotas/{project}", tags=["pools"])
    async def set_quota(project: str, body: QuotaChange, _: Actor = operator) -> QuotaView:
        return await database.write(lambda tx: desk.set_quota(tx, project, body))


def _page(items: Any) -> dict[str, Any]:
    return {"data": [item.model_dump(mode="json") for item in items], "has_more": False, "next": None}
