"""``finery``: the command line of users and operators. Every command has help, an example and ``--json``."""

from __future__ import annotations

import sys
from collections.abc import Sequence

import typer

HELP = """Finery: data and an open-weights model in, a tuned model behind an OpenAI-compatible endpoint out.

Begin with `finery up`, then `finery gallery list`; or run everything once with `finery demo`.
"""


def application() -> typer.Typer:
    """All commands."""
    from finery.cli import (
        billing,
        bus,
        datasets,
        deployments,
        gallery,
        house,
        labellings,
        models,
        notifications,
        pools,
        preparing,
        project,
        reading,
        repairs,
        sources,
        tasks,
    )

    app = typer.Typer(help=HELP, no_args_is_help=True, rich_markup_mode="rich", pretty_exceptions_enable=False)
    house.register(app)
    app.add_typer(tasks.group, name="tasks")
    preparing.register(datasets.group)
    app.add_typer(datasets.group, name="datasets")
    app.add_typer(gallery.group, name="gallery")
    app.add_typer(labellings.group, name="labellings")
    app.add_typer(sources.grants, name="grants")
    app.add_typer(sources.connections, name="connections")
    app.add_typer(sources.uploads, name="uploads")
    repairs.register(models.group)
    app.add_typer(models.group, name="models")
    app.add_typer(deployments.group, name="deployments")
    app.add_typer(pools.pools, name="pools")
    app.add_typer(pools.flavours, name="flavours")
    app.add_typer(pools.quotas, name="quotas")
    app.add_typer(bus.group, name="bus")
    reading.register(app)
    project.register(app)
    notifications.register(app)
    billing.register(app)
    return app


def main(words: Sequence[str] | None = None) -> int:
    """The console script; the answer is the exit status. With ``--json`` a mistyped command is told as JSON, too."""
    said = list(sys.argv[1:] if words is None else words)
    if "--json" not in said:
        return application()(said, prog_name="finery") or 0
    try:
        return application()(said, prog_name="finery", standalone_mode=False) or 0
    except typer.TyperException as fault:
        from finery.cli.command import leave
        from finery_contracts.errors import ErrorBody

        leave(ErrorBody(code="command_invalid", message=fault.format_message()), as_json=True)
        return fault.exit_code


if __name__ == "__main__":
    sys.exit(main())
