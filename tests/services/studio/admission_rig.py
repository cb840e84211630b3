"""A task desk and a pool desk on a database, and projects that submit to them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

from finery_contracts.access import Actor, Role
from finery_contracts.ids import new_id
from finery_contracts.jobs import EvaluateSpec, Phase, TaskKind, ValidateSpec
from finery_contracts.options import TaskOptions
from finery_contracts.pools import PUBLIC, PoolChange, PoolRequest, PoolView, QuotaChange
from finery_contracts.tasks import EndReason, TaskView
from finery_contracts.work import AttemptEnd, Claim, ClaimRequest, Report
from finery_kit.db import Database, Transaction
from finery_kit.delivery import DELIVERY_METADATA
from finery_studio.pools import queue, recount
from finery_studio.pools.flavours import load_flavours
from finery_studio.pools.handlers import PoolDesk
from finery_studio.pools.store import Policy
from finery_studio.projects.store import ProjectRow
from finery_studio.store import STUDIO_METADATA
from finery_studio.tasks import store
from finery_studio.tasks.handlers import HangRule, TaskDesk
from finery_studio.tasks.submit import NewTask, submit

T = TypeVar("T")
SPECS: Any = {
    TaskKind.EVALUATE: lambda tx, task: EvaluateSpec(model="store://m", dataset="store://d"),
    TaskKind.VALIDATE: lambda tx, task: ValidateSpec(model="store://m"),
    TaskKind.IMPORT: lambda tx, task: ValidateSpec(model="store://m"),
}


def actor(project: str, role: Role = Role.FULL) -> Actor:
    return Actor(project=project, project_name=project, user="ann", key="key_1", role=role)


@dataclass
class AdmissionRig:
    """What a test of admission works with."""

    database: Database
    tasks: TaskDesk
    pools: PoolDesk

    async def write(self, work: Callable[[Transaction], T]) -> T:
        return await self.database.write(work)

    async def submit(
        self, project: str = "a", kind: TaskKind = TaskKind.EVALUATE, *, needs: tuple[str, ...] = (), **options: Any
    ) -> TaskView:
        new = NewTask(kind, "t", {}, TaskOptions(**options), needs=needs)
        return await self.write(lambda tx: submit(tx, new, actor(project), SPECS))

    async def claim(self, *kinds: TaskKind, request_id: str = "", **said: Any) -> Claim | None:
        wanted = list(kinds or (TaskKind.EVALUATE,))
        request = ClaimRequest(request_id=request_id or new_id("req"), worker="w", kinds=wanted, **said)
        return (await self.tasks.on_claim(request)).claim

    async def end(self, claim: Claim, reason: EndReason = EndReason.SUCCEEDED) -> None:
        news = Report(
            task_id=claim.task_id, attempt=claim.attempt, project=claim.project, worker="w", seq=1,
            phase=Phase.RUNNING, end=AttemptEnd(reason=reason),
        )  # fmt: skip
        await self.write(lambda tx: self.tasks.on_report(tx, news))

    async def seen(self, task: TaskView | str) -> TaskView:
        """As one read tells it."""
        task_id = task if isinstance(task, str) else task.id

        def read(session: Any) -> TaskView:
            row = session.get(store.TaskRow, task_id)
            return queue.told(session, [store.view_of(row)], every_place=True)[0]

        return await self.database.read(read)

    async def offer(self, flavours: Mapping[str, int | None], pool: str = PUBLIC) -> PoolView:
        """Set a pool's slots."""
        asked, operator = PoolChange(flavours=dict(flavours)), actor("a", Role.OPERATOR)
        return await self.write(lambda tx: self.pools.change(tx, pool, asked, actor=operator))

    async def pool(self, project: str = "a", **said: Any) -> PoolView:
        asked = PoolRequest.model_validate({"name": "own", "flavours": {"cpu": None}, **said})
        return await self.write(lambda tx: self.pools.create(tx, asked, actor(project)))

    async def quota(self, project: str, **said: Any) -> None:
        def put(tx: Transaction) -> None:
            if tx.session.get(ProjectRow, project) is None:
                tx.session.add(ProjectRow(id=project, name=project, created_at=tx.now.isoformat()))
                tx.session.flush()
            self.pools.set_quota(tx, project, QuotaChange(**said))

        await self.write(put)

    async def drift(self) -> list[str]:
        return await self.database.read(recount.drift)


@asynccontextmanager
async def admission_rig(url: str) -> AsyncIterator[AdmissionRig]:
    """On a fresh database."""
    database = Database(url, STUDIO_METADATA, DELIVERY_METADATA)
    database.open()
    pools = PoolDesk(Policy(flavours=load_flavours()), lambda: None)
    await database.write(pools.begin)
    outcomes: Any = dict.fromkeys(TaskKind, lambda tx, task: {})
    tasks = TaskDesk(database, SPECS, outcomes, 3, HangRule(20, 60), lambda: None, lambda: None)
    yield AdmissionRig(database, tasks, pools)
    database.close()
