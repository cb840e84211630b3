"""finery keys, projects, topics, subscriptions: what belongs to a project."""

from __future__ import annotations

from typing import Annotated, Literal

import typer

from finery.cli.command import Columns, Shell, command

keys = typer.Typer(help="API keys: at most five for each user and project.", no_args_is_help=True)
projects = typer.Typer(help="Projects (for the operator).", no_args_is_help=True)
topics = typer.Typer(help="Topics that webhooks hear.", no_args_is_help=True)
subscriptions = typer.Typer(help="Webhook subscriptions and their deliveries.", no_args_is_help=True)
Size = Annotated[int, typer.Option(min=1, max=100)]


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


@command(topics, "list", example="finery topics list")
def list_topics(shell: Shell, limit: Size = 20) -> None:
    """List topics."""
    with shell.finery as finery:
        shell.many(finery.topics.list(limit=limit).data, {"id": lambda t: t.id, "name": lambda t: t.name})


@command(topics, "create", example="finery topics create jobs")
def create_topic(shell: Shell, name: Annotated[str, typer.Argument(help="Letters, digits, - and _.")]) -> None:
    """Make a topic."""
    with shell.finery as finery:
        shell.one(finery.topics.create(name))


@command(topics, "delete", example="finery topics delete jobs")
def delete_topic(shell: Shell, topic: Annotated[str, typer.Argument(help="A topic's id or name.")]) -> None:
    """Delete a topic with its subscriptions."""
    with shell.finery as finery:
        shell.one(finery.topics.delete(topic))


@command(subscriptions, "list", example="finery subscriptions list")
def list_subscriptions(shell: Shell, limit: Size = 20) -> None:
    """List subscriptions."""
    with shell.finery as finery:
        columns: Columns = {
            "id": lambda s: s.id,
            "topic": lambda s: s.topic,
            "url": lambda s: s.url,
            "state": lambda s: s.state,
        }
        shell.many(finery.subscriptions.list(limit=limit).data, columns)


@command(subscriptions, "create", example="finery subscriptions create jobs https://example.com/hook")
def subscribe(
    shell: Shell,
    topic: Annotated[str, typer.Argument(help="A topic's id or name.")],
    endpoint: Annotated[str, typer.Argument(help="URL where the webhook listens.")],
    event: Annotated[list[str] | None, typer.Option(help="Only such events, e.g. task.succeeded or task.*.")] = None,
) -> None:
    """Subscribe a webhook; its secret is shown now and never again."""
    with shell.finery as finery:
        shell.one(finery.subscriptions.create(topic, endpoint, events=event or []))


@command(subscriptions, "deliveries", example="finery subscriptions deliveries sub_01k…")
def deliveries(
    shell: Shell, subscription: Annotated[str, typer.Argument(help="A subscription's id.")], limit: Size = 20
) -> None:
    """List what was sent, and what the endpoint answered."""
    with shell.finery as finery:
        columns: Columns = {
            "event": lambda d: d.event_type, "state": lambda d: d.state, "attempts": lambda d: d.attempts,
            "status": lambda d: d.last_status, "error": lambda d: d.last_error,
        }  # fmt: skip
        shell.many(finery.subscriptions.deliveries(subscription, limit=limit).data, columns)


@command(subscriptions, "delete", example="finery subscriptions delete sub_01k…")
def unsubscribe(shell: Shell, subscription: Annotated[str, typer.Argument(help="A subscription's id.")]) -> None:
    """Delete a subscription."""
    with shell.finery as finery:
        shell.one(finery.subscriptions.delete(subscription))


def register(app: typer.Typer) -> None:
    """Put these commands on the application."""
    app.add_typer(keys, name="keys")
    app.add_typer(projects, name="projects")
    app.add_typer(topics, name="topics")
    app.add_typer(subscriptions, name="subscriptions")
