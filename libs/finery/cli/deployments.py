"""finery deployments: models behind an endpoint."""

from __future__ import annotations

from typing import Annotated

import typer

from finery.cli.command import Columns, Shell, command
from finery.cli.reading import EVENT_COLUMNS

group = typer.Typer(help="Deployments: create, start, stop, delete.", no_args_is_help=True)
Deployment = Annotated[str, typer.Argument(help="A deployment's id or name.")]
Wait = Annotated[bool, typer.Option(help="Wait until it is so.")]
COLUMNS: Columns = {
    "id": lambda d: d.id, "name": lambda d: d.name, "model": lambda d: d.model_name, "state": lambda d: d.state,
    "trial": lambda d: "yes" if d.trial else "", "qps": lambda d: d.qps,
}  # fmt: skip


@command(group, "list", example="finery deployments list")
def list_deployments(shell: Shell, limit: Annotated[int, typer.Option(min=1, max=100)] = 20) -> None:
    """List deployments, oldest first."""
    with shell.finery as finery:
        shell.many(finery.deployments.list(limit=limit).data, COLUMNS)


@command(group, "show", example="finery deployments show support")
def show(shell: Shell, deployment: Deployment) -> None:
    """Show everything about a deployment."""
    with shell.finery as finery:
        shell.one(finery.deployments.get(deployment))


@command(group, "events", example="finery deployments events support")
def events(
    shell: Shell,
    deployment: Deployment,
    after: Annotated[int, typer.Option(min=0, help="From this cursor on.")] = 0,
    limit: Annotated[int, typer.Option(min=1, max=1000)] = 50,
) -> None:
    """Show what happened to a deployment lately, oldest first."""
    with shell.finery as finery:
        found = finery.deployments.events(deployment, after=after, limit=limit)
        shell.many(found.data, EVENT_COLUMNS)
        if found.has_more:
            shell.say(f"[dim]there is more: --after {found.next}[/]")


@command(group, "create", example="finery deployments create support --model ft:…")
def create(
    shell: Shell,
    name: Annotated[str, typer.Argument(help="What callers say as `model`.")],
    model: Annotated[str, typer.Option(help="A model's id, name or ft: name.")],
    qps: Annotated[float, typer.Option(help="Requests per second.")] = 5.0,
    default_max_tokens: Annotated[int, typer.Option(help="For calls that do not say max_tokens.")] = 16,
    idle_stop_s: Annotated[float | None, typer.Option(help="Stop after so many seconds without a call.")] = None,
    wait: Wait = True,
) -> None:
    """Deploy a model under a name."""
    from finery_contracts.deployments import DeploymentState, DeployRequest

    request = DeployRequest(
        name=name, model=model, qps=qps, default_max_tokens=default_max_tokens, idle_stop_s=idle_stop_s
    )
    with shell.finery as finery:
        made = finery.deployments.create(request)
        shell.one(finery.deployments.wait(made.id, DeploymentState.RUNNING) if wait else made)


@command(group, "start", example="finery deployments start support")
def start(shell: Shell, deployment: Deployment, wait: Wait = True) -> None:
    """Start a stopped deployment."""
    from finery_contracts.deployments import DeploymentState

    with shell.finery as finery:
        made = finery.deployments.start(deployment)
        shell.one(finery.deployments.wait(made.id, DeploymentState.RUNNING) if wait else made)


@command(group, "stop", example="finery deployments stop support")
def stop(shell: Shell, deployment: Deployment, wait: Wait = True) -> None:
    """Stop a deployment; running answers are finished."""
    from finery_contracts.deployments import DeploymentState

    with shell.finery as finery:
        made = finery.deployments.stop(deployment)
        shell.one(finery.deployments.wait(made.id, DeploymentState.STOPPED) if wait else made)


@command(group, "delete", example="finery deployments delete support")
def delete(shell: Shell, deployment: Deployment) -> None:
    """Delete a stopped deployment; its name is free again."""
    with shell.finery as finery:
        shell.one(finery.deployments.delete(deployment))
