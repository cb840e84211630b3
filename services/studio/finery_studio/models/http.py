"""Routes of models: our own surface and OpenAI's."""

from collections.abc import Awaitable, Callable
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Query
from pydantic import Field
from sqlmodel import Session

from finery_contracts.access import Actor, Role
from finery_contracts.deployments import DeploymentView
from finery_contracts.errors import Conflict, InvalidRequest
from finery_contracts.lineage import Lineage
from finery_contracts.model import Request
from finery_contracts.models import ModelState, ModelView
from finery_contracts.options import TaskOptions
from finery_contracts.tasks import NotifyChoice
from finery_contracts.weights import Repairs
from finery_kit.db import Database, Transaction
from finery_studio.edge.answers import page
from finery_studio.edge.auth import Gate
from finery_studio.edge.wishes import Wish
from finery_studio.lineage import lineage_of
from finery_studio.models import gallery_http, removal, repairs, store, versions
from finery_studio.models.handlers import ModelDesk
from finery_studio.models.publication import Publisher
from finery_studio.models.requests import NewModel, PublishRequest, RepairIds, RepairRequest, Source

ListDeployments = Callable[[Actor], Awaitable[list[DeploymentView]]]


class ModelRequest(Request):
    """Make a model."""

    name: str
    source: Source
    description: str = Field(default="", max_length=100)
    validate_weights: bool = Field(default=True, alias="validate", description="off: a bad model fails later")
    notify: NotifyChoice | None = None
    apply_repairs: RepairIds = Field(default_factory=list[str])
    task: TaskOptions = Field(default=TaskOptions(), description="options of its import: auto_stop_s, priority, …")


class ModelRoutes:
    """What both surfaces need."""

    def __init__(
        self, gate: Gate, database: Database, desk: ModelDesk, deployments: ListDeployments,
        changed: Callable[[], None], publisher: Publisher,
    ) -> None:  # fmt: skip
        self.gate, self.database, self.desk, self.publisher = gate, database, desk, publisher
        self.deployments, self.changed = deployments, changed

    async def drop(self, actor: Actor, ref: str, *, restorable: bool) -> ModelView:
        """Delete one version unless something refers to it; named deployments count, trials do not.

        Raises:
            Conflict: ``several_versions``: a bare name that several versions have; ``in_use``, with the names.
        """
        view = await self.database.read(lambda session: store.load(session, actor.project, ref))
        there = await self.database.read(lambda session: store.versions(session, actor.project, view.name))
        if ref == view.name and len(there) > 1:
            named = [f"{found.name}@{found.number}" for found in there]
            raise Conflict(
                f"{view.name} has {len(named)} versions; delete each by its own name: {', '.join(named)}",
                code="several_versions", details=[{"version": name} for name in named],
            )  # fmt: skip
        living = [d for d in await self.deployments(actor) if d.model == view.id and not d.trial]
        served = [f"deployment {d.name}" for d in living]
        gone = await self.database.write(
            lambda tx: self.desk.delete(tx, actor.project, view.id, served, restorable=restorable)
        )
        self.changed()
        return gone


def routes(desk: ModelRoutes) -> APIRouter:
    """``/api/v1/models`` and the gallery."""
    router = APIRouter(prefix="/api/v1", tags=["models"])
    reader = Depends(desk.gate.needs(Role.READ))
    writer = Depends(desk.gate.needs(Role.COMMON))
    wisher = desk.gate.wishes(Role.COMMON)

    router.include_router(gallery_http.routes(desk.gate, desk.desk.gallery))

    @router.post("/models", status_code=201)
    async def create(body: ModelRequest, wish: Wish = wisher) -> ModelView:
        options = body.task.model_copy(update={"notify": body.notify} if body.notify else {})
        new = NewModel(
            name=body.name, **body.source.model_dump(), description=body.description,
            validate=body.validate_weights, apply_repairs=tuple(body.apply_repairs), options=options,
        )  # fmt: skip
        view = await desk.gate.once(wish, ModelView, lambda tx: desk.desk.create(tx, new, wish.actor))
        desk.changed()
        return view

    @router.get("/models")
    async def list_all(
        actor: Actor = reader,
        limit: Annotated[int, Query(ge=1, le=100)] = 20,
        after: str | None = None,
        search: str | None = None,
    ) -> dict[str, Any]:
        found = await desk.database.read(
            lambda session: store.list_models(session, actor.project, after=after, limit=limit + 1, search=search)
        )
        return page(found, limit)

    @router.get("/models/{ref}")
    async def one(ref: str, actor: Actor = reader) -> ModelView:
        return await desk.database.read(lambda session: store.load(session, actor.project, ref))

    @router.get("/models/{ref}/findings")
    async def findings(ref: str, actor: Actor = reader) -> dict[str, Any]:
        view = await desk.database.read(lambda session: store.load(session, actor.project, ref))
        return {"model": view.id, "state": view.state, "data": [f.model_dump() for f in view.findings]}

    @router.get("/models/{ref}/repairs")
    async def proposed(ref: str, actor: Actor = reader) -> Repairs:
        return await desk.database.read(lambda session: repairs.shown(desk.desk, session, actor.project, ref))

    @router.post("/models/{ref}/repairs", status_code=201)
    async def repair(ref: str, body: RepairRequest, wish: Wish = wisher) -> ModelView:
        view = await desk.gate.once(
            wish, ModelView, lambda tx: repairs.repair(desk.desk, tx, ref, body.apply, wish.actor, body.task)[0]
        )
        desk.changed()
        return view

    @router.post("/models/{ref}/publish")
    async def publish(ref: str, body: PublishRequest, wish: Wish = wisher) -> ModelView:
        view = await desk.publisher.publish(desk.gate, wish, ref, body)
        desk.changed()
        return view

    @router.delete("/models/{ref}")
    async def delete(ref: str, actor: Actor = writer, confirm: Literal["DELETE"] | None = None) -> ModelView:
        if confirm is None:
            raise InvalidRequest(
                "deleting a model cannot be undone: say confirm=DELETE", code="confirm_missing", param="confirm"
            )
        return await desk.drop(actor, ref, restorable=False)

    version_routes(router, desk)
    return router


