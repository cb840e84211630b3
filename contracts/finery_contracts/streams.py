"""Every stream and consumer of the bus, with limits and ages: declared once, applied by ``finery_kit.bus_init``."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Literal

from finery_contracts.retention import Retention

DAY_S = 86_400
MAX_MESSAGE_BYTES = 1 << 20
"""What the broker takes, headers included."""
MAX_FACT_BYTES = MAX_MESSAGE_BYTES - 64 * 1024
"""Of a fact's body: the rest is for headers, also those of a dead letter."""


class Durable(StrEnum):
    """Names of durable consumers."""

    STUDIO = "studio"
    STUDIO_REPORTS = "studio-reports"
    STUDIO_INBOUND = "studio-inbound"
    STUDIO_DEAD = "studio-dead"
    DEPLOYER = "deployer"
    NOTIFIER = "notifier"
    BILLING_METER = "billing-meter"


@dataclass(frozen=True)
class ConsumerSpec:
    """A durable pull consumer.

    ``unfiltered``: the server hands it the whole stream, and the reader passes over what the filters do not name. For
    hot consumers: with more than one filter the server was five times slower (measured: 3,500 against 20,000 a second).
    """

    durable: str
    filters: tuple[str, ...]
    unfiltered: bool = False
    ack_wait_s: float = 30
    max_deliver: int = 12
    max_ack_pending: int = 1000

    def hears(self, subject: str) -> bool:
        """Whether a message said there is for this consumer."""
        return any(covers(pattern, subject) for pattern in self.filters)


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


def covers(pattern: str, subject: str) -> bool:
    """True when every subject that ``subject`` stands for also matches ``pattern`` (NATS wildcards ``*`` and ``>``)."""
    wanted, given = pattern.split("."), subject.split(".")
    for place, token in enumerate(wanted):
        if token == ">":
            return len(given) > place
        if place >= len(given) or given[place] == ">" or token not in ("*", given[place]):
            return False
    return len(wanted) == len(given)


def dead_subject(durable: str) -> str:
    """Where a message goes that this consumer gave up."""
    return f"finery.dead.{durable}"


def redo_subject(durable: str) -> str:
    """Where such a message is said once more, so that only this consumer hears it."""
    return f"finery.redo.{durable}"


def _facts(*nouns: str) -> tuple[str, ...]:
    return tuple(f"finery.evt.*.{noun}.>" for noun in nouns)


def _consumer(durable: Durable, filters: Iterable[str], *, hot: bool = False) -> ConsumerSpec:
    spec = ConsumerSpec(durable, (*filters, redo_subject(durable)))
    return replace(spec, unfiltered=True, max_ack_pending=4000) if hot else spec


_BILLED = ("created", "running", "attempt_ended", "paused", "resumed", "succeeded", "failed", "terminated", "deleted")
_EVENT_CONSUMERS = (
    _consumer(Durable.STUDIO, _facts("deployment", "usage", "notification", "billing", "autostop", "budget",
                                     "package")),
    _consumer(Durable.NOTIFIER, _facts("project", "task", "dataset", "model", "deployment", "notification", "billing",
                                       "autostop", "budget", "package", "inbound"), hot=True),
    _consumer(Durable.BILLING_METER, (*(f"finery.evt.*.task.*.{fact}" for fact in _BILLED), *_facts("deployment"),
                                      "finery.evt.*.usage.*.recorded", "finery.evt.*.notification.*.metered"),
              hot=True),
    _consumer(Durable.DEPLOYER, ("finery.evt.*.model.*.deleted", *_facts("autostop"),
                                 "finery.evt.*.budget.*.exhausted", "finery.evt.*.budget.*.restored")),
)  # fmt: skip
EVENTS = StreamSpec(
    name="EVENTS",
    subjects=("finery.evt.>", *(redo_subject(consumer.durable) for consumer in _EVENT_CONSUMERS)),
    meaning="facts: what happened, in the order in which it was said",
    consumers=_EVENT_CONSUMERS,
)
WORK = StreamSpec(
    name="WORK",
    subjects=("finery.work.>",),
    meaning="doorbells: work of a kind waits in a pool (the message names no task)",
    max_age_s=60,
    max_msgs_per_subject=16,
)
REPORTS = StreamSpec(
    name="REPORTS",
    subjects=("finery.report.>", redo_subject(Durable.STUDIO_REPORTS)),
    meaning="snapshots of attempts, from workers to studio",
    max_age_s=7 * DAY_S,
    consumers=(_consumer(Durable.STUDIO_REPORTS, ("finery.report.>",)),),
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
    subjects=("finery.in.>", redo_subject(Durable.STUDIO_INBOUND)),
    meaning="what upstream systems say: finery.in.<project>.<anything>",
    max_age_s=7 * DAY_S,
    consumers=(_consumer(Durable.STUDIO_INBOUND, ("finery.in.>",)),),
)
ADVISORIES = ("$JS.EVENT.ADVISORY.CONSUMER.MAX_DELIVERIES.>", "$JS.EVENT.ADVISORY.CONSUMER.MSG_TERMINATED.>")
DEAD = StreamSpec(
    name="DEAD",
    subjects=("finery.dead.*", *ADVISORIES),
    meaning="messages that a consumer gave up, whole and with the reason; the server's own advisories beside them",
    max_age_s=30 * DAY_S,
    # An entry is known by its message id as long as it may lie here: an advisory that comes late adds no second one.
    duplicate_window_s=30 * DAY_S,
    consumers=(ConsumerSpec(Durable.STUDIO_DEAD, ADVISORIES, max_deliver=-1),),
)
STREAMS = (EVENTS, WORK, REPORTS, METRICS, LOGS, INBOUND, DEAD)


def kept_by(policy: Retention) -> tuple[StreamSpec, ...]:
    """Every stream, with the ages that the policy gives; those that are no matter of policy keep their own."""
    days = {EVENTS.name: policy.events_days or 0, METRICS.name: policy.logs_days, LOGS.name: policy.logs_days}
    ages = {name: kept * DAY_S for name, kept in (*days.items(), (DEAD.name, policy.dead_days))}
    kept = {stream.name: replace(stream, max_age_s=ages.get(stream.name, stream.max_age_s)) for stream in STREAMS}
    kept[DEAD.name] = replace(kept[DEAD.name], duplicate_window_s=kept[DEAD.name].max_age_s)
    return tuple(kept.values())


def consumer_of(durable: str) -> tuple[StreamSpec, ConsumerSpec] | None:
    """A durable consumer with its stream; None for one that is made with its pool."""
    found = ((stream, spec) for stream in STREAMS for spec in stream.consumers if spec.durable == durable)
    return next(found, None)


def hearers_of(subject: str) -> tuple[str, ...]:
    """The durable consumers whose filters let it through."""
    return tuple(str(spec.durable) for stream in STREAMS for spec in stream.consumers if spec.hears(subject))


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
