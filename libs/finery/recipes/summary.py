"""What a recipe shows at its end: accuracies, tasks with time and cost, webhooks, the trace as a tree."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.tree import Tree

from finery.resources.tasks import SpanView, Trace

NOISE = ("publish ", "process ")


@dataclass
class TaskRow:
    """One task in the table."""

    step: str
    task: str
    state: str
    seconds: float
    running_s: float
    cost: str


@dataclass
class Summary:
    """Everything a recipe measured."""

    accuracy_before: float
    accuracy_after: float
    goal: float
    tasks: list[TaskRow]
    total_cost: str
    currency: str
    webhooks_verified: int
    webhooks_refused: int
    answers: list[dict[str, str]]
    trace_id: str
    seconds: float
    model: str
    spans: Sequence[SpanView] = field(default_factory=list[SpanView])

    @property
    def good(self) -> bool:
        """True when the goal was reached and every signature was right."""
        return self.accuracy_after >= self.goal and self.webhooks_verified > 0 and self.webhooks_refused == 0

    def as_json(self) -> dict[str, Any]:
        """For ``--json``."""
        plain = asdict(self)
        plain["spans"] = [{"service": s.service, "name": s.name} for s in self.spans]
        return {"good": self.good, **plain}


def show(console: Console, summary: Summary) -> None:
    """Print it."""
    console.print(_tree(summary))
    console.print(_tasks(summary))
    table = Table(title="Result", show_header=False)
    table.add_row("held-out accuracy before", f"{summary.accuracy_before:.3f}")
    table.add_row("held-out accuracy after", f"[bold]{summary.accuracy_after:.3f}[/] (goal {summary.goal})")
    table.add_row("model", summary.model)
    table.add_row("webhook deliveries", f"{summary.webhooks_verified} received and verified")
    table.add_row("refused signatures", str(summary.webhooks_refused))
    table.add_row("cost of this run", f"{summary.total_cost} {summary.currency}")
    table.add_row("time", f"{summary.seconds:.0f} s")
    console.print(table)


def _tasks(summary: Summary) -> Table:
    table = Table(title="Tasks")
    for column in ("step", "task", "state", "time s", "billed s", f"cost {summary.currency}"):
        table.add_column(column, justify="right" if column.endswith((" s", summary.currency)) else "left")
    for row in summary.tasks:
        table.add_row(row.step, row.task, row.state, f"{row.seconds:.1f}", f"{row.running_s:.1f}", row.cost)
    return table


def _tree(summary: Summary) -> Tree:
    """The trace as a tree; publish and process spans only where something hangs below them."""
    children: dict[str | None, list[SpanView]] = {}
    known = {span.span_id for span in summary.spans}
    for span in summary.spans:
        children.setdefault(span.parent_id if span.parent_id in known else None, []).append(span)
    tree = Tree(f"Trace {summary.trace_id} of the tuning job")

    def matters(span: SpanView) -> bool:
        return not span.name.startswith(NOISE) or any(matters(child) for child in children.get(span.span_id, []))

    def grow(branch: Tree, parent: str | None) -> None:
        for span in children.get(parent, []):
            if matters(span):
                took = (span.end_ns - span.start_ns) / 1e6
                service = (span.service or "").removeprefix("finery-")
                grow(branch.add(f"[cyan]{service}[/] {escape(span.name)} [dim]{took:,.0f} ms[/]"), span.span_id)

    grow(tree, None)
    return tree


def trace_of(trace: Trace) -> Sequence[SpanView]:
    """Its spans, by start."""
    return sorted(trace.spans, key=lambda span: span.start_ns)