def version_routes(router: APIRouter, desk: ModelRoutes) -> None:
    """Versions of a name, what came of what, and the way back from a deletion."""
    reader = Depends(desk.gate.needs(Role.READ))
    wisher = desk.gate.wishes(Role.COMMON)

    async def once(wish: Wish, work: Callable[[Transaction, str], ModelView]) -> ModelView:
        view = await desk.gate.once(wish, ModelView, lambda tx: work(tx, wish.actor.project))
        desk.changed()
        return view

    @router.get("/models/{ref}/versions")
    async def list_versions(ref: str, actor: Actor = reader) -> dict[str, Any]:
        def read(session: Session) -> list[ModelView]:
            return store.versions(session, actor.project, store.load(session, actor.project, ref).name)

        found = await desk.database.read(read)
        return page(found, len(found))

    @router.post("/models/{ref}/current")
    async def make_current(ref: str, wish: Wish = wisher) -> ModelView:
        return await once(wish, lambda tx, project: versions.make_current(tx, project, ref))

    @router.post("/models/{ref}/restore")
    async def restore(ref: str, wish: Wish = wisher) -> ModelView:
        return await once(wish, lambda tx, project: removal.restore(tx, project, ref))

    @router.get("/models/{ref}/lineage")
    async def lineage(ref: str, actor: Actor = reader) -> Lineage:
        def read(session: Session) -> Lineage:
            return lineage_of(session, actor.project, store.load(session, actor.project, ref).id)

        return await desk.database.read(read)


def openai_routes(desk: ModelRoutes) -> APIRouter:
    """``/v1/models``: everything that ``model`` may name in a call or a job."""
    router = APIRouter(prefix="/v1/models", tags=["OpenAI"])
    reader = Depends(desk.gate.needs(Role.READ))
    writer = Depends(desk.gate.needs(Role.COMMON))

    async def named(actor: Actor) -> dict[str, dict[str, Any]]:
        found: dict[str, dict[str, Any]] = {
            key: _object(key, 0, "gallery") for key, entry in desk.desk.gallery.items() if entry.source
        }
        views = await desk.database.read(lambda s: store.list_models(s, actor.project, limit=10_000))
        for view in reversed(views):
            if view.state is ModelState.READY:
                name = view.openai_name or store.address_of(view)
                found[name] = _object(name, int(view.created_at.timestamp()), actor.project_name)
        for deployment in await desk.deployments(actor):
            if not deployment.trial:
                created = int(deployment.created_at.timestamp())
                found[deployment.name] = _object(deployment.name, created, actor.project_name)
        return found

    @router.get("")
    async def list_all(actor: Actor = reader) -> dict[str, Any]:
        return {"object": "list", "data": list((await named(actor)).values())}

    @router.get("/{name:path}")
    async def retrieve(name: str, actor: Actor = reader) -> dict[str, Any]:
        found = (await named(actor)).get(name)
        if found is not None:
            return found
        view = await desk.database.read(lambda session: store.load(session, actor.project, name))
        return _object(view.openai_name or view.name, int(view.created_at.timestamp()), actor.project_name)

    @router.delete("/{name:path}")
    async def delete(name: str, actor: Actor = writer) -> dict[str, Any]:
        await desk.drop(actor, name, restorable=True)
        return {"id": name, "object": "model", "deleted": True}

    return router


def _object(name: str, created: int, owner: str) -> dict[str, Any]:
    return {"id": name, "object": "model", "created": created, "owned_by": owner}
