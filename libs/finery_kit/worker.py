"""The working half of every worker service: hear the bell, claim, run the engine, report, leave nothing behind.

What a service adds is which engine does which kind. A worker decides nothing about a task's state: it reports, the
studio decides. It writes only under ``<task>/<attempt>/``.
"""

from __future__ import annotations

import asyncio
import logging
import os
import shutil
import socket
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from faststream import AckPolicy
from faststream.nats import JStream, NatsMessage, PullSub
from ulid import ULID

from finery_contracts.errors import FineryError, Unavailable
from finery_contracts.jobs import TaskKind
from finery_contracts.streams import WORK, work_durable, work_subject
from finery_contracts.work import Claim, ClaimAnswer, ClaimRequest
from finery_kit.attempt import Attempt
from finery_kit.bus import ask, raw_decoder, subscriber_inbox
from finery_kit.executor import Executor, Warmth
from finery_kit.service import Service
from finery_kit.storage import Storage

log = logging.getLogger("finery.worker")
LOOK_EVERY_S = 5.0


@dataclass(frozen=True)
class Engine:
    """Which program does a kind, and whether it is forked from a host that has the heavy imports done."""

    module: str
    warm: Warmth = "always"
    environment: str = "ml"


@dataclass
class Worker:
    """A worker of one service; attempts take slots, one each unless their flavour says more."""

    service: Service
    engines: dict[TaskKind, Engine]
    executor: Executor
    storage: Storage
    folder: Path
    slots: int = 1
    pool: str = "public"
    flavours: Sequence[str] = ("cpu",)
    name: str = field(init=False)
    _bell: asyncio.Event = field(init=False, default_factory=asyncio.Event)
    _attempts: dict[str, tuple[Attempt, asyncio.Task[None]]] = field(
        init=False, default_factory=dict[str, tuple[Attempt, "asyncio.Task[None]"]]
    )
    _draining: bool = field(init=False, default=False)

    def __post_init__(self) -> None:
        self.name = f"{self.service.name}@{socket.gethostname()}:{os.getpid()}"
        for kind in self.engines:
            self._listen(kind)
        self.service.before_start.append(self._clear)
        self.service.loops.append(self.claim_loop)
        self.service.before_stop.append(self.drain)

    async def claim_loop(self) -> None:
        """While there is a free slot: claim; else, or when nothing waits, sleep until the bell rings."""
        while True:
            self._bell.clear()
            while self._free_slots > 0 and not self._draining:
                claim = await self._claim()
                if claim is None:
                    break
                self._begin(claim)
            try:
                await asyncio.wait_for(self._bell.wait(), LOOK_EVERY_S)
            except TimeoutError:
                continue

    async def drain(self) -> None:
        """No new claims; engines save and leave; their attempts go on elsewhere."""
        self._draining = True
        attempts = list(self._attempts.values())
        for attempt, _ in attempts:
            attempt.leave()
        await asyncio.gather(*(task for _, task in attempts), return_exceptions=True)

    @property
    def _free_slots(self) -> int:
        return self.slots - sum(attempt.claim.slots for attempt, _ in self._attempts.values())

    async def _clear(self) -> None:
        """What a killed worker left: nobody will ask for it again."""
        await asyncio.to_thread(shutil.rmtree, self.folder, ignore_errors=True)
        self.folder.mkdir(parents=True, exist_ok=True)

    def _listen(self, kind: TaskKind) -> None:
        async def on_bell(_body: bytes, msg: NatsMessage) -> None:
            await msg.ack()
            self._bell.set()

        self.service.broker.subscriber(
            work_subject(kind, self.pool), stream=JStream(WORK.name, declare=False),
            durable=work_durable(kind, self.pool), pull_sub=PullSub(1, timeout=5), ack_policy=AckPolicy.MANUAL,
            decoder=raw_decoder, title=f"{self.service.name}:{kind}",
            inbox_prefix=subscriber_inbox(self.service.broker),
        )(on_bell)  # fmt: skip

    async def _claim(self) -> Claim | None:
        request = ClaimRequest(
            request_id=str(ULID()), worker=self.name, kinds=list(self.engines), pool=self.pool,
            flavours=list(self.flavours), free_slots=self._free_slots, slots=self.slots,
        )  # fmt: skip
        for _ in range(3):  # an answer that was lost is asked for again under the same request id
            try:
                answer = await ask(
                    self.service.client, "studio", "claim", request, ClaimAnswer, timeout_s=5, traced=False
                )
                return answer.claim
            except Unavailable:
                await asyncio.sleep(0.5)
            except FineryError as fault:
                log.error("claim_refused", extra={"error": fault.message})
                return None
        return None

    def _begin(self, claim: Claim) -> None:
        attempt = Attempt(
            claim=claim, engine=self.engines[claim.spec.kind], service=self.service, executor=self.executor,
            storage=self.storage, folder=self.folder / claim.task_id / str(claim.attempt), worker=self.name,
        )  # fmt: skip
        task = asyncio.create_task(attempt.run(), name=f"attempt:{claim.task_id}/{claim.attempt}")
        self._attempts[claim.task_id] = (attempt, task)

        def ended(_: asyncio.Task[None]) -> None:
            self._attempts.pop(claim.task_id, None)
            self._bell.set()

        task.add_done_callback(ended)
