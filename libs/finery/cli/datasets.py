"""finery datasets: data in, with a report of every bad record."""

from __future__ import annotations

import json
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from finery.cli.command import Columns, Shell, UserMistake, command
from finery.cli.tasks import follow

if TYPE_CHECKING:
    from finery_contracts.datasets import DatasetView

group = typer.Typer(
    help="Datasets: upload, report, preview, statistics, cleanse, mix, split, count.", no_args_is_help=True
)
Dataset = Annotated[str, typer.Argument(help="A dataset's id or name.")]
Format = Literal[
    "auto", "openai", "moss", "csv", "xlsx", "alpaca", "sharegpt", "preference", "feedback", "answer", "text"
]
"""As contracts name them; importing them from there would make the help wait for pydantic."""
FormatOption = Annotated[Format, typer.Option("--format", help="Default: detected by content.")]
SkipBad = Annotated[bool, typer.Option(help="Leave bad records out instead of failing.")]
Ceiling = Annotated[float, typer.Option(min=0, max=1, help="The share of bad records that may be left out.")]
COLUMNS: Columns = {
    "id": lambda d: d.id, "name": lambda d: d.name, "state": lambda d: d.state, "format": lambda d: d.format,
    "records": lambda d: d.records, "bad": lambda d: d.bad_records, "bytes": lambda d: f"{d.size_bytes:,}",
    "flags": lambda d: "withdrawn input" if d.withdrawn_inputs else "",
}  # fmt: skip
REPORT_COLUMNS: Columns = {
    "line": lambda r: r.line, "row": lambda r: r.row, "record": lambda r: r.record, "field": lambda r: r.field,
    "code": lambda r: r.code, "reason": lambda r: r.reason, "remedy": lambda r: r.remedy,
}  # fmt: skip
PREVIEW_COLUMNS: Columns = {
    "line": lambda r: r.line,
    "record": lambda r: "\n".join([*_said(r.messages), *_said(r.chosen, "+ "), *_said(r.rejected, "- ")]) or r.text,
    "label": lambda r: r.label, "answer": lambda r: r.answer,
}  # fmt: skip


@command(group, "list", example="finery datasets list --json")
def list_datasets(shell: Shell, limit: Annotated[int, typer.Option(min=1, max=100)] = 20) -> None:
    """List datasets, newest first."""
    with shell.finery as finery:
        shell.many(finery.datasets.list(limit=limit).data, COLUMNS)


@command(group, "show", example="finery datasets show train.jsonl")
def show(shell: Shell, dataset: Dataset) -> None:
    """Show everything about a dataset."""
    with shell.finery as finery:
        shell.one(finery.datasets.get(dataset))


@command(group, "upload", example="finery datasets upload train.csv --format csv")
def upload(
    shell: Shell,
    file: Annotated[Path, typer.Argument(help=".jsonl, .json, .csv, .xlsx, .parquet, .txt; .gz, .zst, .zip.")],
    name: Annotated[str | None, typer.Option(help="Default: the file's name.")] = None,
    file_format: FormatOption = "auto",
    skip_bad: SkipBad = False,
    ceiling: Ceiling = 0.01,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with an upload that was interrupted.")] = False,
    wait: Annotated[bool, typer.Option(help="Wait until ingest has looked at it.")] = True,
) -> None:
    """Upload a file and wait for ingest; a bad record fails it and is named with its line.

    More than 8 MB go in pieces, which an interruption does not lose: say --resume.
    """
    with shell.finery as finery, _bar(shell) as told:
        send = finery.datasets.resume if resume else finery.datasets.upload
        bad = "skip" if skip_bad else "strict"
        made = send(file, name=name, file_format=file_format, bad_records=bad, bad_ceiling=ceiling, told=told)
    _concluded(shell, made, wait=wait)


