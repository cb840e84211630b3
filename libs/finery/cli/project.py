"""finery keys, projects: who may do what, where."""

from __future__ import annotations

from typing import Annotated, Literal

import typer

from finery.cli.command import Columns, Shell, command

keys = typer.Typer(help="API keys: at most five for each user and project.", no_args_is_help=True)
projects = typer.Typer(help="Projects (for the operator).", no_args_is_help=True)


@command(keys, "list", example="finery keys list")
def list_keys(shell: Shell) -> None:
    """List the project's keys; secrets are not kept."""
    with shell.finery as finery:
        columns: Columns = {
            "id": lambda k: k.id, "user": lambda k: k.user, "role": lambda k: k.role, "hint": lambda k: k.hint,
            "description": lambda k: k.description,
        }  # fmt: skip
        shell.many(finery.keys.list().data, columns)


@command(keys, "create", example="finery keys create --description 'the web shop' --role common")
def create_key(
    shell: Shell,
    description: Annotated[str, typer.Option(help="What it is for.")] = "",
    role: Annotated[Literal["full", "common", "read"], typer.Option(help="What it may do.")] = "full",
) -> None:
    """Make a key; its secret is shown now and never again."""
    from finery_contracts.access import Role

    with shell.finery as finery:
        shell.one(finery.keys.create(description=description, role=Role(role)))


@command(keys, "revoke", example="finery keys revoke key_01k…")
def revoke_key(shell: Shell, key: Annotated[str, typer.Argument(help="A key's id.")]) -> None:
    """Make a key useless at once."""
    with shell.finery as finery:
        shell.one(finery.keys.revoke(key))


@command(projects, "list", example="finery projects list")
def list_projects(shell: Shell) -> None:
    """List all projects."""
    with shell.finery as finery:
        shell.many(finery.projects.list().data, {"id": lambda p: p.id, "name": lambda p: p.name})


@command(projects, "create", example="finery projects create shop")
def create_project(shell: Shell, name: Annotated[str, typer.Argument(help="A name that is free.")]) -> None:
    """Make a project; the answer carries its first key, once."""
    with shell.finery as finery:
        shell.one(finery.projects.create(name))


def register(app: typer.Typer) -> None:
    """Put these commands on the application."""
    app.add_typer(keys, name="keys")
    app.add_typer(projects, name="projects")
