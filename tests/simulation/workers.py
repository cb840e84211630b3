"""Workers: they claim, beat, report, crash, freeze, are cut off, hang and come back late with news that nobody wants.

A worker is its own machine with its own monotonic time; it knows of studio only what it is answered.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from finery_contracts.errors import ErrorBody
from finery_contracts.jobs import CheckpointRef, Phase
from finery_contracts.tasks import EndReason
from finery_contracts.work import AttemptEnd, HeartbeatRequest, Report
from tests.simulation.machinery import Bus
from tests.simulation.rules import HEARTBEAT_S
from tests.simulation.studio import Studio
from tests.simulation.world import SECOND, World

CUT_OFF_S, TELL_AGAIN_S, REPORT_S, CHECKPOINT_S, LEAVE_S = 15.0, 10.0, 3.0, 4.0, 5.0
STEP_S = 0.5


@dataclass
class Work:
    """How much there is to do in a task, and how it goes; attempts share it."""

    steps: int
    mistake: bool = False
    hangs: bool = False
    crashes: int = 0


class Worker:
    """One slot of one worker service."""

    def __init__(self, world: World, bus: Bus, studio: Studio, name: str, works: dict[str, Work]) -> None:
        self.world, self.bus, self.studio, self.works = world, bus, studio, works
        self.name, self.life = name, 0
        self.idle = True
        self.working = True
        self.frozen_until_us = 0
        self.cut_until_us = 0
        self._requests = 0
        self.attempt: Attempt | None = None
        world.after(world.between(0, 1), self._look_for_work, 0)

    @property
    def host(self) -> str:
        """Another process has another name."""
        return f"{self.name}.{self.life}"

    @property
    def linked(self) -> bool:
        """Whether it reaches the bus."""
        return self.world.us >= self.cut_until_us and self.bus.up

    def crash(self) -> None:
        """Everything in it is gone; another one takes its place later."""
        self.world.trace(f"{self.host} dies")
        self.world.disturb(25)
        self.life += 1
        self.attempt = None
        self.world.after(self.world.between(1, 8), self._look_for_work, self.life)

    def freeze(self) -> None:
        """It stands still, and goes on as if nothing had been."""
        lasts_s = self.world.between(3, 30)
        self.world.trace(f"{self.host} freezes for {lasts_s:.3f} s")
        self.world.disturb(lasts_s + 15)
        self.frozen_until_us = self.world.us + round(lasts_s * SECOND)

    def cut_off(self) -> None:
        """It does not reach the bus for a while."""
        lasts_s = self.world.between(3, 30)
        self.world.trace(f"{self.host} is cut off for {lasts_s:.3f} s")
        self.world.disturb(lasts_s + 15)
        self.cut_until_us = self.world.us + round(lasts_s * SECOND)

    def leave(self) -> None:
        """It is to go in good order."""
        if self.attempt is not None:
            self.attempt.stop("leave")

    def awake(self, do: Callable[..., None], *given: Any) -> bool:
        """True when it may act; else it acts when it thaws."""
        if self.world.us >= self.frozen_until_us:
            return True
        self.world.after((self.frozen_until_us - self.world.us) / SECOND, do, *given)
        return False

    def ask(self, work: Callable[[], Any], answer: Callable[[Any], None]) -> None:
        """A request to studio, if it is reached."""
        if self.linked:
            self.bus.ask(self.studio.process, work, answer, timeout_s=HEARTBEAT_S)
        else:
            self.world.after(HEARTBEAT_S, answer, None)

    def free(self) -> None:
        """The attempt is over."""
        self.attempt = None
        self.world.after(0.2, self._look_for_work, self.life)

    def _look_for_work(self, life: int) -> None:
        if life != self.life or not self.working or not self.awake(self._look_for_work, life):
            return
        self._requests += 1
        self._ask_for_work(life, f"{self.host}/{self._requests}")

    def _ask_for_work(self, life: int, request_id: str) -> None:
        if life != self.life:
            return

        def answered(given: Any) -> None:
            if life != self.life or not self.working or not self.awake(answered, given):
                return
            if given is None:  # nothing to do, or no answer: the same request may be asked again
                again = self.world.rng.random() < 0.5
                self.world.after(1.0, self._ask_for_work if again else self._look_for_work, life, *[request_id][:again])
                return
            if self.attempt is None:
                self.attempt = Attempt(self, *given)

        self.ask(lambda: self.studio.claim(request_id, self.host), answered)


class Attempt:
    """An engine at work, and its keeper."""

    def __init__(self, worker: Worker, task_id: str, number: int, done: int) -> None:
        self.worker, self.world = worker, worker.world
        self.task_id, self.number, self.first = task_id, number, done
        self.life = worker.life
        self.work = worker.works[task_id]
        self.slow = self.world.rng.choice((1, 1, 1, 2))
        self.claimed_us = self.heard_us = self.world.us
        self.running_us: int | None = None
        self.moving_us = 0
        self.ended_us: int | None = None
        self.hung_us: int | None = None
        self.seq = 0
        self.stopping: str | None = None
        self.end: AttemptEnd | None = None
        self.told_us = 0
        prepares_s = self.world.between(1, 8)
        self.world.trace(f"{worker.host} begins {task_id}/{number} at step {done}")
        self.world.after(prepares_s, self._run)
        self.world.after(0.1, self._beat)

    @property
    def here(self) -> bool:
        """Whether it still is in its worker."""
        return self.worker.attempt is self and self.worker.life == self.life

    @property
    def running_s(self) -> float:
        """By the worker's monotonic clock."""
        if self.running_us is None:
            return 0.0
        lasted = (self.ended_us if self.ended_us is not None else self.world.us) - self.running_us
        return lasted / SECOND

    @property
    def step(self) -> int:
        """Steps done, those of earlier attempts included."""
        if self.running_us is None:
            return self.first
        until = self.hung_us if self.hung_us is not None else self.world.us
        return min(self.work.steps, self.first + int((until - self.moving_us) / SECOND / STEP_S / self.slow))

    def stop(self, why: str) -> None:
        """Save and end."""
        if self.stopping is None and self.end is None:
            self.stopping = why
            self.world.after(self.world.between(0.05, 0.8), self._stopped)

    def _run(self) -> None:
        if not self.here or self.end is not None or not self.worker.awake(self._run):
            return
        self.running_us = self.moving_us = self.world.us
        if self.work.hangs and self.world.rng.random() < 0.7:
            self.hung_us = self.world.us + round(self.world.between(3, 6) * SECOND)
            self.world.after(60, self._heal)
        if self.work.crashes > 0 and self.world.rng.random() < 0.8:
            self.work.crashes -= 1
            self.world.after(self.world.between(0.5, 9), self._crash)
        self._report()
        self.world.after(REPORT_S, self._snapshot)
        self._finish_later()

    def _finish_later(self) -> None:
        self.world.after((self.work.steps - self.first) * STEP_S * self.slow, self._done)

    def _heal(self) -> None:
        if self.here and self.end is None and self.hung_us is not None:
            self.first = self.step
            self.hung_us, self.moving_us = None, self.world.us
            self._finish_later()

    def _snapshot(self) -> None:
        if self.here and self.end is None and self.worker.awake(self._snapshot):
            self._report()
            self.world.after(REPORT_S, self._snapshot)

    def _done(self) -> None:
        if not self.here or self.end is not None or self.hung_us is not None or not self.worker.awake(self._done):
            return
        if self.work.mistake:
            self._conclude(EndReason.USER_MISTAKE, "bad_record")
        else:
            self._conclude(EndReason.SUCCEEDED)

    def _crash(self) -> None:
        if self.here and self.end is None and self.worker.awake(self._crash):
            self._conclude(EndReason.CRASHED, "engine_failed")

    def _stopped(self) -> None:
        if not self.here or self.end is not None or not self.worker.awake(self._stopped):
            return
        if self.stopping == "leave":
            self._conclude(EndReason.LOST, "worker_left")
        elif self.stopping == "cut_off":
            self._conclude(EndReason.LOST, "cut_off")
        elif self.world.rng.random() < 0.15:
            self._conclude(EndReason.CRASHED, "engine_failed")
        else:
            self._conclude(EndReason.TERMINATED)

    def _conclude(self, reason: EndReason, code: str | None = None) -> None:
        self.ended_us = self.world.us
        error = ErrorBody(code=code, message=code) if code is not None else None
        self.end = AttemptEnd(reason=reason, error=error)
        self.told_us = self.world.us
        self.world.trace(f"{self.worker.host} ends {self.task_id}/{self.number}: {reason} after {self.running_s} s")
        self._report()

    def _report(self) -> None:
        self.seq += 1
        kept_every = int(CHECKPOINT_S / STEP_S)
        kept = range(kept_every * (self.first // kept_every + 1), self.step + 1, kept_every)
        runs = self.running_us is not None
        prepared_us = (self.running_us if self.running_us is not None else self.world.us) - self.claimed_us
        news = Report(
            task_id=self.task_id, attempt=self.number, project="", worker=self.worker.host, seq=self.seq,
            phase=Phase.RUNNING if runs else Phase.PREPARING, preparing_s=prepared_us / SECOND,
            running_s=self.running_s, checkpoints=[CheckpointRef(step=step, path=f"{step}") for step in kept],
            end=self.end,
        )  # fmt: skip
        if self.worker.linked:
            self.worker.bus.send(self.worker.studio.process, self.worker.studio.on_report, news)

    def _beat(self) -> None:
        if not self.here or not self.worker.awake(self._beat):
            return
        quiet_s = (self.world.us - self.hung_us) / SECOND if self.hung_us is not None else 0.0
        beat = HeartbeatRequest(
            task_id=self.task_id, attempt=self.number, worker=self.worker.host, quiet_s=max(0.0, quiet_s),
            median_step_s=STEP_S if self.running_us is not None else None,
        )  # fmt: skip
        self.worker.ask(lambda: self.worker.studio.heartbeat(beat), self._answered)

    def _answered(self, answer: Any) -> None:
        if not self.here or not self.worker.awake(self._answered, answer):
            return
        if answer is not None:
            self.heard_us = self.world.us
            if answer[0] == "abandon":
                self.world.trace(f"{self.worker.host} abandons {self.task_id}/{self.number}")
                self.worker.free()
                return
            if answer[0] != "continue":
                self.stop("stop")
        elif self.world.us - self.heard_us > CUT_OFF_S * SECOND:
            self.stop("cut_off")
        if self.end is not None and self._handed_over():
            return
        wait_s = HEARTBEAT_S if self.end is None else 0.3
        self.world.after(wait_s, self._beat)

    def _handed_over(self) -> bool:
        """The end is told again until studio has taken it."""
        waited_s = (self.world.us - self.told_us) / SECOND
        if self.stopping == "leave" and waited_s > LEAVE_S:
            self.worker.free()
            return True
        if waited_s > TELL_AGAIN_S:
            self.told_us = self.world.us
            self._report()
        return False
