"""Routes of projects and keys."""

from collections.abc import Awaitable, Callable
from functools import partial
from typing import Annotated, Any

from fastapi import APIRouter, Depends
from pydantic import Field

from finery_contracts.access import Actor, ProjectView, Role
from finery_contracts.errors import InvalidRequest
from finery_contracts.model import Record, Request
from finery_kit.bus_admission import bus_password
from finery_kit.db import Database, Transaction
from finery_kit.idempotency import Asked
from finery_studio.edge.auth import Gate
from finery_studio.edge.wishes import Wish
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
    groups: list[Annotated[str, Field(min_length=1, max_length=64)]] = Field(
        default_factory=list, max_length=20, description="what grants may name instead of the user; for the role full"
    )


class NewProject(Record):
    """A project with its first key."""

    project: ProjectView
    key: KeyView

    def without_secret(self) -> "NewProject":
        """What of it is kept."""
        return self.model_copy(update={"key": self.key.without_secret()})


def routes(gate: Gate, database: Database, desk: KeyDesk, changed: Callable[[], Awaitable[None]]) -> APIRouter:
    """``changed`` tells the gateways."""
    router = APIRouter(prefix="/api/v1", tags=["projects"])
    reader = Depends(gate.needs(Role.READ))
    owner = Depends(gate.needs(Role.FULL))
    operator = Depends(gate.needs(Role.OPERATOR))
    founder = gate.wishes(Role.OPERATOR, reveal=partial(_project_again, desk))
    key_maker = gate.wishes(Role.READ, reveal=partial(_key_again, desk))

    @router.get("/me")
    async def me(actor: Actor = reader) -> Actor:
        return actor

    @router.get("/projects")
    async def list_projects(_: Actor = operator) -> dict[str, Any]:
        rows = await database.read(store.projects)
        return {"data": [{"id": r.id, "name": r.name, "created_at": r.created_at} for r in rows], "has_more": False}

    @router.post("/projects", status_code=201)
    async def add_project(body: ProjectRequest, wish: Wish = founder) -> dict[str, Any]:
        def add(tx: Transaction) -> NewProject:
            project = desk.add_project(tx, body.name)
            key = desk.add_key(
                tx, project.id, wish.actor.user, role=Role.FULL, description="first key", asked=wish.asked
            )
            return NewProject(project=project, key=key)

        made = await gate.once(wish, NewProject, add, keep=NewProject.without_secret)
        await changed()
        return _told(desk, made, wish.asked)

    @router.get("/keys")
    async def list_keys(actor: Actor = reader) -> dict[str, Any]:
        rows = await database.read(lambda session: store.keys(session, actor.project))
        return {"data": [key_view(row).model_dump(mode="json") for row in rows], "has_more": False, "next": None}

    @router.post("/keys", status_code=201)
    async def add_key(body: KeyRequest, wish: Wish = key_maker) -> KeyView:
        actor = wish.actor
        _check_may_make(actor, body.role, body.user, groups=body.groups)

        def add(tx: Transaction) -> KeyView:
            return desk.add_key(
                tx, actor.project, body.user or actor.user, role=body.role, description=body.description,
                asked=wish.asked, groups=body.groups,
            )  # fmt: skip

        made = await gate.once(wish, KeyView, add, keep=KeyView.without_secret)
        await changed()
        return desk.revealed(made, wish.asked)

    @router.delete("/keys/{key_id}")
    async def revoke_key(key_id: str, actor: Actor = owner) -> KeyView:
        revoked = await database.write(lambda tx: desk.revoke(tx, actor, key_id))
        await changed()
        return revoked

    return router


def _told(desk: KeyDesk, made: NewProject, asked: Asked | None) -> dict[str, Any]:
    """A new project with its key and its credential for the bus, whose password is derived, not kept."""
    bus = {"user": made.project.id, "password": bus_password(desk.secret, made.project.id)}
    key = desk.revealed(made.key, asked).model_dump(mode="json")
    return {**made.project.model_dump(mode="json"), "key": key, "bus": bus}


def _project_again(desk: KeyDesk, kept: Any, wish: Wish) -> dict[str, Any]:
    return _told(desk, NewProject.model_validate(kept), wish.asked)


def _key_again(desk: KeyDesk, kept: Any, wish: Wish) -> dict[str, Any]:
    view = KeyView.model_validate(kept)
    _check_may_make(wish.actor, view.role, view.user, groups=view.groups)
    return desk.revealed(view, wish.asked).model_dump(mode="json")


def _check_may_make(actor: Actor, role: Role, user: str | None, *, groups: list[str]) -> None:
    """Nobody makes a key that may do more than their own, nor one for somebody else without being an owner."""
    check_role(actor.role, role)
    if user not in (None, actor.user) or groups:
        check_role(actor.role, Role.FULL)
    if role is Role.OPERATOR:
        raise InvalidRequest("an operator's key is made with the installation", code="role_not_offered", param="role")
