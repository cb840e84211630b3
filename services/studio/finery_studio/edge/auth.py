"""Who asks: the one place where a key becomes an actor and a role is checked."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from fastapi import Request

from finery_contracts.access import Actor, Role
from finery_contracts.errors import Unauthorized
from finery_kit.db import Database
from finery_kit.keys import key_hash
from finery_studio.projects import store
from finery_studio.projects.domain import check_role


@dataclass(frozen=True)
class Gate:
    """Turns `Authorization: Bearer <key>` into an actor."""

    database: Database
    secret: bytes

    async def actor(self, request: Request) -> Actor:
        """The actor of a request.

        Raises:
            Unauthorized: no key, or one that is unknown or revoked.
        """
        scheme, _, key = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not key.strip():
            raise Unauthorized(code="missing_api_key")
        hashed = key_hash(self.secret, key.strip())
        grant = await self.database.read(lambda session: store.grant_of_hash(session, hashed))
        if grant is None:
            raise Unauthorized("the API key is wrong or was revoked; make a new one with: finery keys create")
        return Actor(
            project=grant.project, project_name=grant.project_name, user=grant.user, key=grant.key, role=grant.role
        )

    def needs(self, role: Role) -> Callable[[Request], Awaitable[Actor]]:
        """A dependency: the actor, if the role suffices."""

        async def allowed(request: Request) -> Actor:
            actor = await self.actor(request)
            check_role(actor.role, role)
            return actor

        return allowed
