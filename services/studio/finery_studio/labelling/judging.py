"""Judges: a model says of many records at once what a labeller would say of each. It takes no person's place."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from pydantic import Field

from finery_contracts.access import Actor
from finery_contracts.errors import Conflict, InvalidRequest
from finery_contracts.jobs import JudgeOutput, JudgeSpec, TaskKind
from finery_contracts.labelling import LabellingState, LabelMode, Verdict
from finery_contracts.options import TaskOptions
from finery_contracts.tasks import TaskState, TaskView
from finery_kit.db import Transaction
from finery_studio.labelling import domain, handlers, store
from finery_studio.labelling.store import JudgementRow
from finery_studio.models import store as model_store
from finery_studio.models.handlers import ModelDesk
from finery_studio.tasks.submit import NewTask, submit

AT_ONCE = 5000
"""Records of one task: what it says must fit into a fact."""


class JudgeRequest(TaskOptions):
    """``POST /api/v1/tasks`` with kind judge."""

    kind: Literal["judge"]
    labelling: str = Field(description="id or name of an open labelling of mode like or pair")
    model: str = Field(description="model that judges: id or name, or a gallery id; a reward model scores")
    records: int = Field(default=1000, ge=1, le=AT_ONCE, description="so many of those it has not judged yet")
    margin: float = Field(default=0.05, ge=0, le=1, description="pair: a preference nearer to even than this is a tie")
    batch_size: int = Field(default=8, ge=1, le=256)


@dataclass(frozen=True)
class Judging:
    """Makes judge tasks, and takes down what came of them."""

    models: ModelDesk

    def judge(self, tx: Transaction, asked: JudgeRequest, actor: Actor) -> TaskView:
        """Submit one.

        Raises:
            Conflict: the labelling is closed, or this judge has judged all of it.
            InvalidRequest: nobody can judge texts that are still to be written.
        """
        row = store.row_of(tx.session, actor.project, asked.labelling)
        view = store.view_of(row)
        if view.state is not LabellingState.OPEN:
            raise Conflict(f"labelling {view.name} is {view.state}; it takes no more verdicts", code="labelling_closed")
        if view.mode is LabelMode.WRITE:
            raise InvalidRequest(
                f"labelling {view.name} asks for written answers; a judge compares or likes", code="not_supported",
                param="labelling",
            )  # fmt: skip
        handlers.sources_of(tx.session, view)
        model, needs = self.models.for_use(tx, asked.model, actor)
        had = {one.record for one in store.judgements(tx.session, row.id) if one.labeller == _name(model.id)}
        order = (
            domain.place_of(turn, records=view.records, total=row.total, seed=view.seed) for turn in range(view.records)
        )
        places = sorted([place for place in order if place not in had][: asked.records])
        if not places:
            raise Conflict(f"{model.name} has judged all records of {view.name}", code="nothing_to_judge")
        request: dict[str, Any] = {
            "labelling": view.id, "model": model.id, "model_name": model.name, "records": places,
            "margin": asked.margin, "batch_size": asked.batch_size,
        }  # fmt: skip
        new = NewTask(
            TaskKind.JUDGE, f"judge-{view.name}", request, asked, needs=needs, result={"labelling": view.id},
            model_parameters=self.models.size_of(model),
        )  # fmt: skip
        return submit(tx, new, actor, self.models.specs)

    def judge_spec(self, tx: Transaction, task: TaskView) -> JudgeSpec:
        """The engine's spec."""
        row = store.row_of(tx.session, task.project, task.request["labelling"])
        view = store.view_of(row)
        model = self.models.servable(model_store.load(tx.session, task.project, task.request["model"]))
        return JudgeSpec(
            model=model.weights, adapter=model.adapter, dataset=row.content, against=row.against,
            mode="pair" if view.mode is LabelMode.PAIR else "like", guidelines=view.guidelines,
            **{name: task.request[name] for name in ("records", "margin", "batch_size")},
        )  # fmt: skip


def on_judge_ended(tx: Transaction, task: TaskView) -> dict[str, str]:
    """What it said is taken down, unless the labelling has gone meanwhile; said again, it replaces."""
    row = tx.session.get(store.LabellingRow, task.request["labelling"], with_for_update=True)
    if task.state is not TaskState.SUCCEEDED or not isinstance(task.output, JudgeOutput):
        return {}
    if row is None or row.state == LabellingState.DELETED:
        return {}
    judge = _name(task.request["model"])
    store.add_judgements(tx, [
        JudgementRow(
            labelling=row.id, record=record, labeller=judge, turn=0, state="judged", judge=True,
            verdict=Verdict(verdict), at=tx.now,
        )
        for verdict, records in task.output.verdicts.items() for record in records
    ])  # fmt: skip
    return {}


def _name(model: str) -> str:
    """A labeller that no user can be named like."""
    return f"model:{model}"
