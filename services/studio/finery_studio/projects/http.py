"""Routes of projects and keys."""

from collections.abc import Awaitable, Callable
from typing import Any

from fastapi import APIRouter, Depends
from pydantic import Field

from finery_contracts.access import Actor, ProjectView, Role
from finery_contracts.errors import InvalidRequest
from finery_contracts.model import Request
from finery_kit.db import Database, Transaction
from finery_kit.nats_server import bus_password
from finery_studio.edge.auth import Gate
from finery_studio.projects import store
from finery_studio.projects.desk import KeyDesk, KeyView, key_view
from finery_studio.projects.domain import check_role


class ProjectRequest(Request):
    """Make a project."""

    name: str


class KeyRequest(Request):
    """Make a key."""

    description: str = Field(default="", max_length=256)
    role: Role = Role.FULL
    user: str | None = Field(default=None, max_length=64, description="default: yourself")


def routes(gate: Gate, database: Database, desk: KeyDesk, changed: Callable[[], Awaitable[None]]) -> APIRouter:
    """``changed`` tells the gateways."""
    router = APIRouter(prefix="/api/v1", tags=["projects"])
    reader = Depends(gate.needs(Role.READ))
    owner = Depends(gate.needs(Role.FULL))
    operator = Depends(gate.needs(Role.OPERATOR))

    @router.get("/me")
    async def me(actor: Actor = reader) -> Actor:
        return actor

    @router.get("/projects")
    async def list_projects(_: Actor = operator) -> dict[str, Any]:
        rows = await database.read(store.projects)
        return {"data": [{"id": r.id, "name": r.name, "created_at": r.created_at} for r in rows], "has_more": False}

    @router.post("/projects", status_code=201)
    async def add_project(body: ProjectRequest, actor: Actor = operator) -> dict[str, Any]:
        def add(tx: Transaction) -> tuple[ProjectView, KeyView]:
            project = desk.add_project(tx, body.name)
            return project, desk.add_key(tx, project.id, actor.user, role=Role.FULL, description="first key")

        project, key = await database.write(add)
        await changed()
        bus = {"user": project.id, "password": bus_password(desk.secret, project.id)}
        return {**project.model_dump(mode="json"), "key": key.model_dump(mode="json"), "bus": bus}

    @router.get("/keys")
    async def list_keys(actor: Actor = reader) -> dict[str, Any]:
        rows = await database.read(lambda session: store.keys(session, actor.project))
        return {"data": [key_view(row).model_dump(mode="json") for row in rows], "has_more": False, "next": None}

    @router.post("/keys", status_code=201)
    async def add_key(body: KeyRequest, actor: Actor = reader) -> KeyView:
        check_role(actor.role, body.role)
        if body.user not in (None, actor.user):
            check_role(actor.role, Role.FULL)
        if body.role is Role.OPERATOR:
            raise InvalidRequest(
                "an operator's key is made with the installation", code="role_not_offered", param="role"
            )

        def add(tx: Transaction) -> KeyView:
            return desk.add_key(
                tx, actor.project, body.user or actor.user, role=body.role, description=body.description
            )

        made = await database.write(add)
        await changed()
        return made

    @router.delete("/keys/{key_id}")
    async def revoke_key(key_id: str, actor: Actor = owner) -> KeyView:
        revoked = await database.write(lambda tx: desk.revoke(tx, actor, key_id))
        await changed()
        return revoked

    return router
