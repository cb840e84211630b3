"""finery models: imports, findings, what tuning made."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from finery.cli.command import Columns, Shell, UserMistake, command
from finery.cli.lineage import picture
from finery.cli.tasks import follow

if TYPE_CHECKING:
    from finery.client import Finery
    from finery_contracts.models import ModelView

group = typer.Typer(help="Models: import, findings, publish, delete.", no_args_is_help=True)
Model = Annotated[str, typer.Argument(help="A model's id, name or ft: name.")]
COLUMNS: Columns = {
    "id": lambda m: m.id, "name": lambda m: m.openai_name or m.name, "state": lambda m: m.state,
    "parameters": lambda m: f"{m.parameters / 1e6:,.0f} M", "published": lambda m: "yes" if m.published else "no",
    "version": lambda m: m.number, "expires": lambda m: f"{m.expires_at:%Y-%m-%d}" if m.expires_at else "",
    "flags": lambda m: "withdrawn input" if m.withdrawn_inputs else "",
}  # fmt: skip
VERSIONS: Columns = {
    "version": lambda m: f"{m.name}@{m.number}", "current": lambda m: "yes" if m.current else "", "id": lambda m: m.id,
    "state": lambda m: m.state, "created": lambda m: f"{m.created_at:%Y-%m-%d %H:%M}", "by": lambda m: m.created_by,
    "task": lambda m: m.lineage.get("task", m.tasks[0] if m.tasks else ""), "step": lambda m: m.lineage.get("step", ""),
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


@command(group, "import", example="finery models import mine s3://weights/mine --connection lake")
def import_model(
    shell: Shell,
    name: Annotated[str, typer.Argument(help="How it shall be called.")],
    folder: Annotated[str | None, typer.Argument(help="s3://bucket/prefix or file:///folder.")] = None,
    connection: Annotated[
        str | None, typer.Option(help="What opens the object store; default: the project's only one.")
    ] = None,
    gallery_id: Annotated[str | None, typer.Option("--gallery", help="A gallery id.")] = None,
    path: Annotated[str | None, typer.Option(help="A folder on the server with weights, config and tokenizer.")] = None,
    gguf_file: Annotated[str | None, typer.Option(help="Which one, of a folder with several.")] = None,
    description: Annotated[str, typer.Option()] = "",
    validate: Annotated[bool, typer.Option(help="Check the weights (off: a bad model fails later).")] = True,
    repair: Annotated[
        list[str] | None, typer.Option(help="A known repair that is agreed to beforehand; may be repeated.")
    ] = None,
) -> None:
    """Make a model from the gallery or from a folder, and wait until it is checked."""
    with shell.finery as finery:
        made = finery.models.create(
            name, gallery=gallery_id, path=_absolute(path), url=folder, connection=connection,
            gguf_file=gguf_file, description=description, validate=validate, apply_repairs=repair or [],
        )  # fmt: skip
        shell.one(when_checked(finery, shell, made))


def when_checked(finery: Finery, shell: Shell, made: ModelView) -> ModelView:
    """The model after its newest task, and after the validation that follows from that."""
    quiet = Shell(shell.as_json, shell.url, shell.api_key, shell.home)
    done = finery.tasks.wait(made.tasks[-1]) if quiet.as_json else follow(quiet, made.tasks[-1])
    if "validation" in done.result:
        check = done.result["validation"]
        _ = finery.tasks.wait(check) if quiet.as_json else follow(quiet, check)
    return finery.models.get(made.id)


def _absolute(path: str | None) -> str | None:
    """A folder as the server knows it; what is no path is left to the server to name."""
    return path if path is None or "://" in path else str(Path(path).resolve())


@command(group, "findings", example="finery models findings mine")
def findings(shell: Shell, model: Model) -> None:
    """List what validation found."""
    with shell.finery as finery:
        shell.many(finery.models.findings(model).data, FINDINGS)


@command(group, "publish", example="finery models publish tuned-0k3 --name intents --step 200 --form merged")
def publish(
    shell: Shell,
    model: Model,
    name: Annotated[str | None, typer.Option(help="A new name.")] = None,
    step: Annotated[int | None, typer.Option(help="A kept checkpoint's step; default: the final weights.")] = None,
    form: Annotated[Literal["adapter", "merged"], typer.Option(help="merged: one model of base and adapter.")] = (
        "adapter"
    ),
    new_version: Annotated[bool, typer.Option(help="The name is in use: become its next version.")] = False,
) -> None:
    """Keep for good what a tuning left."""
    with shell.finery as finery:
        made = finery.models.publish(model, name=name, step=step, form=form, new_version=new_version)
        shell.one(when_checked(finery, shell, made) if form == "merged" else finery.models.get(made.id))


@command(group, "versions", example="finery models versions intents")
def versions(shell: Shell, model: Model) -> None:
    """List the versions of a name, newest first."""
    with shell.finery as finery:
        shell.many(finery.models.versions(model).data, VERSIONS)


@command(group, "use-version", example="finery models use-version intents@1")
def use_version(shell: Shell, model: Model) -> None:
    """Let the bare name mean this version: the way back to an earlier one."""
    with shell.finery as finery:
        shell.one(finery.models.make_current(model))


@command(group, "lineage", example="finery models lineage intents")
def lineage(shell: Shell, model: Model) -> None:
    """Show what a model comes from and what came of it."""
    with shell.finery as finery:
        picture(shell, finery.models.lineage(model))


@command(group, "certificate", example="finery models certificate intents --file bom.cdx.json")
def certificate(
    shell: Shell, model: Model,
    file: Annotated[
        Literal["README.md", "bom.cdx.json", "model.sig"], typer.Option(help="Card, bill of materials, or signature.")
    ] = "README.md",
) -> None:  # fmt: skip
    """Print what was settled at a model's birth: its card, its bill of materials, or its signature."""
    with shell.finery as finery:
        typer.echo(finery.models.certificate(model, file), nl=False)


