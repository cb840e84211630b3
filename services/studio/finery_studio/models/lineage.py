"""What descends from what in a project: datasets, tasks and models as nodes, each edge from a source to what it made.

Read from what each view says of its own origin; it keeps no table of its own and so cannot disagree with the views.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from sqlmodel import Session, col, select

from finery_contracts.datasets import DatasetView
from finery_contracts.jobs import TaskKind
from finery_contracts.model import Record
from finery_contracts.models import ModelView
from finery_contracts.tasks import TaskView
from finery_studio.datasets import store as dataset_store
from finery_studio.models import store
from finery_studio.tasks.store import TaskRow, view_of

MAX_TASKS = 10_000
"""Newest first; of a project with more, the oldest tasks are left out of the picture, models and datasets never."""
_NOUNS = ("ds_", "mdl_", "task_")


class Node(Record):
    """A dataset, task or model."""

    id: str
    noun: Literal["dataset", "task", "model"]
    name: str
    state: str
    number: int | None = None
    content_sha256: str | None = None
    withdrawn: bool = False


class Edge(Record):
    """From a source to what was made of it."""

    source: str
    target: str
    role: str


class Lineage(Record):
    """Everything that a model comes from, and everything that came of it."""

    model: str
    nodes: list[Node]
    edges: list[Edge]


@dataclass
class Family:
    """All nouns of a project with their edges."""

    models: Mapping[str, ModelView]
    datasets: Mapping[str, DatasetView]
    tasks: Mapping[str, TaskView] = field(default_factory=dict)
    edges: dict[tuple[str, str], str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for model in self.models.values():
            if model.base:
                self.edges[model.base, model.id] = "base"
            for role, value in model.lineage.items():
                for found in _ids_in(value):
                    self.edges.setdefault((found, model.id), role)
        for dataset in self.datasets.values():
            for found in _ids_in(getattr(dataset, "lineage", None)):
                self.edges.setdefault((found, dataset.id), "source")
            if dataset.task:
                self.edges.setdefault((dataset.task, dataset.id), "task")
        for task in self.tasks.values():
            made = set() if task.kind in (TaskKind.VALIDATE, TaskKind.EVALUATE) else set(_ids_in(task.result))
            for role, value in task.request.items():
                for found in _ids_in(value):
                    if found not in made:
                        self.edges.setdefault((found, task.id), role)
            for found in made:
                self.edges.setdefault((task.id, found), "made")

    def descendants(self, node: str) -> set[str]:
        """Models and datasets that come of it, over any number of steps."""
        return self._reach(node, forward=True)

    def ancestors(self, node: str) -> set[str]:
        """Models and datasets that it comes of."""
        return self._reach(node, forward=False)

    def _reach(self, start: str, *, forward: bool) -> set[str]:
        onward = defaultdict[str, list[str]](list)
        for source, target in self.edges:
            near, far = (source, target) if forward else (target, source)
            onward[near].append(far)
        seen, waiting = {start}, [start]
        while waiting:
            for found in onward[waiting.pop()]:
                if found not in seen:
                    seen.add(found)
                    waiting.append(found)
        return seen - {start}


def family_of(session: Session, project: str, *, with_tasks: bool = False) -> Family:
    """What a project has; tasks only for the picture, since models and datasets name their sources themselves."""
    tasks = dict[str, TaskView]()
    if with_tasks:
        query = select(TaskRow).where(TaskRow.project == project).order_by(col(TaskRow.id).desc()).limit(MAX_TASKS)
        tasks = {row.id: view_of(row) for row in session.exec(query)}
    models = {view.id: view for view in store.everything(session, project)}
    datasets = {view.id: view for view in dataset_store.everything(session, project)}
    return Family(models, datasets, tasks)


def lineage_of(session: Session, project: str, ref: str) -> Lineage:
    """The picture for one model, up and down.

    Raises:
        NotFound: this project has none.
    """
    model = store.load(session, project, ref)
    family = family_of(session, project, with_tasks=True)
    shown = {model.id} | family.ancestors(model.id) | family.descendants(model.id)
    nodes = [node for found in sorted(shown) if (node := _node(family, found)) is not None]
    there = {node.id for node in nodes}
    edges = [
        Edge(source=source, target=target, role=role)
        for (source, target), role in sorted(family.edges.items())
        if source in there and target in there
    ]
    return Lineage(model=model.id, nodes=nodes, edges=edges)


def _node(family: Family, found: str) -> Node | None:
    if found in family.models:
        model = family.models[found]
        flagged = bool(model.withdrawn_inputs)
        return Node(
            id=model.id, noun="model", name=model.name, state=model.state, number=model.number, withdrawn=flagged
        )
    if found in family.datasets:
        view = family.datasets[found]
        flagged = view.withdrawn is not None or bool(view.withdrawn_inputs)
        return Node(
            id=view.id, noun="dataset", name=view.name, state=view.state, content_sha256=view.content_sha256,
            withdrawn=flagged,
        )  # fmt: skip
    task = family.tasks.get(found)
    return Node(id=task.id, noun="task", name=task.name, state=task.state) if task else None


def _ids_in(value: Any) -> Iterator[str]:
    """Every id of a noun in a value of any shape."""
    if isinstance(value, str):
        if value.startswith(_NOUNS):
            yield value
    elif isinstance(value, Record):
        yield from _ids_in(value.model_dump())
    elif isinstance(value, Mapping):
        for inner in value.values():
            yield from _ids_in(inner)
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from _ids_in(inner)
