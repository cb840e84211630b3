"""Every stream and consumer of the bus, with limits and ages: declared once, applied by ``finery_kit.bus_init``."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Literal

DAY_S = 86_400


class Durable(StrEnum):
    """Names of durable consumers."""

    STUDIO_REPORTS = "studio-reports"
    STUDIO_INBOUND = "studio-inbound"
    DEPLOYER = "deployer"
    NOTIFIER = "notifier"
    BILLING_METER = "billing-meter"


@dataclass(frozen=True)
class ConsumerSpec:
    """A durable pull consumer."""

    durable: str
    filters: tuple[str, ...]
    ack_wait_s: float = 30
    max_deliver: int = 12
    max_ack_pending: int = 1000


@dataclass(frozen=True)
class StreamSpec:
    """A stream; ``max_age_s`` 0 keeps for ever; ``quick`` accepts losing the last second in a power cut."""

    name: str
    subjects: tuple[str, ...]
    meaning: str
    retention: Literal["limits", "workqueue"] = "limits"
    max_age_s: int = 0
    max_bytes: int = -1
    max_msgs_per_subject: int = -1
    quick: bool = False
    duplicate_window_s: int = 120
    consumers: tuple[ConsumerSpec, ...] = field(default=())


EVENTS = StreamSpec(
    name="EVENTS",
    subjects=("finery.evt.>",),
    meaning="facts: what happened, in the order in which it was said",
    consumers=(
        ConsumerSpec(Durable.NOTIFIER, ("finery.evt.*.task.>", "finery.evt.*.deployment.>", "finery.evt.*.model.>",
                                        "finery.evt.*.dataset.>", "finery.evt.*.billing.>")),
        ConsumerSpec(Durable.BILLING_METER, ("finery.evt.*.task.*.attempt_ended",
                                             "finery.evt.*.deployment.*.instance_ended",
                                             "finery.evt.*.usage.*.recorded")),
        ConsumerSpec(Durable.DEPLOYER, ("finery.evt.*.model.*.deleted",)),
    ),
)  # fmt: skip
WORK = StreamSpec(
    name="WORK",
    subjects=("finery.work.>",),
    meaning="doorbells: work of a kind waits in a pool (the message names no task)",
    max_age_s=60,
    max_msgs_per_subject=16,
)
REPORTS = StreamSpec(
    name="REPORTS",
    subjects=("finery.report.>",),
    meaning="snapshots of attempts, from workers to studio",
    max_age_s=7 * DAY_S,
    consumers=(ConsumerSpec(Durable.STUDIO_REPORTS, ("finery.report.>",), max_deliver=-1),),
)
METRICS = StreamSpec(
    name="METRICS",
    subjects=("finery.metric.>",),
    meaning="points of curves",
    max_age_s=30 * DAY_S,
    max_bytes=2 * 2**30,
    quick=True,
)
LOGS = StreamSpec(
    name="LOGS",
    subjects=("finery.log.>",),
    meaning="lines that engines wrote",
    max_age_s=30 * DAY_S,
    max_bytes=4 * 2**30,
    quick=True,
)
INBOUND = StreamSpec(
    name="INBOUND",
    subjects=("finery.in.>",),
    meaning="what upstream systems say: finery.in.<project>.<anything>",
    max_age_s=7 * DAY_S,
    consumers=(ConsumerSpec(Durable.STUDIO_INBOUND, ("finery.in.>",)),),
)
DEAD = StreamSpec(
    name="DEAD",
    subjects=("$JS.EVENT.ADVISORY.CONSUMER.MAX_DELIVERIES.>", "$JS.EVENT.ADVISORY.CONSUMER.MSG_TERMINATED.>"),
    meaning="which message of which stream a consumer gave up, with the reason",
    max_age_s=30 * DAY_S,
)
STREAMS = (EVENTS, WORK, REPORTS, METRICS, LOGS, INBOUND, DEAD)

KV_ROUTES, KV_KEYS = "routes", "keys"
KV_BUCKETS = (KV_ROUTES, KV_KEYS)


def work_subject(kind: str, pool: str) -> str:
    """The doorbell of a kind in a pool."""
    return f"finery.work.{kind}.{pool}"


def work_durable(kind: str, pool: str) -> str:
    """The consumer that workers of a kind in a pool share."""
    return f"work-{kind}-{pool}"


def work_consumer(kind: str, pool: str) -> ConsumerSpec:
    """Made when the pool is."""
    return ConsumerSpec(work_durable(kind, pool), (work_subject(kind, pool),), ack_wait_s=10, max_deliver=-1)


def report_subject(task_id: str) -> str:
    """Where a worker reports."""
    return f"finery.report.{task_id}"


def metric_subject(project: str, task_id: str) -> str:
    """Where the points of a task's curves go."""
    return f"finery.metric.{project}.{task_id}"


def log_subject(project: str, task_id: str) -> str:
    """Where the lines of a task's log go."""
    return f"finery.log.{project}.{task_id}"


def rpc_subject(owner: str, verb: str) -> str:
    """A request to the owner of a noun."""
    return f"finery.rpc.{owner}.{verb}"
