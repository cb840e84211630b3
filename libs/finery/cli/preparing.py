"""finery datasets prepare, clean, mix, split, count, lineage: good datasets of raw ones, and what was done to them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, cast

import typer
from rich.markup import escape

from finery.cli.command import Columns, Shell, UserMistake, command
from finery.cli.lineage import picture
from finery.cli.tasks import follow

if TYPE_CHECKING:
    from finery_contracts.tasks import TaskView

Datasets = Annotated[list[str], typer.Argument(help="Ids or names, in the order of the weights.")]
Dataset = Annotated[str, typer.Argument(help="A dataset's id or name.")]
Output = Annotated[str | None, typer.Option(help="Name of the dataset that is made.")]
Seed = Annotated[int, typer.Option(min=0, help="The same seed gives the same bytes.")]
Wait = Annotated[bool, typer.Option(help="Wait for the end and show what was done.")]
On = Annotated[Literal["worker", "ray"] | None, typer.Option(help="ray: large sets, on a Ray cluster.")]
STEP_COLUMNS: Columns = {
    "step": lambda s: s.step, "in": lambda s: f"{s.records_in:,}", "out": lambda s: f"{s.records_out:,}",
    "removed": lambda s: f"{s.removed:,}", "changed": lambda s: f"{s.changed:,}",
    "why": lambda s: ", ".join([*(f"{reason} {count:,}" for reason, count in s.reasons.items()), *s.notes]),
}  # fmt: skip


def register(group: typer.Typer) -> None:
    """Beside the commands that datasets have already."""
    command(group, "prepare", example="finery datasets prepare a.csv b.csv --recipe clean.yaml")(prepare)
    command(group, "clean", example="finery datasets clean train.csv --language zh --language en")(clean)
    command(group, "mix", example="finery datasets mix industry general --ratio 1:3 --output train")(mix)
    command(group, "split", example="finery datasets split train --validation 0.1")(split)
    command(group, "count", example="finery datasets count train --model qwen2.5-0.5b --max-length 2048")(count)
    command(group, "tokens", example="finery datasets tokens task_01k… --offset 1000")(tokens)
    command(group, "lineage", example="finery datasets lineage train")(lineage)


def prepare(
    shell: Shell, datasets: Datasets,
    recipe: Annotated[Path, typer.Option("--recipe", "-r", help="YAML or JSON: steps, and what else a task takes.")],
    output: Output = None, seed: Annotated[int | None, typer.Option(min=0)] = None, on: On = None, wait: Wait = True,
) -> None:  # fmt: skip
    """Make a dataset of others by the steps of a recipe."""
    said = _recipe(recipe)
    said |= {name: value for name, value in (("output", output), ("seed", seed), ("on", on)) if value is not None}
    steps = cast("list[dict[str, Any]]", said.pop("steps", []))
    with shell.finery as finery:
        _show(shell, finery.datasets.prepare(datasets, steps, **said), wait=wait)


def clean(
    shell: Shell, datasets: Datasets, output: Output = None, seed: Seed = 42,
    language: Annotated[list[str] | None, typer.Option(help="Keep only these; may be repeated.")] = None,
    near: Annotated[float, typer.Option(min=0, max=1, help="Similarity of near duplicates; 0 leaves them in.")] = 0.8,
    personal: Annotated[Literal["mask", "drop", "keep"], typer.Option(help="What becomes of personal data.")] = "mask",
    shortest: Annotated[int | None, typer.Option("--min", min=0, help="Characters of a record, at least.")] = None,
    longest: Annotated[int | None, typer.Option("--max", min=1, help="Characters of a record, at most.")] = None,
    against: Annotated[list[str] | None, typer.Option(help="Evaluation sets that must not be in it.")] = None,
    on: On = None, wait: Wait = True,
) -> None:  # fmt: skip
    """Cleanse by the usual chain: missing, duplicates, quality, personal data, and what the options add."""
    steps: list[dict[str, Any]] = [{"step": "missing"}, {"step": "quality"}]
    steps += [{"step": "length", "min": shortest, "max": longest}] if shortest or longest else []
    steps += [{"step": "language", "keep": language}] if language else []
    steps += [{"step": "blocked"}, {"step": "exact_duplicates"}]
    steps += [{"step": "near_duplicates", "threshold": near}] if near else []
    steps += [{"step": "contamination", "against": against}] if against else []
    steps += [{"step": "personal", "action": personal}] if personal != "keep" else []
    said = {name: value for name, value in (("output", output), ("on", on)) if value is not None}
    with shell.finery as finery:
        _show(shell, finery.datasets.prepare(datasets, steps, seed=seed, **said), wait=wait)


def mix(
    shell: Shell, datasets: Datasets,
    ratio: Annotated[str, typer.Option(help="A weight for each, such as 1:3 or 0.2:0.5:0.3.")],
    output: Output = None, seed: Seed = 42,
    records: Annotated[int | None, typer.Option(min=1, help="So many in all.")] = None,
    repeat: Annotated[bool, typer.Option(help="Repeat records of scarce datasets, instead of taking less.")] = False,
    wait: Wait = True,
) -> None:  # fmt: skip
    """Mix datasets by ratio."""
    try:
        weights = [float(part) for part in ratio.split(":")]
    except ValueError as fault:
        raise UserMistake(f"--ratio {ratio}: say numbers with a colon between them, such as 1:3") from fault
    if len(weights) != len(datasets) or len(set(datasets)) != len(datasets):
        raise UserMistake(f"--ratio {ratio} has {len(weights)} parts for {len(set(datasets))} datasets")
    said = {"output": output} if output else {}
    with shell.finery as finery:
        weighted = dict(zip(datasets, weights, strict=True))
        _show(shell, finery.datasets.mix(weighted, records=records, repeat=repeat, seed=seed, **said), wait=wait)


def split(
    shell: Shell, dataset: Dataset,
    validation: Annotated[float, typer.Option(min=0, max=1, help="Share that is laid aside.")] = 0.1,
    stratify: Annotated[Literal["none", "answer", "label"], typer.Option(help="Keep the share within each.")] = "none",
    output: Output = None, seed: Seed = 42, wait: Wait = True,
) -> None:  # fmt: skip
    """Split a dataset into training and validation; what is the same stays on one side."""
    step = {"step": "split", "validation": validation, "stratify": stratify}
    said = {"output": output} if output else {}
    with shell.finery as finery:
        _show(shell, finery.datasets.prepare([dataset], [step], seed=seed, **said), wait=wait)


def count(
    shell: Shell, dataset: Dataset,
    model: Annotated[str, typer.Option(help="A model's id or name, or a gallery id.")],
    max_length: Annotated[int | None, typer.Option(min=16, help="Tokens; default: the model's own.")] = None,
    wait: Wait = True,
) -> None:  # fmt: skip
    """Count tokens as training with a model would see them: totals, histogram, what would be cut."""
    with shell.finery as finery:
        _show(shell, finery.datasets.count(dataset, model, max_length=max_length), wait=wait)


def tokens(
    shell: Shell,
    task: Annotated[str, typer.Argument(help="A task that counted tokens, by its id.")],
    offset: Annotated[int, typer.Option(min=0, help="Records before the first one shown.")] = 0,
    limit: Annotated[int, typer.Option(min=1, max=1000)] = 20,
) -> None:
    """Show the tokens of each record, as a count found them."""
    columns: Columns = {
        "line": lambda r: r.line, "tokens": lambda r: r.tokens, "trained": lambda r: r.trained_tokens,
        "cut": lambda r: "yes" if r.truncated else "", "refused": lambda r: r.refused,
    }  # fmt: skip
    with shell.finery as finery:
        shell.many(finery.datasets.token_counts(task, offset=offset, limit=limit).data, columns)


def lineage(shell: Shell, dataset: Dataset) -> None:
    """Show what a dataset comes from and what came of it."""
    with shell.finery as finery:
        picture(shell, finery.datasets.lineage(dataset))


def _recipe(path: Path) -> dict[str, Any]:
    import yaml

    try:
        said: object = yaml.safe_load(path.read_text("utf-8"))
    except yaml.YAMLError as fault:
        raise UserMistake(f"{path} is neither YAML nor JSON: {fault}") from fault
    if isinstance(said, list):
        said = {"steps": cast("list[Any]", said)}
    if not isinstance(said, dict):
        raise UserMistake(f"{path} holds no recipe: a list of steps, or an object with `steps`")
    return {
        str(name): value for name, value in cast("dict[Any, Any]", said).items() if name not in ("kind", "datasets")
    }


def _show(shell: Shell, task: TaskView, *, wait: bool) -> None:
    """The task, or when it was waited for what it did, as a table; with --json the task as it ended."""
    from finery_contracts.preparing import CountOutput, PrepareOutput

    if not wait:
        shell.one(task)
        return
    if shell.as_json:
        with shell.finery as finery:
            print(json.dumps(finery.tasks.wait(task.id).model_dump(mode="json")))
        return
    done = follow(shell, task.id)
    if isinstance(done.output, PrepareOutput):
        shell.many(done.output.steps, STEP_COLUMNS)
        aside = f", {done.output.validation_records:,} for validation" if done.output.validation_records else ""
        shell.say(f"{done.output.records:,} records{aside}")
        for warning in done.output.warnings:
            shell.say(f"[yellow]{escape(warning)}[/]")
    if isinstance(done.output, CountOutput):
        shell.one(done.output.model_dump(exclude={"histogram", "kind"}))
        shell.many(done.output.histogram, {"up to tokens": lambda b: b.up_to_tokens, "records": lambda b: b.records})
        shell.say(f"[dim]of each record: finery datasets tokens {task.id}; costs: finery estimate --count {task.id}[/]")
