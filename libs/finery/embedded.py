"""The whole house in one process: nats-server from its wheel, SQLite, a folder, all services, engines as children.

It refuses to start twice on one home, and leaves cleanly on SIGTERM: engines save, instances drain, the broker last.
"""

# nats-py leaves parts of its interface untyped.
# pyright: reportUnknownMemberType=false
from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import signal
import socket
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
from nats.aio.client import Client

from finery_contracts.errors import Conflict, Unavailable
from finery_contracts.permissions import INIT
from finery_kit.bus import inbox_prefix
from finery_kit.bus_init import bus_init
from finery_kit.bus_init import watch as watch_bus
from finery_kit.executor import LocalExecutor
from finery_kit.home import lock_home, operator_key, prepare_home, write_private
from finery_kit.logs import set_up_logs
from finery_kit.nats_server import NatsServer
from finery_kit.ports import free_port
from finery_kit.service import Service
from finery_kit.settings import Settings, load


@dataclass(frozen=True)
class Options:
    """What ``finery up`` is told."""

    home: Path
    port: int = 8080
    host: str = "127.0.0.1"
    otlp_endpoint: str | None = None
    allow_webhook_networks: tuple[str, ...] = ()
    log_level: str = "INFO"


@dataclass(frozen=True)
class Ready:
    """What ``finery up --json`` prints."""

    url: str
    api_key: str
    nats_url: str
    home: str
    project: str
    pid: int = field(default_factory=os.getpid)

    def as_json(self) -> str:
        """One line."""
        return json.dumps(self.__dict__)


