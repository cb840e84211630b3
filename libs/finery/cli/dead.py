"""finery events dead: messages that a consumer gave up. For an operator's key."""

from __future__ import annotations

from typing import Annotated

import typer

from finery.cli.command import Columns, Shell, command

group = typer.Typer(help="Messages that a consumer gave up: look, say once more, drop.", no_args_is_help=True)
Number = Annotated[int, typer.Argument(min=1, help="The letter's id, as the list shows it.")]


def list_dead(
    shell: Shell,
    after: Annotated[int, typer.Option(min=0, help="From this id on.")] = 0,
    limit: Annotated[int, typer.Option(min=1, max=200)] = 100,
    durable: Annotated[str | None, typer.Option(help="Only of this consumer, such as notifier.")] = None,
) -> None:
    """List what was given up, oldest first, with the reason."""
    columns: Columns = {
        "id": lambda d: d.id, "consumer": lambda d: d.durable, "tries": lambda d: d.deliveries,
        "given up": lambda d: d.last_at.isoformat()[:19], "subject": lambda d: d.subject, "reason": lambda d: d.reason,
    }  # fmt: skip
    with shell.finery as finery:
        shell.many(finery.dead.list(after=after, limit=limit, durable=durable).data, columns)


def show(shell: Shell, number: Number) -> None:
    """Show one, whole."""
    with shell.finery as finery:
        shell.one(finery.dead.show(number))


def replay(shell: Shell, number: Number) -> None:
    """Say it once more, to the consumer that gave it up alone, and take it off the list."""
    with shell.finery as finery:
        shell.one(finery.dead.replay(number))


def drop(shell: Shell, number: Number) -> None:
    """Remove it for good."""
    with shell.finery as finery:
        shell.one(finery.dead.drop(number))


command(group, "list", example="finery events dead list")(list_dead)
command(group, "show", example="finery events dead show 17")(show)
command(group, "replay", example="finery events dead replay 17")(replay)
command(group, "drop", example="finery events dead drop 17")(drop)
