"""finery bus: what an operator does to the bus of a running installation."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Annotated

import typer

from finery.cli.command import Columns, Shell, command

if TYPE_CHECKING:
    from finery_contracts.rebuild import RebuildPage

group = typer.Typer(help="The bus of a running installation.", no_args_is_help=True)
LOOK_S = 0.5


def rebuild(
    shell: Shell,
    wait_s: Annotated[float, typer.Option(min=0, help="How long to wait until everything is refilled.")] = 600,
) -> None:
    """Refill lost streams and buckets from SQL. Nothing is applied twice; repeating it does no harm."""
    with shell.finery as finery:
        page = finery.rebuild.begin()
        until = time.monotonic() + wait_s
        while not page.done and time.monotonic() < until:
            shell.say(_line(page))
            time.sleep(LOOK_S)
            page = finery.rebuild.state()
        columns: Columns = {
            "owner": lambda s: s.owner, "checked": lambda s: s.checked, "lost": lambda s: s.lost,
            "waiting": lambda s: s.waiting, "error": lambda s: s.error,
        }  # fmt: skip
        shell.many(page.data, columns)
    if not page.done:
        from finery_contracts.errors import Unavailable

        raise Unavailable("not everything is refilled yet; repeat the command, nothing is done twice")


def _line(page: RebuildPage) -> str:
    checked, waiting = sum(s.checked for s in page.data), sum(s.waiting for s in page.data)
    return f"[dim]{checked} facts compared, {waiting} on their way[/]"


command(group, "rebuild", example="finery bus rebuild")(rebuild)
