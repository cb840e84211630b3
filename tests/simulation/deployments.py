"""The deployer's lifecycle, as far as it is pure: one deployment that is started, dies, is stopped, rests and goes.

Its instances' intervals are charged by the meter like the tasks'; its auto-stop is the meter's deadline.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from finery_contracts.autostop import AutoStopFact
from finery_contracts.deployments import (
    DeploymentView,
    DeployRequest,
    InstanceEndedData,
    InstanceInterval,
    ServableModel,
)
from finery_contracts.envelope import Event
from finery_contracts.errors import Conflict, ErrorBody
from tests.simulation.domains import Domains
from tests.simulation.machinery import Bus, Crashed, Process, Tx
from tests.simulation.rules import Charge
from tests.simulation.world import SECOND, Violation, World

RESTARTS, WINDOW_S = 2, 40.0
NEXT = {
    "": {"deploying"},
    "deploying": {"running", "stopping", "failed"},
    "running": {"deploying", "stopping", "failed"},
    "stopping": {"stopped"},
    "stopped": {"deploying"},
    "failed": {"deploying"},
}
DIED = ErrorBody(code="engine_failed", message="the instance died")


@dataclass(frozen=True)
class Instance:
    """A process that serves, or is about to."""

    number: int
    created_us: int
    running_us: int | None = None
    ended: bool = False
    crashed: bool = False
    ended_at: datetime | None = None


class Deployer:
    """The owner of one deployment."""

    def __init__(self, world: World, bus: Bus, domains: Domains, charges: dict[str, Charge | None]) -> None:
        self.world, self.domain, self.charges = world, domains.deployer, charges
        self.process = Process(world, bus, "deployer")
        self.process.on_restart = self._recover
        self.state, self.version, self.deleted = "", 0, False
        self.ran_s = 0.0
        self.run_s = 0.0
        self.limit_s: int | None = None
        bus.listen(self.process, lambda event: type(event).NOUN == "autostop", self.on_deadline)

    @property
    def view(self) -> DeploymentView | None:
        """As it is stored."""
        return self.process.disk.get("deployment", {}).get("dep_1")

    @property
    def instances(self) -> dict[int, Instance]:
        """All there ever were."""
        return self.process.disk.setdefault("instance", {})

    def create(self, project: str, auto_stop_s: int | None) -> bool:
        """Somebody deploys a model."""
        self.limit_s = auto_stop_s
        request = DeployRequest(name="mine", model="mdl_1", flavour="gpu", auto_stop_s=auto_stop_s)
        model = ServableModel(
            id="mdl_1", project=project, name="m", openai_name=None, weights="", adapter=None, max_length=64
        )

        def work(tx: Tx) -> bool:
            if tx.get("deployment", "dep_1") is None and not self.deleted:
                made = self.domain.create(
                    request, model, deployment_id="dep_1", project=project, user="user", now=tx.now
                )
                self._save(tx, made)
                self._launch(tx)
            return True

        return self._write(work)

    def wish(self, what: str) -> bool:
        """Start, stop or delete; True when it was answered."""

        def work(tx: Tx) -> bool:
            view = tx.get("deployment", "dep_1")
            if view is None:
                return True
            try:
                decision = getattr(self.domain, what)(view)
            except Conflict:
                self._must(what == "delete" and self.state not in ("stopped", "failed"), f"{what} is refused")
                return True
            before = str(view.state)
            after = self._save(tx, decision)
            if what == "delete":
                tx.put("deployment", "dep_1", None)
            elif str(after.state) == "deploying" and before != "deploying":
                self._launch(tx)
            elif str(after.state) == "stopping" and before != "stopping":
                self.world.after(self.world.between(0.1, 1), self._drained)
            return True

        return self._write(work)

    def on_deadline(self, event: Event) -> None:
        """The meter says that its running time is used up, or soon will be."""
        if not isinstance(event, AutoStopFact) or event.data.noun != "deployment":
            return

        def work(tx: Tx) -> None:
            view = tx.get("deployment", "dep_1")
            if not tx.first_sight(event) or view is None:
                return
            if type(event).FACT == "warned":
                self._save(tx, self.domain.warn_of_auto_stop(view, event.data.due_at))
            elif str(view.state) in ("deploying", "running"):
                self._save(tx, self.domain.stop(view))
                self.world.after(0.5, self._drained)

        self._write(work)

    # --- instances ----------------------------------------------------------------------------------------------

    def _launch(self, tx: Tx) -> None:
        number = len(self.instances) + 1
        tx.put("instance", number, Instance(number, self.world.us))
        self.world.after(self.world.between(1, 4), self._ready, number)

    def _ready(self, number: int) -> None:
        instance = self.instances.get(number)
        if instance is None or instance.ended or not self._may(self._ready, number):
            return

        def work(tx: Tx) -> None:
            view = tx.get("deployment", "dep_1")
            if view is not None and str(view.state) == "deploying":
                tx.put("instance", number, Instance(number, instance.created_us, self.world.us))
                self._save(tx, self.domain.ready(view, tx.now, max_length=64))

        if self._tried(work, self._ready, number) and self.world.fault(0.5, 10):
            self.world.after(self.world.between(0.5, 20), self._dies, number)

    def _dies(self, number: int) -> None:
        instance = self.instances[number]
        if not instance.ended and self._may(self._dies, number):
            self._tried(lambda tx: self._ended(tx, instance, died=True), self._dies, number)

    def _drained(self) -> None:
        if self.view is None or str(self.view.state) != "stopping" or not self._may(self._drained):
            return

        def work(tx: Tx) -> None:
            for instance in self.instances.values():
                if not instance.ended:
                    self._ended(tx, instance, died=False)
            self._save(tx, self.domain.stopped(tx.get("deployment", "dep_1"), tx.now))

        self._tried(work, self._drained)

    def _ended(self, tx: Tx, instance: Instance, *, died: bool) -> None:
        began_us = instance.running_us
        running_s = (self.world.us - began_us) / SECOND if began_us is not None else 0.0
        place_us = began_us if began_us is not None else instance.created_us
        interval = InstanceInterval(
            instance=f"ins_{instance.number}", n=1, running_s=running_s, billed=began_us is not None,
            started_at=tx.now - timedelta(microseconds=self.world.us - place_us),
        )  # fmt: skip
        view = tx.get("deployment", "dep_1")
        tx.put("instance", instance.number, Instance(instance.number, place_us, began_us, True, died, tx.now))
        view = self._save(tx, self.domain.instance_ended(view, interval))
        if not died or str(view.state) == "stopping":
            return
        crashes = [one.ended_at for one in self.instances.values() if one.crashed and one.ended_at is not None]
        crashes.append(tx.now)
        again = self.domain.may_restart(crashes, tx.now, limit=RESTARTS, window_s=WINDOW_S)
        lately = sum(1 for crash in crashes if (tx.now - crash).total_seconds() < WINDOW_S)
        self._must(again == (lately <= RESTARTS), f"after {lately} crashes it is started again: {again}")
        if again:
            self._save(tx, self.domain.replace(view, DIED))
            self._launch(tx)
        else:
            self._save(tx, self.domain.fail(view, DIED, tx.now))

    # --- below --------------------------------------------------------------------------------------------------

    def _recover(self) -> None:
        """What it was about to do it does now."""
        for instance in list(self.instances.values()):
            if not instance.ended and instance.running_us is None:
                self.world.after(1.0, self._ready, instance.number)
        if self.view is not None and str(self.view.state) == "stopping":
            self.world.after(0.5, self._drained)

    def _may(self, do: Any, *given: Any) -> bool:
        if not self.process.up:
            self.world.after(1.0, do, *given)
        return self.process.up

    def _tried(self, work: Any, do: Any, *given: Any) -> bool:
        try:
            self._write(work)
        except Crashed:
            self.world.after(1.0, do, *given)
            return False
        return True

    def _write(self, work: Any) -> Any:
        return self.process.write(work, committed=self._judge)

    def _save(self, tx: Tx, decision: Any) -> Any:
        view, facts = decision
        before = tx.get("deployment", "dep_1")
        self._must(bool(facts) or view == before, "the deployment changed and nothing is said")
        tx.put("deployment", "dep_1", view)
        for fact in facts:
            tx.emit(fact.kind, "dep_1", version=fact.version, data=fact.data, project=view.project)
        return view

    def _judge(self, facts: list[Event]) -> None:
        for fact in facts:
            self._must(not self.deleted, "the deployment is told of after it was deleted")
            self._must(fact.nounversion == self.version + 1, f"deployment: v{fact.nounversion} after {self.version}")
            self.version = fact.nounversion
            view = fact.data.deployment if isinstance(fact.data, InstanceEndedData) else fact.data
            state = str(view.state)
            self._must(state == self.state or state in NEXT[self.state], f"deployment: {self.state} to {state}")
            if type(fact).FACT == "deleted":
                self._must(self.state in ("stopped", "failed"), f"deployment deleted while {self.state}")
                self.deleted = True
            self.state = state
            if isinstance(fact.data, InstanceEndedData):
                self._count(fact, view, fact.data.interval)

    def _count(self, fact: Event, view: DeploymentView, interval: InstanceInterval) -> None:
        source = f"instance:{interval.instance}:1"
        again = [charge for charge in self.charges.values() if charge is not None and charge.source == source]
        self._must(not again, f"{interval.instance} ended twice")
        costs = interval.billed and interval.running_s > 0
        self.charges[fact.id] = (
            Charge(source, view.project, interval.running_s, interval.started_at, 1) if costs else None
        )
        self.ran_s += interval.running_s
        self._must(abs(view.running_s - self.ran_s) < 1e-6, f"deployment ran {view.running_s} s, not {self.ran_s}")

    def _must(self, holds: bool, otherwise: str) -> None:
        if not holds:
            raise Violation(otherwise)


__all__ = ["Deployer"]
