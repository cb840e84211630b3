"""finery gallery: what can be made into a model by name, and what each can be used for."""

from __future__ import annotations

from typing import Annotated

import typer

from finery.cli.command import Columns, Shell, command

group = typer.Typer(help="Gallery: the models that are known by name.", no_args_is_help=True)
COLUMNS: Columns = {
    "id": lambda g: g.id, "size": lambda g: _short(g.parameters),
    "tune": lambda g: ", ".join(g.supports.tune), "compress": lambda g: ", ".join(g.supports.compress),
    "deploy": lambda g: ", ".join("as it is" if form == "none" else form for form in g.supports.deploy),
    "licence": lambda g: f"{g.licence.name} *" if g.licence.acceptance else g.licence.name,
    "weights": lambda g: "recommended" if g.source else "your own",
}  # fmt: skip


@command(group, "list", example="finery gallery list --language zh --supports tune")
def list_gallery(
    shell: Shell,
    family: Annotated[str | None, typer.Option(help="A family, such as 'Qwen 2'.")] = None,
    language: Annotated[str | None, typer.Option(help="A language, such as zh.")] = None,
    use: Annotated[str | None, typer.Option(help="A use, such as dialogue.")] = None,
    supports: Annotated[str | None, typer.Option(help="tune, compress or deploy.")] = None,
    search: Annotated[str | None, typer.Option(help="Part of id, title, family or hub name.")] = None,
) -> None:
    """List what can be made into a model by name, and what for. Licences with a * have to be agreed to."""
    with shell.finery as finery:
        found = finery.gallery.list(family=family, language=language, use=use, supports=supports, search=search)
        shell.many(found.data, COLUMNS)


@command(group, "show", example="finery gallery show Qwen2-7B")
def show(shell: Shell, model: Annotated[str, typer.Argument(help="A gallery id.")]) -> None:
    """Show everything that is known of one."""
    with shell.finery as finery:
        shell.one(finery.gallery.get(model))


def _short(parameters: int) -> str:
    return f"{parameters / 1e9:.1f} B" if parameters >= 1e9 else f"{parameters / 1e6:.0f} M"
