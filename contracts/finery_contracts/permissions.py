"""Who may say and hear what on the bus: one pure table, from which every broker's configuration is rendered.

Derived from what is declared elsewhere: who says a fact (``SAID_BY``), which streams and consumers there are; who asks
whom stands here. Nobody may do more than the table says; the server refuses it. A project's credential is in it, too.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from finery_contracts.jobs import TaskKind
from finery_contracts.registry import EVENTS as KINDS
from finery_contracts.streams import (
    DEAD,
    EVENTS,
    INBOUND,
    KV_KEYS,
    KV_ROUTES,
    LOGS,
    METRICS,
    REPORTS,
    WORK,
    Durable,
    consumer_of,
    dead_subject,
    hearers_of,
    rpc_subject,
)

INIT = "init"
"""The one user that is no service: whoever runs bus-init."""
ADMISSION = "$SYS.REQ.USER.AUTH"
"""Where the server itself asks who somebody is that it does not know; studio admits projects there."""

WORKERS: dict[str, tuple[TaskKind, ...]] = {
    "dataset-ingest": (TaskKind.INGEST, TaskKind.PREPARE, TaskKind.COUNT),
    "weight-validator": (TaskKind.IMPORT, TaskKind.VALIDATE, TaskKind.MERGE),
    "trainer": (TaskKind.TUNE,),
    "distiller": (TaskKind.DISTILL,),
    "compressor": (TaskKind.COMPRESS,),
    "evaluator": (TaskKind.EVALUATE, TaskKind.JUDGE),
}
ANSWERS = ("studio", "deployer", "gateway", "notifier", "billing-meter", "distiller", "compressor")
"""They answer requests: owners of nouns, and workers that are asked what they offer."""
SERVICES = tuple(dict.fromkeys((*ANSWERS, *WORKERS)))

HEARS: dict[str, tuple[Durable, ...]] = {
    "studio": (Durable.STUDIO, Durable.STUDIO_REPORTS, Durable.STUDIO_INBOUND, Durable.STUDIO_DEAD),
    "deployer": (Durable.DEPLOYER,),
    "notifier": (Durable.NOTIFIER,),
    "billing-meter": (Durable.BILLING_METER,),
}
ASKS: dict[str, tuple[str, ...]] = {
    "studio": (
        *(f"finery.rpc.{owner}.>" for owner in ANSWERS if owner != "studio"),
        # Of its own replicas it asks no more than that they refill the bus.
        rpc_subject("studio", "rebuild"), rpc_subject("studio", "rebuild.state"),
    ),
    "gateway": (rpc_subject("studio", "servable"), rpc_subject("deployer", "wake"), rpc_subject("deployer", "get")),
    "notifier": (rpc_subject("studio", "events"),),
    "billing-meter": (rpc_subject("studio", "events"),),
    **{worker: (rpc_subject("studio", "claim"), rpc_subject("studio", "heartbeat")) for worker in WORKERS},
}  # fmt: skip


@dataclass(frozen=True)
class Grant:
    """What one user may publish and subscribe; ``answers``: also to whoever asked it something, for a while."""

    user: str
    publish: tuple[str, ...]
    subscribe: tuple[str, ...]
    answers: bool = False


def inbox_of(user: str) -> str:
    """The prefix of the subjects on which this user's answers arrive; nobody else may listen there."""
    return f"_INBOX_{user}"


def grants() -> tuple[Grant, ...]:
    """Every user that stands in the server's configuration."""
    return (
        *(_service(name) for name in SERVICES),
        _init(),
    )


def project_grant(project: str) -> Grant:
    """A project says things to its own inbound subjects, hears its own facts and reads its own past; nothing else."""
    return Grant(
        user=project,
        publish=(f"finery.in.{project}.>", f"finery.replay.{project}"),
        subscribe=(f"finery.evt.{project}.>", f"{inbox_of(project)}.>"),
    )


def _service(name: str) -> Grant:
    publish = (
        *_facts_of(name), *ASKS.get(name, ()), *(say for durable in HEARS.get(name, ()) for say in _reads(durable)),
        *_OWN.get(name, ()), *(_WORKER if name in WORKERS else ()),
    )  # fmt: skip
    if name in HEARS or name == "gateway":
        publish = (f"$JS.API.STREAM.INFO.{EVENTS.name}", *_looks_back(EVENTS.name), *publish)
    subscribe = (f"{inbox_of(name)}.>", *((f"finery.rpc.{name}.>",) if name in ANSWERS else ()))
    return Grant(name, publish, (*subscribe, *_OWN_EAR.get(name, ())), answers=name in ANSWERS)


