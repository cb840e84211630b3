"""The composition root of evaluator. ROUTES says which engine does which kind of work."""

from __future__ import annotations

from finery_contracts.jobs import TaskKind
from finery_evaluator.settings import EvaluatorSettings
from finery_kit.executor import Executor, LocalExecutor
from finery_kit.service import Service
from finery_kit.storage import Storage
from finery_kit.worker import Engine, Worker

NAME = "evaluator"
ROUTES = {
    TaskKind.EVALUATE: Engine("finery_evaluator.engine.answers"),
}


def build(settings: EvaluatorSettings, executor: Executor | None = None) -> Service:
    """The service, ready to be started."""
    service = Service(NAME, settings)
    Worker(
        service, ROUTES, executor or LocalExecutor(), Storage(settings.store), settings.home / "work" / NAME,
        slots=settings.evaluator_slots, pool=settings.pool,
    )  # fmt: skip
    return service
