"""Who asks: the one place where a key becomes an actor and a role is checked.

For a POST it is also where an Idempotency-Key is looked at before the route begins: what was answered before is
answered again, what is being carried out is not begun a second time.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator
from dataclasses import dataclass, field
from typing import Any, TypeVar

from fastapi import Depends, Request

from finery_contracts.access import Actor, Role
from finery_contracts.errors import Unauthorized
from finery_kit.db import Database, Transaction
from finery_kit.idempotency import Asked, answered, in_progress, once, settle
from finery_kit.keys import key_hash
from finery_studio.edge.wishes import Key, Replayed, Reveal, Wish, asked_of, status_of
from finery_studio.projects import store
from finery_studio.projects.domain import check_role

T = TypeVar("T")


@dataclass(frozen=True)
class Gate:
    """Turns `Authorization: Bearer <key>` into an actor."""

    database: Database
    secret: bytes
    in_flight: set[tuple[str, str]] = field(default_factory=set[tuple[str, str]], compare=False)

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
            project=grant.project,
            project_name=grant.project_name,
            user=grant.user,
            key=grant.key,
            role=grant.role,
            groups=grant.groups,
            federated=grant.federated,
        )

    def needs(self, role: Role) -> Callable[[Request], Awaitable[Actor]]:
        """A dependency: the actor, if the role suffices."""

        async def allowed(request: Request) -> Actor:
            actor = await self.actor(request)
            check_role(actor.role, role)
            return actor

        return allowed

    def wishes(self, role: Role, *, reveal: Reveal | None = None) -> Any:
        """What every POST depends on: the wish of somebody whose role suffices. ``reveal``: see there."""

        async def wished(request: Request, idempotency_key: Key = None) -> AsyncGenerator[Wish]:
            actor = await self.actor(request)
            check_role(actor.role, role)
            if idempotency_key is None:
                yield Wish(actor)
                return
            asked = await asked_of(request, actor)
            wish = Wish(actor, asked)
            with self._alone(asked):
                told = await self.database.read(lambda session: answered(session, asked))
                if told is not None:
                    answer = json.loads(told)
                    raise Replayed(reveal(answer, wish) if reveal else answer, status_of(request))
                yield wish

        # The key is free again before the answer leaves, so that whoever has the answer may ask again at once.
        return Depends(wished, scope="function")

    async def once(
        self, wish: Wish, answer: type[T], work: Callable[[Transaction], T], *, keep: Callable[[T], T] | None = None
    ) -> T:
        """Carry a wish out in one transaction with its key; under a key that was answered, the answer of then."""
        return await self.database.write(lambda tx: once(tx, wish.asked, answer, work, keep=keep))

    async def settled(self, wish: Wish, answer: dict[str, Any]) -> dict[str, Any]:
        """The answer that leaves later than the effect was stored; from now on it is the one that is told again."""
        asked = wish.asked
        if asked is not None:
            await self.database.write(lambda tx: settle(tx, asked, json.dumps(answer)))
        return answer

    @contextlib.contextmanager
    def _alone(self, asked: Asked) -> Generator[None]:
        """In this process; between processes, the transaction that stores the key decides."""
        place = (asked.project, asked.key_hash)
        if place in self.in_flight:
            raise in_progress()
        self.in_flight.add(place)
        try:
            yield
        finally:
            self.in_flight.remove(place)
