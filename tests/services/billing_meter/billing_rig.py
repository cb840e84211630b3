"""What the billing meter's tests are made of: builders of facts, and the service without a bus."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from decimal import Decimal

from sqlmodel import select

from finery_billing_meter.app import REQUESTS, routes
from finery_billing_meter.desk import Desk
from finery_billing_meter.ledger.store import LEDGER, view
from finery_billing_meter.prices.domain import PriceBook
from finery_contracts.access import Actor, Role
from finery_contracts.billing import LedgerLine
from finery_contracts.deployments import (
    DeploymentInstanceEnded,
    DeploymentState,
    DeploymentView,
    InstanceEndedData,
    InstanceInterval,
)
from finery_contracts.envelope import Event
from finery_contracts.ids import new_id
from finery_contracts.jobs import TaskKind
from finery_contracts.log import LoggedEvent, LogPage, LogRequest
from finery_contracts.notifications import NotificationMetered, NotificationUsage
from finery_contracts.prices import HourPrice, MessagePrice, PriceList, TokenPrice
from finery_contracts.tasks import (
    AttemptEndedData,
    AttemptView,
    EndReason,
    RunInterval,
    TaskAttemptEnded,
    TaskState,
    TaskView,
)
from finery_contracts.usage import CallUsage, UsageBatch, UsageRecorded
from finery_kit.bus import Call
from finery_kit.db import Database
from finery_kit.delivery import OutboxRow
from finery_kit.inbox import first_sights
from finery_kit.testing import VirtualClock

AT = datetime(2026, 3, 1, 12, tzinfo=UTC)
PRICES = PriceList(
    currency="USD",
    flavours={
        "cpu": [HourPrice(valid_from=datetime(2026, 1, 1, tzinfo=UTC), per_hour=Decimal("0.12"))],
        "gpu": [
            HourPrice(valid_from=datetime(2026, 1, 1, tzinfo=UTC), per_hour=Decimal("2.40")),
            HourPrice(valid_from=AT, per_hour=Decimal("3.00")),
        ],
    },
    notifications={
        "email": [MessagePrice(valid_from=datetime(2026, 1, 1, tzinfo=UTC), per_message=Decimal("0.00002"))]
    },
    tokens=[
        TokenPrice(valid_from=datetime(2026, 1, 1, tzinfo=UTC), prompt=Decimal(0), completion=Decimal(0)),
        TokenPrice(valid_from=AT, prompt=Decimal("0.0000002"), completion=Decimal("0.0000006")),
    ],
)


def fact(kind: type[Event], noun_id: str, *, project: str, version: int, data) -> Event:
    return kind(
        id=new_id("evt"), type=kind.type_name(), source=f"finery/{kind.SAID_BY}", subject=f"{kind.NOUN}/{noun_id}",
        time=AT, project=project, nounversion=version, data=data,
    )  # fmt: skip


def attempt_ended(
    task: str = "task_1", *, attempt: int = 1, running_s: float = 3600.0, reason: EndReason = EndReason.SUCCEEDED,
    flavour: str = "cpu", instances: int = 1, started_at: datetime = AT, project: str = "proj_1", user: str = "user_1",
    pool: str = "public",
) -> TaskAttemptEnded:  # fmt: skip
    interval = RunInterval(
        attempt=attempt, started_at=started_at, running_s=running_s, reason=reason, billed=reason.billed
    )
    view = TaskView(
        id=task, project=project, kind=TaskKind.TUNE, name=f"name of {task}", state=TaskState.RUNNING,
        version=attempt * 3, created_by=user, flavour=flavour, instances=instances, created_at=started_at, pool=pool,
    )  # fmt: skip
    tried = AttemptView(number=attempt, worker="w", state="ended", reason=reason, claimed_at=started_at)
    data = AttemptEndedData(task=view, attempt=tried, interval=interval)
    made = fact(TaskAttemptEnded, task, project=project, version=attempt * 3, data=data)
    assert isinstance(made, TaskAttemptEnded)
    return made


def instance_ended(
    deployment: str = "dep_1", *, instance: str = "inst_1", n: int = 1, running_s: float = 1800.0, billed: bool = True,
    started_at: datetime = AT, project: str = "proj_1", version: int | None = None,
) -> DeploymentInstanceEnded:  # fmt: skip
    view = DeploymentView(
        id=deployment, project=project, name=f"name of {deployment}", model="model_1", model_name="m", qps=1,
        state=DeploymentState.STOPPED, version=version or n, created_by="user_2", created_at=started_at, instances=3,
    )  # fmt: skip
    interval = InstanceInterval(instance=instance, n=n, started_at=started_at, running_s=running_s, billed=billed)
    data = InstanceEndedData(deployment=view, interval=interval)
    made = fact(DeploymentInstanceEnded, deployment, project=project, version=version or n, data=data)
    assert isinstance(made, DeploymentInstanceEnded)
    return made


def call_of(deployment: str, key: str, prompt: int, completion: int, *, at: datetime = AT) -> CallUsage:
    return CallUsage(
        request_id=new_id("req"), at=at, project="proj_1", key=key, deployment=deployment, model="m",
        prompt_tokens=prompt, completion_tokens=completion, duration_ms=1, status=200,
    )  # fmt: skip


def usage_recorded(
    calls: Sequence[CallUsage], *, segment: str = "seg_1", offset: int = 0, project: str = "proj_1"
) -> UsageRecorded:
    data = UsageBatch(segment=segment, offset=offset, calls=list(calls))
    made = fact(UsageRecorded, segment, project=project, version=offset + 1, data=data)
    assert isinstance(made, UsageRecorded)
    return made


def notifications_metered(key: str, *, channel: str = "email", count: int = 3, at: datetime = AT) -> Event:
    data = NotificationUsage(
        key=key, project="proj_1", channel=channel, count=count, window_start=at, window_end=at + timedelta(hours=1)
    )  # fmt: skip
    return fact(NotificationMetered, key, project="proj_1", version=1, data=data)


@dataclass
class Log:
    """Studio's event log in memory, in small pages."""

    events: list[Event] = field(default_factory=list[Event])
    size: int = 7

    async def page(self, asked: LogRequest, actor: Actor | None) -> LogPage:
        project = None if asked.all_projects or actor is None else actor.project
        found = [
            LoggedEvent(seq=n, event=event.model_dump(mode="json"))
            for n, event in enumerate(self.events, start=1)
            if n > asked.after and event.type in asked.types and project in (None, event.project)
        ]
        shown = found[: min(self.size, asked.limit)]
        return LogPage(data=shown, next=shown[-1].seq if shown else asked.after, has_more=len(found) > len(shown))


