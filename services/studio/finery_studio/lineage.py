"""What descends from what in a project: datasets, tasks and models as nodes, each edge from a source to what it made.

Read from what each view says of its own origin; it keeps no table of its own and so cannot disagree with the views.
Models and datasets name their sources themselves; tasks are in the picture to be seen, and lead nowhere else.
"""

from __future__ import annotations

import re
from collections import defaultdict, deque
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from sqlmodel import Session, col, select

from finery_contracts.datasets import DatasetView
from finery_contracts.jobs import TaskKind
from finery_contracts.lineage import Lineage, LineageEdge, LineageNode
from finery_contracts.models import ModelView
from finery_contracts.tasks import TaskView
from finery_studio.datasets import store as dataset_store
from finery_studio.datasets.store import DatasetRow
from finery_studio.models import store as model_store
from finery_studio.models.store import ModelRow
from finery_studio.tasks.store import TaskRow

MAX_NODES = 1_000
MAX_TASKS = 10_000
"""Newest first: so many are searched for those that use what is shown. Those that made it are found by their id."""
_ID = re.compile(r"(?:ds|mdl|task)_[0-9A-Za-z]+")
_LOOKS_ONLY = (TaskKind.VALIDATE, TaskKind.EVALUATE)
"""What stands in the result of such a task was there before."""
Edges = dict[tuple[str, str], str]


@dataclass
class Family:
    """All models and datasets of a project, deleted ones too, with the edges between them."""

    models: Mapping[str, ModelView]
    datasets: Mapping[str, DatasetView]
    edges: Edges = field(default_factory=Edges)

    def __post_init__(self) -> None:
        for view in (*self.models.values(), *self.datasets.values()):
            for source, role in _sources_of(view):
                if source != view.id:
                    self.edges.setdefault((source, view.id), role)

    def descendants(self, node: str) -> list[str]:
        """Models and datasets that come of it, over any number of steps, nearest first."""
        return self._reach(node, forward=True)

    def ancestors(self, node: str) -> list[str]:
        """Models and datasets that it comes of, nearest first."""
        return self._reach(node, forward=False)

    def _reach(self, start: str, *, forward: bool) -> list[str]:
        onward = defaultdict[str, list[str]](list)
        for source, target in self.edges:
            near, far = (source, target) if forward else (target, source)
            onward[near].append(far)
        seen, waiting = dict.fromkeys([start]), deque([start])
        while waiting:
            for found in onward[waiting.popleft()]:
                if found not in seen and (found in self.models or found in self.datasets):
                    seen[found] = None
                    waiting.append(found)
        return [found for found in seen if found != start]


def family_of(session: Session, project: str) -> Family:
    """What a project has."""
    models = {view.id: view for view in model_store.everything(session, project)}
    datasets = {view.id: view for view in dataset_store.everything(session, project)}
    return Family(models, datasets)


def ancestors_of(session: Session, view: ModelView | DatasetView) -> list[ModelView | DatasetView]:
    """What it comes of, deleted ones too, nearest first: read step by step by its ids, and nothing else of the project.

    The same as ``Family.ancestors``, for whoever asks at every birth and does not want to read everything.
    """
    seen, found, near = {view.id}, list[ModelView | DatasetView](), [view]
    while near:
        wanted = {source for child in near for source, _ in _sources_of(child)} - seen
        seen |= wanted
        near = _of_ids(session, view.project, wanted)
        found += near
    return found


def lineage_of(session: Session, project: str, start: str) -> Lineage:
    """The picture for one model or dataset of the project, by its id: up and down, and the tasks in between."""
    family = family_of(session, project)
    below = [start, *family.descendants(start)]
    wanted = dict.fromkeys([*below, *family.ancestors(start)])
    shown = set(list(wanted)[:MAX_NODES])
    tasks, searched = _tasks_of(session, project, family, shown=shown, used=shown & set(below))
    room = MAX_NODES - len(shown)
    nodes = [_noun(family, found) for found in shown] + [_task(task) for task in tasks[:room]]
    edges = family.edges | _edges_of(tasks[:room])
    there = {node.id for node in nodes}
    return Lineage(
        of=start, nodes=sorted(nodes, key=lambda node: node.id),
        edges=[
            LineageEdge(source=source, target=target, role=role)
            for (source, target), role in sorted(edges.items())
            if source in there and target in there
        ],
        complete=searched and len(wanted) <= MAX_NODES and len(tasks) <= room,
    )  # fmt: skip


