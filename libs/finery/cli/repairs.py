"""finery models repairs, repair: known repairs of a model's files, shown as diffs, and consent to them.

What a file holds is shown so that it can do nothing to the terminal: a sign that does not print is told by its number.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated

import typer
from rich.text import Text

from finery.cli.command import Shell, UserMistake, command
from finery.cli.models import Model, when_checked

if TYPE_CHECKING:
    from finery_contracts.weights import ProposedRepair

COLOURS = {"+": "green", "-": "red", "@": "cyan", "\\": "dim"}


def register(group: typer.Typer) -> None:
    """Beside the commands that models have already."""
    command(group, "repairs", example="finery models repairs chatglm3-6b")(repairs)
    command(group, "repair", example="finery models repair chatglm3-6b chatglm_padding_side")(repair)


def repairs(shell: Shell, model: Model) -> None:
    """Show which known repairs fit a model's files, each as a diff."""
    with shell.finery as finery:
        found = finery.models.repairs(model)
    if shell.as_json:
        shell.many(found.data, {})
        return
    for proposed in found.data:
        show(shell, proposed)
    if not found.data:
        shell.say("nothing is proposed")


def repair(
    shell: Shell,
    model: Model,
    ids: Annotated[list[str], typer.Argument(help="Ids of repairs, as `finery models repairs` lists them.")],
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Agree without being asked.")] = False,
) -> None:
    """Agree to repairs: a repaired copy becomes the next version of the name; the one of now stays as it is."""
    with shell.finery as finery:
        if not yes:
            if shell.as_json or not somebody_is_there():
                raise UserMistake("nobody can be asked here: look with `finery models repairs`, then say --yes")
            for proposed in finery.models.repairs(model).data:
                if proposed.id in ids:
                    show(shell, proposed)
            if not typer.confirm(f"Make a copy of {model} with that, as its next version?"):
                raise UserMistake("nothing was agreed to, and nothing was done")
        shell.one(when_checked(finery, shell, finery.models.repair(model, ids)))


def somebody_is_there() -> bool:
    """Whether a person can answer."""
    return sys.stdin.isatty()


def show(shell: Shell, proposed: ProposedRepair) -> None:
    """Id, reason and diff."""
    state = "made already" if proposed.applied else "proposed"
    if proposed.allowed is False:
        state += f"; an operator must allow {proposed.sha256_before} or {proposed.sha256_after}"
    if proposed.versions:
        state += f"; made in {', '.join(proposed.versions)}"
    shell.console.print(Text(f"{proposed.id} ({state})", style="bold"))
    shell.console.print(Text("".join(_harmless(proposed.reason))))
    for line in proposed.diff.splitlines():
        text = Text("".join(_harmless(line)), style=COLOURS.get(line[:1], ""))
        shell.console.print(text, soft_wrap=True, highlight=False)
    shell.console.print()


def _harmless(text: str) -> Iterator[str]:
    """Escape sequences and signs that turn the direction of writing would show another diff than the one agreed to."""
    for sign in text:
        yield sign if sign.isprintable() or sign == "\t" else sign.encode("unicode_escape").decode()
