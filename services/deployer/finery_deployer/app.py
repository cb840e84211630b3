"""The deployer put together: which facts it hears, which requests it answers, what runs beside that."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from finery_contracts import deployments
from finery_contracts.autostop import AutoStopDue, AutoStopWarned
from finery_contracts.budgets import BudgetExhausted, BudgetRestored
from finery_contracts.envelope import Event
from finery_contracts.models import ModelDeleted
from finery_contracts.streams import Durable
from finery_deployer import handlers, requests
from finery_deployer.adapters import LocalRunner, RoutePublisher, Starter
from finery_deployer.requests import Desk
from finery_deployer.settings import DeployerSettings
from finery_deployer.store import DEPLOYER_METADATA
from finery_deployer.supervisor import Supervisor
from finery_kit.bus import Rpc, answer_requests, listen_to_facts
from finery_kit.db import Database
from finery_kit.delivery import DELIVERY_METADATA
from finery_kit.executor import EngineProcess, Executor, LocalExecutor, Warmth
from finery_kit.service import Hook, Service
from finery_kit.storage import Storage

NAME = "deployer"

ROUTES: dict[type[Event], Callable[..., None]] = {
    ModelDeleted: handlers.on_model_deleted,
    AutoStopWarned: handlers.on_auto_stop_warned,
    AutoStopDue: handlers.on_auto_stop_due,
    BudgetExhausted: handlers.on_budget_exhausted,
    BudgetRestored: handlers.on_budget_restored,
}

Answer = Callable[[Desk, Any], Awaitable[BaseModel]]
REQUESTS: dict[str, tuple[type[BaseModel], Answer]] = {
    "create": (deployments.DeployCommand, requests.create),
    "get": (deployments.DeploymentCommand, requests.get),
    "list": (deployments.DeploymentsRequest, requests.list_),
    "start": (deployments.DeploymentCommand, requests.start),
    "stop": (deployments.DeploymentCommand, requests.stop),
    "delete": (deployments.DeploymentCommand, requests.delete),
    "wake": (deployments.WakeCommand, requests.wake),
}


def build(settings: DeployerSettings, executor: Executor | None = None, *, starter: Starter | None = None) -> Service:
    """The service, ready to be started. ``starter`` says how instances are started; tests hand in their own."""
    database = Database(settings.database_for(NAME), DEPLOYER_METADATA, DELIVERY_METADATA)
    service = Service(NAME, settings, database)
    closing: list[Hook] = []
    if starter is None:
        if executor is None:
            own = LocalExecutor(settings.engines_root) if settings.engines_root else LocalExecutor()
            closing.append(own.close)
            executor = own
        starter = partial(_start_engine, executor, warm="always" if settings.deployer_warm else "never")
    runner = LocalRunner(settings.home, starter)
    routes = RoutePublisher(database, lambda: service.jetstream)
    supervisor = Supervisor(
        database, runner, Storage(settings.store), settings, on_change=lambda: _wake(service.wake_relay, routes.wake)
    )

    def wake() -> None:
        _wake(service.wake_relay, routes.wake, supervisor.wake)

    desk = Desk(
        database=database, wake=wake, trial_idle_s=settings.trial_idle_s,
        failed_rest_s=settings.deployer_failed_rest_s, max_instances=settings.deployer_max_instances,
    )  # fmt: skip
    listen_to_facts(service.broker, NAME, Durable.DEPLOYER, ROUTES, database, after=wake)
    answer_requests(
        service.broker, NAME, {verb: Rpc(body, partial(answer, desk)) for verb, (body, answer) in REQUESTS.items()}
    )
    service.loops += [routes.run, supervisor.run]
    service.on_rebuild.append(routes.tell_all)
    service.before_stop.append(supervisor.leave if settings.deployer_stop_instances_on_exit else supervisor.hold)
    service.before_stop += closing
    return service


def _wake(*sleepers: Callable[[], None]) -> None:
    for wake in sleepers:
        wake()


async def _start_engine(executor: Executor, module: str, folder: Path, *, warm: Warmth) -> EngineProcess:
    return await executor.start(module, folder, environment="ml", warm=warm, life_line=False)
