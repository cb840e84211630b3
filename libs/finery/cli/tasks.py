"""finery tasks: what runs, ran and waits."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape

from finery.cli.command import Columns, Shell, UserMistake, command

if TYPE_CHECKING:
    from rich.tree import Tree

    from finery.resources.tasks import SpanView
    from finery_contracts.tasks import TaskView

group = typer.Typer(help="Tasks: ingest, prepare, count, import, validate, tune, evaluate.", no_args_is_help=True)
Task = Annotated[str, typer.Argument(help="A task's id.")]
COLUMNS: Columns = {
    "id": lambda t: t.id, "kind": lambda t: t.kind, "name": lambda t: t.name, "state": lambda t: t.state,
    "step": lambda t: f"{t.progress.step}/{t.progress.total}" if t.progress.total else "",
    "waits": lambda t: t.why_waiting, "created": lambda t: f"{t.created_at:%Y-%m-%d %H:%M:%S}",
}  # fmt: skip
BLOCKS = "▁▂▃▄▅▆▇█"
WIDTH = 72


@command(group, "list", example="finery tasks list --state running")
def list_tasks(
    shell: Shell,
    kind: Annotated[str | None, typer.Option(help="Only this kind.")] = None,
    state: Annotated[str | None, typer.Option(help="Only in this state.")] = None,
    search: Annotated[str | None, typer.Option(help="Part of the name.")] = None,
    pool: Annotated[str | None, typer.Option(help="Only in this pool (its id).")] = None,
    user: Annotated[str | None, typer.Option(help="Only this user's.")] = None,
    sort: Annotated[
        str, typer.Option(help="created, name, state or priority; - before it turns it round.")
    ] = "-created",
    limit: Annotated[int, typer.Option(min=1, max=100)] = 20,
    after: Annotated[str | None, typer.Option(help="`next` of the page before.")] = None,
) -> None:
    """List tasks, newest first."""
    with shell.finery as finery:
        page = finery.tasks.list(
            kind=kind, state=state, search=search, pool=pool, user=user, sort=sort, limit=limit, after=after
        )
        shell.many(page.data, COLUMNS)


@command(group, "show", example="finery tasks show task_01k…")
def show(shell: Shell, task: Task) -> None:
    """Show everything about a task."""
    with shell.finery as finery:
        shell.one(finery.tasks.get(task))


@command(group, "submit", example="finery tasks submit --file tune.json --watch")
def submit(
    shell: Shell,
    file: Annotated[Path, typer.Option("--file", "-f", help="JSON as POST /api/v1/tasks takes it.")],
    watch_it: Annotated[bool, typer.Option("--watch", help="Follow it to its end.")] = False,
) -> None:
    """Start a task from a file."""
    try:
        body = json.loads(file.read_text("utf-8"))
    except json.JSONDecodeError as fault:
        raise UserMistake(f"{file} is not JSON: line {fault.lineno}: {fault.msg}") from fault
    with shell.finery as finery:
        made = finery.tasks.submit(body)
    follow(shell, made.id) if watch_it else shell.one(made)


@command(group, "watch", example="finery tasks watch task_01k…")
def watch(shell: Shell, task: Task) -> None:
    """Follow a task to its end; the exit status is 0 only if it succeeded."""
    follow(shell, task)


@command(group, "terminate", example="finery tasks terminate task_01k…")
def terminate(shell: Shell, task: Task) -> None:
    """Stop a task; the last checkpoint is kept."""
    with shell.finery as finery:
        shell.one(finery.tasks.terminate(task))


@command(group, "pause", example="finery tasks pause task_01k…")
def pause(shell: Shell, task: Task) -> None:
    """Let a task rest; its last checkpoint is kept and nothing is billed."""
    with shell.finery as finery:
        shell.one(finery.tasks.pause(task))


@command(group, "resume", example="finery tasks resume task_01k…")
def resume(shell: Shell, task: Task) -> None:
    """Let a paused task go on from its last checkpoint."""
    with shell.finery as finery:
        shell.one(finery.tasks.resume(task))


@command(group, "settings", example="finery tasks settings task_01k… > tune.json")
def settings(shell: Shell, task: Task) -> None:
    """Print what a task was submitted with, as JSON to edit and submit."""
    with shell.finery as finery:
        found = finery.tasks.settings(task)
    print(json.dumps(found, indent=None if shell.as_json else 2, ensure_ascii=False))


@command(group, "copy", example="finery tasks copy task_01k… --set priority=80 --set 'options={\"epochs\": 2}'")
def copy(
    shell: Shell,
    task: Task,
    edits: Annotated[list[str] | None, typer.Option("--set", help="NAME=VALUE to replace; JSON or text.")] = None,
    watch_it: Annotated[bool, typer.Option("--watch", help="Follow it to its end.")] = False,
) -> None:
    """Start a new task with the settings of another."""
    with shell.finery as finery:
        made = finery.tasks.copy(task, dict(map(_edit, edits or [])))
    follow(shell, made.id) if watch_it else shell.one(made)


@command(group, "delete", example="finery tasks delete task_01k… --confirm DELETE")
def delete(
    shell: Shell, task: Task, confirm: Annotated[str, typer.Option(help="Say DELETE: it cannot be undone.")] = ""
) -> None:
    """Remove a task that has ended."""
    if confirm != "DELETE":
        raise UserMistake("deleting a task cannot be undone: say --confirm DELETE")
    with shell.finery as finery:
        finery.tasks.delete(task)
    shell.one({"id": task, "deleted": True})


@command(group, "metrics", example="finery tasks metrics task_01k…")
def metrics(shell: Shell, task: Task, name: Annotated[str, typer.Option(help="Which curve.")] = "loss") -> None:
    """Show a curve; --json prints every point."""
    with shell.finery as finery:
        points = finery.tasks.metrics(task).data
    if shell.as_json:
        shell.many(points, {})
        return
    curve = [(p.step, p.values[name]) for p in points if name in p.values]
    if not curve:
        names = sorted({n for p in points for n in p.values})
        raise UserMistake(f"task {task} has no curve {name!r}; it has {', '.join(names) or 'none yet'}")
    shell.say(f"{name}: {curve[0][1]:.4g} at step {curve[0][0]} → {curve[-1][1]:.4g} at step {curve[-1][0]}")
    shell.say(spark([value for _, value in curve]))


@command(group, "history", example="finery tasks history task_01k…")
def history(shell: Shell, task: Task) -> None:
    """Show everything that was ever said of a task, by whoever said it."""
    from finery.cli.reading import EVENT_COLUMNS

    with shell.finery as finery:
        shell.many([*finery.events.since(noun=task)], EVENT_COLUMNS)


@command(group, "artefact", example="finery tasks artefact task_01k… out/samples.jsonl > samples.jsonl")
def artefact(
    shell: Shell,
    task: Task,
    path: Annotated[str, typer.Argument(help="A file the task left, such as out/samples.jsonl.")],
) -> None:
    """Write a file that a task left to standard output: samples of an evaluation, the report of an ingest, the log."""
    with shell.finery as finery:
        sys.stdout.buffer.write(finery.tasks.artefact(task, path))


@command(group, "trace", example="finery tasks trace task_01k…")
def trace(shell: Shell, task: Task) -> None:
    """Show the trace of a task as a tree, from the request to the webhook."""
    with shell.finery as finery:
        found = finery.tasks.trace(task)
    if shell.as_json:
        shell.one(found)
        return
    shell.console.print(tree_of(found.trace_id, found.spans))


def follow(shell: Shell, task_id: str) -> TaskView:
    """A progress bar, or with --json a line whenever something changed."""
    from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    last: tuple[object, ...] = ()
    with shell.finery as finery, Progress(*columns, console=shell.console, disable=shell.as_json) as bars:
        bar = bars.add_task(task_id, total=None)

        def on_progress(task: TaskView) -> None:
            nonlocal last
            news = task.progress
            loss = f" loss {news.metrics['loss']:.4g}" if "loss" in news.metrics else ""
            left = f", {news.eta_s:.0f} s left" if news.eta_s else ""
            text = f"{task.kind} {escape(task.why_waiting or task.state)} {news.step}/{news.total}{loss}{left}"
            bars.update(bar, description=text, total=news.total or None, completed=news.step)
            if shell.as_json and last != (task.state, news.step):
                print(task.model_dump_json(), flush=True)
            last = (task.state, news.step)

        done = finery.tasks.wait(task_id, on_progress=on_progress)
    shell.say(f"[green]{done.kind} {done.state}[/] {escape(str(done.result or ''))}")
    return done


def _edit(text: str) -> tuple[str, object]:
    name, equals, value = text.partition("=")
    if not equals or not name:
        raise UserMistake(f"--set {text}: say NAME=VALUE, such as priority=80")
    try:
        return name, json.loads(value)
    except json.JSONDecodeError:
        return name, value


def spark(values: list[float]) -> str:
    """A curve in one line of blocks, the mean of each slice."""
    size = max(1, len(values) / WIDTH)
    slices = [
        values[int(n * size) : max(int(n * size) + 1, int((n + 1) * size))] for n in range(min(WIDTH, len(values)))
    ]
    means = [sum(part) / len(part) for part in slices if part]
    low, high = min(means), max(means)
    return "".join(BLOCKS[int((m - low) / ((high - low) or 1) * (len(BLOCKS) - 1))] for m in means)


def tree_of(trace_id: str, spans: list[SpanView]) -> Tree:
    """Spans below their parents."""
    from rich.tree import Tree

    known = {span.span_id for span in spans}
    tree = Tree(trace_id)

    def grow(branch: Tree, parent: str | None) -> None:
        for span in spans:
            if (span.parent_id if span.parent_id in known else None) == parent:
                took = (span.end_ns - span.start_ns) / 1e6
                service = (span.service or "").removeprefix("finery-")
                grow(branch.add(f"[cyan]{service}[/] {escape(span.name)} [dim]{took:,.0f} ms[/]"), span.span_id)

    grow(tree, None)
    return tree