@dataclass
class Rig:
    """The billing meter without a bus."""

    database: Database
    prices: PriceList = PRICES
    clock: VirtualClock = field(default_factory=VirtualClock)
    log: Log = field(default_factory=Log)

    @property
    def book(self) -> PriceBook:
        return PriceBook(self.prices)

    async def hear(self, event: Event) -> bool:
        return await self.hear_all([event]) == 1

    async def hear_past_the_inbox(self, event: Event) -> None:
        await self.hear_all([event], past_the_inbox=True)

    async def hear_all(
        self, events: Sequence[Event], *, crash: Exception | None = None, past_the_inbox: bool = False
    ) -> int:
        """A batch in one transaction; ``crash``: it dies when everything is written and nothing is committed."""
        handlers = routes(self.book)

        def work(tx) -> int:
            new = list(events) if past_the_inbox else first_sights(tx, events)
            if new:
                (handler,) = {handlers[type(event)] for event in new}
                handler.handler(tx, new)
            if crash is not None:
                raise crash
            return len(new)

        return await self.database.write(work)

    async def ask(self, verb: str, *, project: str = "proj_1", role: Role = Role.READ, key=None, **body):
        kind, answer = REQUESTS[verb]
        actor = Actor(project=project, project_name="p", user="user_1", key="key_1", role=role)
        return await answer(Desk(self.database, self.book, log=self.log), Call(kind.model_validate(body), actor, key))

    async def lines(self) -> list[LedgerLine]:
        def work(session):
            return [view(row) for row in session.execute(select(LEDGER).order_by(LEDGER.c.id)).mappings()]

        return sorted(await self.database.read(work), key=lambda line: line.key)

    async def facts(self, noun: str) -> list[str]:
        return [row.bus_subject.rsplit(".", 1)[1] for row in await self.said() if row.noun == noun]

    async def said(self) -> list[OutboxRow]:
        return await self.database.read(lambda session: list(session.exec(select(OutboxRow).order_by(OutboxRow.seq))))