def _looks_back(stream: str) -> tuple[str, ...]:
    return (f"$JS.API.DIRECT.GET.{stream}", f"$JS.API.DIRECT.GET.{stream}.>")


def _facts_of(name: str) -> Iterable[str]:
    return (kind.filter_subject() for kind in KINDS.values() if name == kind.SAID_BY)


def _reads(durable: Durable) -> Iterable[str]:
    """A durable consumer of one's own: take, acknowledge, and lay aside what cannot be handled."""
    found = consumer_of(durable)
    assert found is not None
    stream = found[0].name
    return (*_taking(stream, durable), dead_subject(durable))


def _taking(stream: str, durable: str) -> tuple[str, ...]:
    return (
        f"$JS.API.CONSUMER.INFO.{stream}.{durable}",
        f"$JS.API.CONSUMER.MSG.NEXT.{stream}.{durable}",
        f"$JS.ACK.{stream}.{durable}.>",
    )


def _passing_reader(stream: str) -> tuple[str, ...]:
    """Consumers that are made for one reading and vanish: a page of a log, the watch of a bucket."""
    return (
        f"$JS.API.CONSUMER.CREATE.{stream}", f"$JS.API.CONSUMER.CREATE.{stream}.>",
        f"$JS.API.CONSUMER.INFO.{stream}.*", f"$JS.API.CONSUMER.MSG.NEXT.{stream}.*",
        f"$JS.API.CONSUMER.DELETE.{stream}.*", f"$JS.FC.{stream}.>", f"$JS.ACK.{stream}.>",
    )  # fmt: skip


def _reads_bucket(bucket: str) -> tuple[str, ...]:
    stream = f"KV_{bucket}"
    look = (f"$JS.API.STREAM.INFO.{stream}", f"$JS.API.DIRECT.GET.{stream}.>", f"$JS.API.STREAM.MSG.GET.{stream}")
    return (*look, *_passing_reader(stream))


def _writes_bucket(bucket: str) -> tuple[str, ...]:
    return (f"$JS.API.STREAM.INFO.KV_{bucket}", f"$KV.{bucket}.>")


# A worker hears the doorbells of any pool, for pools come and go; a bell names no task, so nothing is learned by it.
_WORKER = ("finery.report.*", "finery.metric.*.*", "finery.log.*.*", *_taking(WORK.name, "*"))
_OWN: dict[str, tuple[str, ...]] = {
    "studio": (
        "finery.work.>", *_writes_bucket(KV_KEYS), *_passing_reader(METRICS.name), *_passing_reader(LOGS.name),
        *(f"$JS.API.DIRECT.GET.{stream.name}" for stream in (EVENTS, REPORTS, INBOUND, DEAD)),
        f"$JS.API.DIRECT.GET.{INBOUND.name}.>", f"$JS.API.STREAM.MSG.DELETE.{DEAD.name}", "finery.redo.*",
        "finery.dead.*",
        # Pools come and go, and their doorbells with them.
        *(f"$JS.API.CONSUMER.{verb}.{WORK.name}" for verb in ("NAMES", "LIST")),
        *(f"$JS.API.CONSUMER.{verb}.{WORK.name}.>" for verb in ("CREATE", "DURABLE.CREATE", "INFO", "DELETE")),
    ),
    "deployer": _writes_bucket(KV_ROUTES),
    "gateway": (
        *_reads_bucket(KV_KEYS), *_reads_bucket(KV_ROUTES),
        # Whether its usage was heard, so that it need not be kept any longer.
        *(f"$JS.API.CONSUMER.INFO.{EVENTS.name}.{durable}" for durable in hearers_of("finery.evt.*.usage.*.recorded")),
    ),
}  # fmt: skip
_OWN_EAR: dict[str, tuple[str, ...]] = {"studio": ("finery.replay.*", ADMISSION)}


def _init() -> Grant:
    """Makes and corrects streams, buckets and consumers; it may neither read, purge nor delete what they hold."""
    streams = ("STREAM.INFO.*", "STREAM.CREATE.*", "STREAM.UPDATE.*", "STREAM.NAMES")
    consumers = ("CONSUMER.CREATE.>", "CONSUMER.DURABLE.CREATE.>", "CONSUMER.INFO.>", "CONSUMER.NAMES.*")
    publish = tuple(f"$JS.API.{verb}" for verb in ("INFO", *streams, *consumers))
    return Grant(INIT, publish, (f"{inbox_of(INIT)}.>",))