def _sources_of(view: ModelView | DatasetView) -> Iterator[tuple[str, str]]:
    """What it says it was made of, and in which role."""
    if isinstance(view, ModelView):
        if view.base:
            yield view.base, "base"
        yield from ((source, role) for role, source in view.lineage.items())
    elif view.lineage is not None:
        yield from ((used.dataset, "source") for used in view.lineage.sources)
        yield from ((used.dataset, "reference") for used in view.lineage.references)


def _of_ids(session: Session, project: str, wanted: Iterable[str]) -> list[ModelView | DatasetView]:
    """Those of a project; what is no id of a model or dataset, such as a step, is passed over."""
    models = sorted(found for found in wanted if found.startswith("mdl_"))
    datasets = sorted(found for found in wanted if found.startswith("ds_"))
    views = list[ModelView | DatasetView]()
    if models:
        query = select(ModelRow.view).where(ModelRow.project == project, col(ModelRow.id).in_(models))
        views += [ModelView.model_validate_json(text) for text in session.exec(query.order_by(col(ModelRow.id)))]
    if datasets:
        query = select(DatasetRow.view).where(DatasetRow.project == project, col(DatasetRow.id).in_(datasets))
        views += [DatasetView.model_validate_json(text) for text in session.exec(query.order_by(col(DatasetRow.id)))]
    return views


def _tasks_of(
    session: Session, project: str, family: Family, *, shown: set[str], used: set[str]
) -> tuple[list[TaskView], bool]:
    """Tasks that made what is ``shown`` or took what is ``used``, newest first; False: older ones were not searched."""
    makers = {name for found in shown for name in _makers_of(family, found)}
    recent = select(TaskRow.id, TaskRow.view).where(TaskRow.project == project).order_by(col(TaskRow.id).desc())
    found, searched = dict[str, str](), 0
    for task_id, text in session.exec(recent.limit(MAX_TASKS + 1).execution_options(yield_per=500)):
        searched += 1
        if searched <= MAX_TASKS and (task_id in makers or not used.isdisjoint(_ID.findall(text))):
            found[task_id] = text
    for task_id in sorted(makers - found.keys(), reverse=True):
        row = session.get(TaskRow, task_id)
        if row is not None and row.project == project:
            found[task_id] = row.view
    views = (TaskView.model_validate_json(text) for text in found.values())
    taken = [view for view in views if view.id in makers or not used.isdisjoint(_ids_in(view.request))]
    return taken, searched <= MAX_TASKS


def _makers_of(family: Family, found: str) -> Iterable[str]:
    if found in family.models:
        return family.models[found].tasks
    view = family.datasets[found]
    return [task for task in (view.task, view.lineage.task if view.lineage else None) if task is not None]


def _edges_of(tasks: Iterable[TaskView]) -> Edges:
    edges = Edges()
    for task in tasks:
        made = set() if task.kind in _LOOKS_ONLY else set(_ids_in(task.result))
        for role, value in task.request.items():
            edges |= {(found, task.id): role for found in _ids_in(value) if found not in made}
        edges |= {(task.id, found): "made" for found in made}
    return edges


def _noun(family: Family, found: str) -> LineageNode:
    if found in family.models:
        model = family.models[found]
        return LineageNode(
            id=model.id, noun="model", name=model.name, state=model.state, number=model.number, origin=model.origin,
            withdrawn=bool(model.withdrawn_inputs),
        )  # fmt: skip
    view = family.datasets[found]
    return LineageNode(
        id=view.id, noun="dataset", name=view.name, state=view.state, content_sha256=view.content_sha256,
        origin=view.origin, withdrawn=view.withdrawn is not None or bool(view.withdrawn_inputs),
    )  # fmt: skip


def _task(task: TaskView) -> LineageNode:
    return LineageNode(id=task.id, noun="task", name=task.name, state=task.state)


def _ids_in(value: Any) -> Iterator[str]:
    """Every id of a noun in a value of any shape."""
    if isinstance(value, str):
        if _ID.fullmatch(value):
            yield value
    elif isinstance(value, Mapping):
        for inner in value.values():
            yield from _ids_in(inner)
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from _ids_in(inner)
