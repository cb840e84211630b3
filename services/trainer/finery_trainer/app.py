"""The composition root of trainer. ENGINES says which program does which kind of work."""

from __future__ import annotations

from collections.abc import Callable

from finery_contracts.envelope import Event
from finery_contracts.jobs import TaskKind
from finery_kit.executor import Executor, LocalExecutor
from finery_kit.service import Service
from finery_kit.storage import Storage
from finery_kit.worker import Engine, Worker
from finery_trainer.settings import TrainerSettings

NAME = "trainer"
# A worker hears no facts, only doorbells: what answers them is the table of engines.
ROUTES: dict[type[Event], Callable[..., None]] = {}
ENGINES = {
    TaskKind.TUNE: Engine("finery_trainer.engine.sft"),
}


def build(settings: TrainerSettings, executor: Executor | None = None) -> Service:
    """The service, ready to be started."""
    service = Service(NAME, settings)
    Worker(
        service, ENGINES, executor or LocalExecutor(), Storage(settings.store), settings.home / "work" / NAME,
        slots=settings.trainer_slots, pool=settings.pool, flavours=settings.flavours,
    )  # fmt: skip
    return service