async def run(options: Options, on_ready: Callable[[Ready], None]) -> None:
    """Until SIGTERM or SIGINT."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    async with house(options) as ready:
        on_ready(ready)
        await stop.wait()


@contextlib.asynccontextmanager
async def house(options: Options) -> AsyncGenerator[Ready]:
    """Everything, started; stopped on leaving."""
    home = prepare_home(options.home)
    with lock_home(home):
        _check_port(options)
        logs = set_up_logs(home / "finery.log", options.log_level)
        nats = NatsServer(home, bytes.fromhex((home / "secret").read_text().strip()), port=_bus_port(home))
        await nats.start()
        executor = LocalExecutor()
        try:
            async with _services(options, home, nats, executor):
                await _answers(options)
                project = await _oldest_project(options, home)
                ready = Ready(
                    url=f"http://{options.host}:{options.port}", api_key=operator_key(home), home=str(home),
                    nats_url=nats.url(project), project=project,
                )  # fmt: skip
                write_private(home / "connection.json", json.dumps({"url": ready.url, "api_key": ready.api_key}))
                yield ready
        finally:
            await executor.close()
            await nats.stop()
            logging.getLogger().removeHandler(logs)
            logs.close()


@contextlib.asynccontextmanager
async def _services(options: Options, home: Path, nats: NatsServer, executor: LocalExecutor) -> AsyncGenerator[None]:
    client = Client()
    url = nats.url(INIT)
    await client.connect(url, inbox_prefix=inbox_prefix(url), max_reconnect_attempts=-1)
    policy = load(Settings, home=home).retention
    await bus_init(client, policy=policy)
    watchers = [asyncio.create_task(watch_bus(client, policy=policy)), asyncio.create_task(_keep_broker(nats))]
    started: list[Service] = []
    try:
        for service in build_all(options, home, nats.url, executor):
            await service.start()
            started.append(service)
        yield
    finally:
        # The workers first, so that their last reports find a studio; studio before the broker.
        for service in reversed(started):
            await service.stop()
        for watcher in watchers:
            watcher.cancel()
        await asyncio.gather(*watchers, return_exceptions=True)
        await client.close()


def build_all(options: Options, home: Path, url_of: Callable[[str], str], executor: LocalExecutor) -> list[Service]:
    """Every service, in the order of their start. ``url_of``: the bus with the credential of a service."""
    from finery_billing_meter import app as billing_meter
    from finery_billing_meter.settings import BillingMeterSettings
    from finery_compressor import app as compressor
    from finery_compressor.settings import CompressorSettings
    from finery_dataset_ingest import app as dataset_ingest
    from finery_dataset_ingest.settings import DatasetIngestSettings
    from finery_deployer import app as deployer
    from finery_deployer.settings import DeployerSettings
    from finery_distiller import app as distiller
    from finery_distiller.settings import DistillerSettings
    from finery_evaluator import app as evaluator
    from finery_evaluator.settings import EvaluatorSettings
    from finery_gateway import app as gateway
    from finery_gateway.settings import GatewaySettings
    from finery_notifier import app as notifier
    from finery_notifier.settings import NotifierSettings
    from finery_studio import app as studio
    from finery_studio.settings import StudioSettings
    from finery_trainer import app as trainer
    from finery_trainer.settings import TrainerSettings
    from finery_weight_validator import app as weight_validator
    from finery_weight_validator.settings import WeightValidatorSettings

    base, notifying, facing = _settings(options, home)

    def own(service: str) -> dict[str, Any]:
        return base | {"nats_url": url_of(service)}

    return [
        studio.build(load(StudioSettings, **own(studio.NAME), studio_port=int(facing["studio_url"].rsplit(":", 1)[1]))),
        billing_meter.build(load(BillingMeterSettings, **own(billing_meter.NAME))),
        notifier.build(load(NotifierSettings, **own(notifier.NAME), **notifying)),
        distiller.build(load(DistillerSettings, **own(distiller.NAME))),
        compressor.build(load(CompressorSettings, **own(compressor.NAME))),
        deployer.build(load(DeployerSettings, **own(deployer.NAME), deployer_stop_instances_on_exit=True), executor),
        dataset_ingest.build(load(DatasetIngestSettings, **own(dataset_ingest.NAME)), executor),
        weight_validator.build(load(WeightValidatorSettings, **own(weight_validator.NAME)), executor),
        trainer.build(load(TrainerSettings, **own(trainer.NAME)), executor),
        evaluator.build(load(EvaluatorSettings, **own(evaluator.NAME)), executor),
        gateway.build(load(GatewaySettings, **own(gateway.NAME), **facing)),
    ]


def _settings(options: Options, home: Path) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
    """What all services, the notifier and the gateway are told beyond their environment."""
    base: dict[str, Any] = {"home": home}
    if options.otlp_endpoint:
        base["otlp_endpoint"] = options.otlp_endpoint
    notifying: dict[str, Any] = {"public_url": f"http://{options.host}:{options.port}"}
    if options.allow_webhook_networks:
        notifying["notifier_allow_networks"] = ",".join(options.allow_webhook_networks)
    facing: dict[str, Any] = {
        "gateway_host": options.host,
        "gateway_port": options.port,
        "studio_url": f"http://127.0.0.1:{free_port()}",
    }
    return base, notifying, facing


async def _keep_broker(nats: NatsServer) -> None:
    """A broker that died is started again; what it acknowledged is on disk."""
    while True:
        await nats.wait()
        await asyncio.sleep(0.2)
        await nats.start()


async def _oldest_project(options: Options, home: Path) -> str:
    """The default project; raises Conflict when the database belongs to another home."""
    url = f"http://{options.host}:{options.port}/api/v1/projects"
    headers = {"authorization": f"Bearer {operator_key(home)}"}
    async with aiohttp.ClientSession(headers=headers) as client, client.get(url) as answer:
        if answer.status != 200:
            raise Conflict(
                f"the database knows another operator key than {home / 'api_key'}: take the home it was made with, or "
                "set FINERY_OPERATOR_KEY",
                code="operator_key_unknown",
            )
        return min(project["id"] for project in (await answer.json())["data"])


def _check_port(options: Options) -> None:
    """Raises Conflict when somebody else listens there."""
    try:
        socket.create_server((options.host, options.port)).close()
    except OSError as fault:
        raise Conflict(
            f"port {options.port} of {options.host} cannot be had ({fault.strerror}); take another --port",
            code="port_taken",
        ) from fault


async def _answers(options: Options) -> None:
    """Wait until the public port answers."""
    for _ in range(1000):
        with contextlib.suppress(OSError):
            _, writer = await asyncio.open_connection(options.host, options.port)
            writer.close()
            return
        await asyncio.sleep(0.01)
    raise Unavailable("the gateway did not get ready", code="gateway_failed")


def _bus_port(home: Path) -> int:
    """The same port on every start of one home, so that URLs which people hold stay true."""
    path = home / "bus_port"
    if not path.exists():
        path.write_text(str(free_port()))
    return int(path.read_text())