@command(group, "delete", example="finery models delete intents --confirm DELETE")
def delete(
    shell: Shell, model: Model, confirm: Annotated[str, typer.Option(help="Say DELETE: it cannot be undone.")] = ""
) -> None:
    """Delete a model with its bytes; refused, with the names, while something uses it."""
    if confirm != "DELETE":
        raise UserMistake("deleting a model cannot be undone: say --confirm DELETE")
    with shell.finery as finery:
        shell.one(finery.models.delete(model))


@command(group, "restore", example="finery models restore intents")
def restore(shell: Shell, model: Model) -> None:
    """Take back a deletion that an OpenAI client made, within a day."""
    with shell.finery as finery:
        shell.one(finery.models.restore(model))


@command(group, "key", example="finery models key > ours.pem")
def key(shell: Shell) -> None:
    """Print the public key that signs this installation's models; other sites allow it with FINERY_TRUSTED_KEYS."""
    with shell.finery as finery:
        found = finery.models.key()
    if shell.as_json:
        shell.one(found)
    else:
        print(found.public_key, end="")


@command(group, "export", example="finery models export intents -o intents.tar --with-base")
def export(
    shell: Shell,
    model: Model,
    output: Annotated[Path, typer.Option("--output", "-o", help="The file to write.")],
    with_base: Annotated[bool, typer.Option(help="Bring the base of an adapter along.")] = False,
) -> None:
    """Write a model into one signed file for another site."""
    with shell.finery as finery:
        finery.models.export(model, output, with_base=with_base)
        shell.one(finery.models.get(model))


@command(group, "import-bundle", example="finery models import-bundle intents.tar")
def import_bundle(
    shell: Shell,
    file: Annotated[Path, typer.Argument(help="What `finery models export` wrote.")],
    name: Annotated[str | None, typer.Option(help="Default: the name it had.")] = None,
    new_version: Annotated[bool, typer.Option(help="The name is in use: become its next version.")] = False,
) -> None:
    """Take a model of another site in, once its signature and every file were verified."""
    with shell.finery as finery:
        made = finery.models.import_bundle(file, name=name, new_version=new_version)
        for task in made.tasks:
            _ = finery.tasks.wait(task)
        shell.one(finery.models.get(made.id))
