"""Registering and forgetting connections. Credentials come in once and leave only inside a claim."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from pathlib import Path

from finery_contracts.access import Actor
from finery_contracts.connections import (
    ConnectionDeleted,
    ConnectionRegistered,
    ConnectionView,
    PostgresRequest,
    S3Request,
    SqliteRequest,
)
from finery_contracts.errors import Conflict
from finery_contracts.ids import new_id
from finery_contracts.sources import Endpoint
from finery_kit.db import Transaction
from finery_kit.delivery import emit
from finery_kit.netguard import Network, check_url
from finery_studio.connections import parts as taking
from finery_studio.connections import store
from finery_studio.datasets.roots import allowed_path
from finery_studio.pools.store import LOCK_PROJECT, one_at_a_time
from finery_studio.projects.domain import check_name

MAX_CONNECTIONS = 50
Asked = S3Request | PostgresRequest | SqliteRequest


@dataclass(frozen=True)
class ConnectionDesk:
    """What registering needs: the installation's secret, and how far the operator lets connections reach."""

    secret: bytes
    allow: tuple[Network, ...]
    roots: tuple[Path, ...]

    async def taken_apart(self, asked: Asked) -> taking.Parts:
        """The connection's parts, once the guard has looked at its address; nothing is connected to.

        Raises:
            InvalidRequest, Forbidden: it is none, or leads where it may not.
        """
        check_name(asked.name)
        if isinstance(asked, SqliteRequest):
            path = await asyncio.to_thread(allowed_path, asked.path, self.roots, param="path", folders=False)
            return taking.Parts(Endpoint(kind="sqlite", database=str(path)), {}, "")
        parts = taking.of_object_store(asked) if isinstance(asked, S3Request) else taking.of_postgres(asked)
        if parts.address is not None:
            await check_url(parts.address, allow=self.allow)
        return parts

    def register(self, tx: Transaction, asked: Asked, parts: taking.Parts, *, actor: Actor) -> ConnectionView:
        """A new connection of the project.

        Raises:
            Conflict: the name is taken, or there are too many.
        """
        one_at_a_time(tx.session, LOCK_PROJECT, of=actor.project)
        living = store.of_project(tx.session, actor.project)
        if any(view.name == asked.name for view in living):
            raise Conflict(f"there is a connection named {asked.name} already", code="name_taken", param="name")
        if len(living) >= MAX_CONNECTIONS:
            raise Conflict(
                f"the project has {len(living)} connections, {MAX_CONNECTIONS} are the limit; delete one",
                code="too_many_connections",
            )
        view = ConnectionView(
            id=new_id("con"), project=actor.project, name=asked.name, endpoint=parts.endpoint, hint=parts.hint,
            version=1, created_by=actor.user, created_at=tx.now,
        )  # fmt: skip
        tx.session.add(store.row_of(view, parts.secret, self.secret))
        emit(tx, ConnectionRegistered, view.id, project=view.project, version=1, data=view)
        return view

    def delete(self, tx: Transaction, ref: str, actor: Actor) -> ConnectionView:
        """It opens nothing any more, tasks that wait for their turn included."""
        row = store.load(tx.session, actor.project, ref)
        view = store.view_of(row)
        gone = view.model_copy(update={"version": view.version + 1})
        tx.session.delete(row)
        emit(tx, ConnectionDeleted, gone.id, project=gone.project, version=gone.version, data=gone)
        return gone
