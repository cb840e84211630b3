"""The composition root of evaluator. ENGINES says which program does which kind of work."""

from __future__ import annotations

from collections.abc import Callable

from finery_contracts.envelope import Event
from finery_contracts.jobs import TaskKind
from finery_evaluator.settings import EvaluatorSettings
from finery_kit.executor import Executor, LocalExecutor
from finery_kit.service import Service
from finery_kit.storage import Storage
from finery_kit.worker import Engine, Worker

NAME = "evaluator"
# A worker hears no facts, only doorbells: what answers them is the table of engines.
ROUTES: dict[type[Event], Callable[..., None]] = {}
ENGINES = {
    TaskKind.EVALUATE: Engine("finery_evaluator.engine.answers"),
    TaskKind.JUDGE: Engine("finery_evaluator.engine.judge"),
}


def build(settings: EvaluatorSettings, executor: Executor | None = None) -> Service:
    """The service, ready to be started."""
    service = Service(NAME, settings)
    Worker(
        service, ENGINES, executor or LocalExecutor(), Storage(settings.store), settings.home / "work" / NAME,
        slots=settings.evaluator_slots, pool=settings.pool, flavours=settings.flavours,
    )  # fmt: skip
    return service
