"""finery pools, flavours, quotas: where tasks run, and how many of a project at once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import typer

from finery.cli.command import Columns, Shell, UserMistake, command

pools = typer.Typer(help="Pools: where tasks run.", no_args_is_help=True)
flavours = typer.Typer(help="Flavours: what tasks run on.", no_args_is_help=True)
quotas = typer.Typer(help="Quotas: how many tasks of a project run and wait.", no_args_is_help=True)
Pool = Annotated[str, typer.Argument(help="A pool's id or name.")]
Slots = Annotated[list[str], typer.Option("--flavour", help="NAME or NAME=SLOTS; again for more.")]
Driver = Annotated[str | None, typer.Option(help="Version of the accelerators' driver.")]
Limit = Annotated[str | None, typer.Option(help="A number, or `default`.")]
POOL: Columns = {
    "id": lambda p: p.id, "name": lambda p: p.name, "public": lambda p: "yes" if p.public else "",
    "slots": lambda p: ", ".join(f"{f} {p.used.get(f, 0)}/{'any' if n is None else n}" for f, n in p.flavours.items()),
    "waiting": lambda p: p.waiting, "driver": lambda p: p.driver,
}  # fmt: skip
FLAVOUR: Columns = {
    "name": lambda f: f.name, "title": lambda f: f.title, "accelerators": lambda f: f.accelerators or "",
    "memory GB": lambda f: f"{f.memory_gb:g}", "slots": lambda f: f.slots, "driver": lambda f: f.driver,
    "price": lambda f: f.price,
}  # fmt: skip
QUOTA: Columns = {
    "project": lambda q: q.project, "name": lambda q: q.project_name,
    "slots": lambda q: f"{q.used_slots}/{q.running_slots}", "waiting": lambda q: f"{q.waiting}/{q.waiting_tasks}",
    "share": lambda q: q.share,
}  # fmt: skip


@command(pools, "list", example="finery pools list")
def list_pools(shell: Shell) -> None:
    """List the public pools and the project's own."""
    with shell.finery as finery:
        shell.many(finery.pools.list().data, POOL)


@command(pools, "create", example="finery pools create nights --flavour cpu=4")
def create_pool(
    shell: Shell,
    name: Annotated[str, typer.Argument(help="A name that is free.")],
    flavour: Slots,
    driver: Driver = None,
    public: Annotated[bool, typer.Option("--public", help="Shared by all projects; for operators.")] = False,
    description: Annotated[str, typer.Option(help="What it is for.")] = "",
) -> None:
    """Make a pool; its workers are started with FINERY_POOL set to its id."""
    with shell.finery as finery:
        made = finery.pools.create(name, _slots(flavour), driver=driver, public=public, description=description)
        shell.one(made)


@command(pools, "change", example="finery pools change public --flavour cpu --flavour gpu=8 --driver 550.54")
def change_pool(shell: Shell, pool: Pool, flavour: Slots = [], driver: Driver = None) -> None:  # noqa: B006
    """Change a pool's slots or driver; the flavours that are named replace those it had."""
    with shell.finery as finery:
        shell.one(finery.pools.change(pool, flavours=_slots(flavour) if flavour else None, driver=driver))


@command(pools, "delete", example="finery pools delete nights --confirm DELETE")
def delete_pool(
    shell: Shell, pool: Pool, confirm: Annotated[str, typer.Option(help="Say DELETE: it cannot be undone.")] = ""
) -> None:
    """Remove a pool in which nothing is unfinished."""
    if confirm != "DELETE":
        raise UserMistake("deleting a pool cannot be undone: say --confirm DELETE")
    with shell.finery as finery:
        finery.pools.delete(pool)
    shell.one({"id": pool, "deleted": True})


@command(flavours, "list", example="finery flavours list --kind tune --model shop-base")
def list_flavours(
    shell: Shell,
    pool: Annotated[str | None, typer.Option(help="Only those it offers.")] = None,
    kind: Annotated[str | None, typer.Option(help="Only those that can do it.")] = None,
    method: Annotated[str | None, typer.Option(help="Likewise.")] = None,
    model: Annotated[str | None, typer.Option(help="Only those that its weights fit.")] = None,
) -> None:
    """List flavours."""
    with shell.finery as finery:
        shell.many(finery.flavours.list(pool=pool, kind=kind, method=method, model=model).data, FLAVOUR)


@command(quotas, "show", example="finery quotas show")
def show_quotas(shell: Shell) -> None:
    """Show the project's quota; to operators, every project's."""
    with shell.finery as finery:
        shell.many(finery.quotas.list().data, QUOTA)


@command(quotas, "set", example="finery quotas set shop --running-slots 8 --share 2")
def set_quota(
    shell: Shell,
    project: Annotated[str, typer.Argument(help="A project's id or name.")],
    running_slots: Limit = None,
    waiting_tasks: Limit = None,
    share: Limit = None,
) -> None:
    """Set what a project may; what is left out stays (for the operator)."""
    asked = {"running_slots": running_slots, "waiting_tasks": waiting_tasks, "share": share}
    limits = {name: _limit(name, said) for name, said in asked.items() if said is not None}
    with shell.finery as finery:
        shell.one(finery.quotas.change(project, **limits))


def _slots(said: Sequence[str]) -> dict[str, int | None]:
    slots = dict[str, int | None]()
    for word in said:
        name, equals, number = word.partition("=")
        if equals and not number.isdecimal():
            raise UserMistake(f"{word!r}: say NAME=SLOTS with a number, or NAME alone for as many as its workers have")
        slots[name] = int(number) if equals else None
    return slots


def _limit(name: str, said: str) -> int | None:
    if said == "default":
        return None
    if not said.isdecimal():
        raise UserMistake(f"--{name.replace('_', '-')} {said!r}: say a number, or default")
    return int(said)
