"""Pages of what a count found of each record; it refuses tasks that count nothing."""

import asyncio
from typing import Annotated

from fastapi import APIRouter, Depends, Query

from finery_contracts.access import Actor, Role
from finery_contracts.errors import Conflict
from finery_contracts.jobs import TaskKind
from finery_contracts.preparing import TokenPage
from finery_kit.db import Database
from finery_kit.storage import Storage
from finery_studio.datasets.preview import token_page_of
from finery_studio.edge.auth import Gate
from finery_studio.tasks import store


def routes(gate: Gate, database: Database, storage: Storage) -> APIRouter:
    """``GET /api/v1/tasks/{id}/tokens``."""
    router = APIRouter(prefix="/api/v1/tasks", tags=["tasks"])
    reader = Depends(gate.needs(Role.READ))

    @router.get("/{task_id}/tokens")
    async def tokens(
        task_id: str,
        actor: Actor = reader,
        offset: Annotated[int, Query(ge=0, le=2**53)] = 0,
        limit: Annotated[int, Query(ge=1, le=1000)] = 100,
    ) -> TokenPage:
        task = store.view_of(await database.read(lambda session: store.load(session, actor.project, task_id)))
        if task.kind != TaskKind.COUNT or task.output is None:
            raise Conflict(
                f"task {task_id} ({task.kind}, {task.state}) has counted nothing; submit one of kind count and wait "
                "until it has succeeded",
                code="not_counted",
            )  # fmt: skip
        path = storage.path(f"{task.artefact}/out/tokens.parquet")
        return await asyncio.to_thread(token_page_of, path, task.id, offset=offset, limit=limit)

    return router
