"""The composition root of dataset-ingest. ENGINES says which program does which kind of work."""

from __future__ import annotations

from collections.abc import Callable

from finery_contracts.envelope import Event
from finery_contracts.jobs import TaskKind
from finery_dataset_ingest.settings import DatasetIngestSettings
from finery_kit.executor import Executor, LocalExecutor
from finery_kit.service import Service
from finery_kit.storage import Storage
from finery_kit.worker import Engine, Worker

NAME = "dataset-ingest"
# A worker hears no facts, only doorbells: what answers them is the table of engines.
ROUTES: dict[type[Event], Callable[..., None]] = {}
ENGINES = {
    TaskKind.INGEST: Engine("finery_dataset_ingest.engine.ingest", warm="if_ready"),
    TaskKind.PREPARE: Engine("finery_dataset_ingest.engine.prepare", warm="if_ready"),
    TaskKind.COUNT: Engine("finery_dataset_ingest.engine.count", warm="if_ready"),
}


def build(settings: DatasetIngestSettings, executor: Executor | None = None) -> Service:
    """The service, ready to be started."""
    service = Service(NAME, settings)
    Worker(
        service, ENGINES, executor or LocalExecutor(), Storage(settings.store), settings.home / "work" / NAME,
        slots=settings.dataset_ingest_slots, pool=settings.pool, flavours=settings.flavours,
    )  # fmt: skip
    return service