@command(group, "fetch", example="finery datasets fetch s3://data/train --name train")
def fetch(
    shell: Shell,
    source: Annotated[str, typer.Argument(help='s3://…, file:///…, https://…, or JSON such as {"kind": "sql", …}.')],
    name: Annotated[str | None, typer.Option(help="Default: the last part of the source.")] = None,
    file_format: FormatOption = "auto",
    skip_bad: SkipBad = False,
    ceiling: Ceiling = 0.01,
    wait: Annotated[bool, typer.Option(help="Wait until ingest has looked at it.")] = True,
) -> None:
    """Make a dataset of a place that a grant allows to read."""
    with shell.finery as finery:
        try:
            place = json.loads(source) if source.startswith("{") else source
        except ValueError as fault:
            raise UserMistake(f"the source is no JSON: {fault}") from fault
        bad = "skip" if skip_bad else "strict"
        made = finery.datasets.fetch(place, name=name, format=file_format, bad_records=bad, bad_ceiling=ceiling)
    _concluded(shell, made, wait=wait)


def _concluded(shell: Shell, made: DatasetView, *, wait: bool) -> None:
    """Shown once ingest has looked at it, if that is wanted."""
    with shell.finery as finery:
        if wait and made.task is not None:
            follow(Shell(False, shell.url, shell.api_key, shell.home), made.task) if not shell.as_json else (
                finery.tasks.wait(made.task)
            )
        shell.one(finery.datasets.get(made.id))


@command(group, "report", example="finery datasets report train.jsonl")
def report(shell: Shell, dataset: Dataset) -> None:
    """List every bad record: where, what, and what would make it right."""
    with shell.finery as finery:
        shell.many(finery.datasets.report(dataset), REPORT_COLUMNS)


@command(group, "preview", example="finery datasets preview train.jsonl --offset 100 --limit 5")
def preview(
    shell: Shell,
    dataset: Dataset,
    offset: Annotated[int, typer.Option(min=0, help="Records before the first one shown.")] = 0,
    limit: Annotated[int, typer.Option(min=1, max=100)] = 10,
) -> None:
    """Show records as training sees them."""
    with shell.finery as finery:
        shell.many(finery.datasets.records(dataset, offset=offset, limit=limit).data, PREVIEW_COLUMNS)


@command(group, "statistics", example="finery datasets statistics train.jsonl --json")
def statistics(shell: Shell, dataset: Dataset) -> None:
    """Show what a dataset holds: lengths, languages, roles, turns, duplicates."""
    with shell.finery as finery:
        shell.one(finery.datasets.statistics(dataset))


@command(group, "delete", example="finery datasets delete train.jsonl --confirm DELETE")
def delete(
    shell: Shell, dataset: Dataset, confirm: Annotated[str, typer.Option(help="Say DELETE: it cannot be undone.")] = ""
) -> None:
    """Delete a dataset with its bytes; refused while a task needs it."""
    if confirm != "DELETE":
        raise UserMistake("deleting a dataset cannot be undone: say --confirm DELETE")
    with shell.finery as finery:
        shell.one(finery.datasets.delete(dataset))


@command(group, "restore", example="finery datasets restore train.jsonl")
def restore(shell: Shell, dataset: Dataset) -> None:
    """Take back a deletion that an OpenAI client made, within a day."""
    with shell.finery as finery:
        shell.one(finery.datasets.restore(dataset))


@command(group, "withdraw", example="finery datasets withdraw train.jsonl --reason 'consent was taken back'")
def withdraw(
    shell: Shell, dataset: Dataset, reason: Annotated[str, typer.Option(help="Shown with everything made of it.")]
) -> None:
    """Let nobody use a dataset any longer, and flag everything that descends from it."""
    with shell.finery as finery:
        shell.one(finery.datasets.withdraw(dataset, reason=reason))


def _said(messages: list[dict[str, Any]] | None, mark: str = "") -> list[str]:
    return [f"{mark}{message['role']}: {message['content']}" for message in messages or []]


@contextmanager
def _bar(shell: Shell) -> Generator[Callable[[int, int], None] | None]:
    """A bar of the bytes that have arrived; none under ``--json``."""
    if shell.as_json:
        yield None
        return
    from rich.progress import BarColumn, DownloadColumn, Progress, TimeRemainingColumn, TransferSpeedColumn

    columns = (BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
    with Progress(*columns, console=shell.console, transient=True) as progress:
        bar = progress.add_task("upload", total=None, visible=False)
        yield lambda come, every: progress.update(bar, completed=come, total=every, visible=True)
