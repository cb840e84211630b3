"""The composition root of weight-validator. ENGINES says which program does which kind of work."""

from __future__ import annotations

from collections.abc import Callable

from finery_contracts.envelope import Event
from finery_contracts.jobs import TaskKind
from finery_kit.executor import Executor, LocalExecutor
from finery_kit.service import Service
from finery_kit.storage import Storage
from finery_kit.worker import Engine, Worker
from finery_weight_validator.settings import WeightValidatorSettings

NAME = "weight-validator"
# A worker hears no facts, only doorbells: what answers them is the table of engines.
ROUTES: dict[type[Event], Callable[..., None]] = {}
ENGINES = {
    TaskKind.IMPORT: Engine("finery_weight_validator.engine.convert"),
    TaskKind.VALIDATE: Engine("finery_weight_validator.engine.check"),
    TaskKind.MERGE: Engine("finery_weight_validator.engine.merge"),
}


def build(settings: WeightValidatorSettings, executor: Executor | None = None) -> Service:
    """The service, ready to be started."""
    service = Service(NAME, settings)
    Worker(
        service, ENGINES, executor or LocalExecutor(), Storage(settings.store), settings.home / "work" / NAME,
        slots=settings.weight_validator_slots, pool=settings.pool, flavours=settings.flavours,
    )  # fmt: skip
    return service
