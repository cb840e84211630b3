"""finery models: imports, findings, what tuning made."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from finery.cli.command import Columns, Shell, command
from finery.cli.tasks import follow

group = typer.Typer(help="Models: import, findings, publish, delete.", no_args_is_help=True)
Model = Annotated[str, typer.Argument(help="A model's id, name or ft: name.")]
COLUMNS: Columns = {
    "id": lambda m: m.id, "name": lambda m: m.openai_name or m.name, "state": lambda m: m.state,
    "parameters": lambda m: f"{m.parameters / 1e6:,.0f} M", "published": lambda m: "yes" if m.published else "no",
    "expires": lambda m: f"{m.expires_at:%Y-%m-%d}" if m.expires_at else "",
}  # fmt: skip
FINDINGS: Columns = {
    "severity": lambda f: f.severity, "code": lambda f: f.code, "where": lambda f: f.where,
    "message": lambda f: f.message, "remedy": lambda f: f.remedy,
}  # fmt: skip


@command(group, "list", example="finery models list")
def list_models(
    shell: Shell,
    search: Annotated[str | None, typer.Option(help="Part of the name.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=100)] = 20,
) -> None:
    """List models, newest first."""
    with shell.finery as finery:
        shell.many(finery.models.list(search=search, limit=limit).data, COLUMNS)


@command(group, "show", example="finery models show smollm2-135m-instruct")
def show(shell: Shell, model: Model) -> None:
    """Show everything about a model."""
    with shell.finery as finery:
        shell.one(finery.models.get(model))


@command(group, "import", example="finery models import mine --path /data/weights/mine")
def import_model(
    shell: Shell,
    name: Annotated[str, typer.Argument(help="How it shall be called.")],
    gallery_id: Annotated[str | None, typer.Option("--gallery", help="A gallery id.")] = None,
    path: Annotated[
        Path | None, typer.Option(help="A folder on the server with weights, config and tokenizer.")
    ] = None,
    description: Annotated[str, typer.Option()] = "",
    validate: Annotated[bool, typer.Option(help="Check the weights (off: a bad model fails later).")] = True,
) -> None:
    """Make a model from the gallery or from a folder, and wait until it is checked."""
    with shell.finery as finery:
        made = finery.models.create(
            name, gallery=gallery_id, path=str(path.resolve()) if path else None, description=description,
            validate=validate,
        )  # fmt: skip
        quiet = Shell(shell.as_json, shell.url, shell.api_key, shell.home)
        done = finery.tasks.wait(made.tasks[0]) if quiet.as_json else follow(quiet, made.tasks[0])
        if "validation" in done.result:
            check = done.result["validation"]
            _ = finery.tasks.wait(check) if quiet.as_json else follow(quiet, check)
        shell.one(finery.models.get(made.id))


@command(group, "findings", example="finery models findings mine")
def findings(shell: Shell, model: Model) -> None:
    """List what validation found."""
    with shell.finery as finery:
        shell.many(finery.models.findings(model).data, FINDINGS)


@command(group, "publish", example="finery models publish tuned-0k3 --name intents")
def publish(shell: Shell, model: Model, name: Annotated[str | None, typer.Option(help="A new name.")] = None) -> None:
    """Keep a temporary model for good."""
    with shell.finery as finery:
        shell.one(finery.models.publish(model, name=name))


@command(group, "delete", example="finery models delete intents")
def delete(shell: Shell, model: Model) -> None:
    """Delete a model; refused, with the names, while something uses it."""
    with shell.finery as finery:
        shell.one(finery.models.delete(model))
