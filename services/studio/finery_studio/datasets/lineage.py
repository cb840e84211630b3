"""What a dataset comes from and what came of it: datasets, tasks and models as nodes, each edge from a source to what
was made of it. Read from what each view says of itself; it keeps no table of its own."""

from __future__ import annotations

from collections.abc import Iterable

from sqlmodel import Session, col, select

from finery_contracts.datasets import DatasetView
from finery_contracts.lineage import DatasetGraph, LineageEdge, LineageNode
from finery_contracts.models import ModelView
from finery_contracts.tasks import TaskView
from finery_studio.datasets import store
from finery_studio.models.store import ModelRow
from finery_studio.tasks.store import TaskRow, view_of

MAX_NODES = 1_000
View = DatasetView | TaskView | ModelView


def lineage_of(session: Session, project: str, ref: str) -> DatasetGraph:
    """Up to whatever it was made of, down to whatever was made of it.

    Raises:
        NotFound: this project has none.
    """
    start = store.load(session, project, ref).id
    nodes, edges = dict[str, LineageNode](), dict[tuple[str, str], str]()
    complete = True
    for downward in (False, True):
        waiting, seen = [start], set[str]()
        while waiting:
            found = waiting.pop(0)
            if found in seen:
                continue
            if len(nodes) >= MAX_NODES:
                complete = False
                break
            seen.add(found)
            node = _node(session, project, found)
            if node is None:
                continue
            nodes[found] = node
            for source, target, role in _edges(session, project, found, downward=downward):
                edges[source, target] = role
                waiting.append(target if downward else source)
    shown = [
        LineageEdge(source=a, target=b, role=role)
        for (a, b), role in sorted(edges.items())
        if a in nodes and b in nodes
    ]
    return DatasetGraph(dataset=start, nodes=[nodes[key] for key in sorted(nodes)], edges=shown, complete=complete)


def _edges(session: Session, project: str, found: str, *, downward: bool) -> Iterable[tuple[str, str, str]]:
    rows = _mentioning(session, project, found) if downward else _itself(session, found)
    for view in rows:
        for source, role in _sources_of(view):
            if not downward or source == found:
                yield source, view.id, role


def _sources_of(view: View) -> Iterable[tuple[str, str]]:
    """What something says it was made of, and in which role."""
    if isinstance(view, DatasetView):
        if view.lineage is not None:
            if view.lineage.task is not None:
                yield view.lineage.task, view.lineage.part
            yield from ((used.dataset, "source") for used in view.lineage.sources)
            yield from ((used.dataset, "reference") for used in view.lineage.references)
        return
    if isinstance(view, ModelView):
        yield from ((source, role) for role, source in view.lineage.items())
        if view.base:
            yield view.base, "base"
        return
    request = view.request
    for role in ("dataset", "validation", "model"):
        if isinstance(request.get(role), str) and view.result.get(role) != request[role]:
            yield request[role], role
    for role in ("datasets", "references"):
        yield from ((source, role.removesuffix("s")) for source in request.get(role, ()))


def _itself(session: Session, found: str) -> list[View]:
    dataset = session.get(store.DatasetRow, found)
    if dataset is not None:
        return [DatasetView.model_validate_json(dataset.view)]
    task = session.get(TaskRow, found)
    if task is not None:
        return [view_of(task)]
    model = session.get(ModelRow, found)
    return [ModelView.model_validate_json(model.view)] if model is not None else []


def _mentioning(session: Session, project: str, found: str) -> list[View]:
    """Everything whose view holds this id; what it is there for is looked at afterwards."""
    datasets = select(store.DatasetRow.view).where(
        store.DatasetRow.project == project, col(store.DatasetRow.view).contains(found)
    )
    tasks = select(TaskRow).where(TaskRow.project == project, col(TaskRow.view).contains(found))
    models = select(ModelRow.view).where(ModelRow.project == project, col(ModelRow.view).contains(found))
    return [
        *(DatasetView.model_validate_json(view) for view in session.exec(datasets)),
        *(view_of(row) for row in session.exec(tasks)),
        *(ModelView.model_validate_json(view) for view in session.exec(models)),
    ]


def _node(session: Session, project: str, found: str) -> LineageNode | None:
    for view in _itself(session, found):
        if view.project != project:
            return None
        noun = {DatasetView: "dataset", TaskView: "task", ModelView: "model"}[type(view)]
        digest = view.content_sha256 if isinstance(view, DatasetView) else None
        return LineageNode.model_validate(
            {"id": view.id, "noun": noun, "name": view.name, "state": str(view.state), "content_sha256": digest}
        )
    return None
