"""``/api/v1/deployments/{ref}/events``: what a deployment's page shows of its past, as far back as the policy lets it.

The facts come from the log, where they stay for ever, because bills are verified from them; only the view ends.
"""

from datetime import timedelta
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query
from sqlmodel import Session, col, select

from finery_contracts.access import Actor, Role
from finery_contracts.deployments import DeploymentCommand, DeploymentView
from finery_contracts.log import LogPage
from finery_contracts.retention import Retention
from finery_kit.db import Database
from finery_kit.delivery import OutboxRow
from finery_studio.edge.auth import Gate
from finery_studio.edge.forward import Ask
from finery_studio.events import log
from finery_studio.events.http import cursor_of


def routes(gate: Gate, database: Database, ask: Ask, policy: Retention) -> APIRouter:
    """One route."""
    router = APIRouter(prefix="/api/v1", tags=["deployments"])
    reader = Depends(gate.needs(Role.READ))

    @router.get("/deployments/{ref}/events")
    async def deployment_events(
        ref: str,
        actor: Actor = reader,
        after: Annotated[str, Query(description="cursor: the seq of the last event seen")] = "0",
        limit: Annotated[int, Query(ge=1, le=1000)] = 100,
    ) -> LogPage:
        place = cursor_of(after)
        # An id that the log knows needs no owner: it may be deleted, or the owner away.
        known = await database.read(lambda session: _is_logged(session, actor.project, ref))
        found = ref if known else (await _ask(ask, ref, actor)).id
        oldest = database.now() - timedelta(days=policy.deployment_events_days)
        wanted = log.Wanted(actor.project, after=place, since=oldest, noun_id=found)
        return await database.read(lambda session: log.page(session, wanted, limit=limit))

    return router


async def _ask(ask: Ask, ref: str, actor: Actor) -> DeploymentView:
    answer: Any = await ask("deployer", "get", DeploymentCommand(deployment=ref), actor)
    return DeploymentView.model_validate(answer)


def _is_logged(session: Session, project: str, ref: str) -> bool:
    query = select(OutboxRow.seq).where(
        col(OutboxRow.noun_id) == ref, col(OutboxRow.noun) == "deployment", col(OutboxRow.project) == project
    )
    return session.exec(query.limit(1)).first() is not None
