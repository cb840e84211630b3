"""finery grants, connections, uploads: where data may come from, and large files on their way."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

import typer

from finery.cli.command import Columns, Shell, UserMistake, command

if TYPE_CHECKING:
    from finery_contracts.grants import GrantView

grants = typer.Typer(help="Grants: what Finery may do on a user's behalf.", no_args_is_help=True)
connections = typer.Typer(help="Connections: registered object stores and databases.", no_args_is_help=True)
uploads = typer.Typer(help="Uploads: large files that come in pieces.", no_args_is_help=True)
Action = Annotated[Literal["read", "write", "publish", "call"], typer.Argument(help="What is allowed.")]
Kind = Annotated[
    Literal["user", "federated_user", "group", "everyone"], typer.Option("--for", help="Whose tasks may do it.")
]
Named = Annotated[str | None, typer.Option("--name", help="Of the user or group.")]
Days = Annotated[int | None, typer.Option(min=1, help="Default: for ever.")]
Yes = Annotated[str, typer.Option("--confirm", prompt="This cannot be undone; type DELETE", help="The word DELETE.")]
GRANT_COLUMNS: Columns = {
    "id": lambda g: g.id, "action": lambda g: g.action, "resource": lambda g: g.resource, "for": lambda g: _target(g),
    "until": lambda g: g.expires_at or "for ever",
}  # fmt: skip
CONNECTION_COLUMNS: Columns = {
    "id": lambda c: c.id, "name": lambda c: c.name, "kind": lambda c: c.endpoint.kind,
    "place": lambda c: c.endpoint.url or c.endpoint.host or c.endpoint.database, "opens with": lambda c: c.hint,
}  # fmt: skip
UPLOAD_COLUMNS: Columns = {
    "id": lambda u: u.id, "file": lambda u: u.filename, "state": lambda u: u.state,
    "bytes": lambda u: f"{u.offset:,} of {u.size_bytes:,}", "dataset": lambda u: u.dataset,
    "until": lambda u: u.expires_at,
}  # fmt: skip


@command(grants, "list", example="finery grants list")
def list_grants(shell: Shell) -> None:
    """List the project's grants that hold."""
    with shell.finery as finery:
        shell.many(finery.grants.list().data, GRANT_COLUMNS)


@command(grants, "give", example="finery grants give read s3://data/train --for user --name anna --days 1")
def give(
    shell: Shell, action: Action,
    resource: Annotated[str, typer.Argument(help="s3://bucket/prefix, file:///folder, https://host, sql://connection.")],
    target: Kind = "everyone", name: Named = None, days: Days = None,
) -> None:  # fmt: skip
    """Allow tasks to read, write, publish to or call a place and what lies below it."""
    with shell.finery as finery:
        shell.one(finery.grants.give(action, resource, target=target, name=name, days=days))


@command(grants, "show", example="finery grants show grant_01k9…")
def show_grant(shell: Shell, grant: str) -> None:
    """Show a grant."""
    with shell.finery as finery:
        shell.one(finery.grants.get(grant))


@command(grants, "narrow", example="finery grants narrow grant_01k9… --resource s3://data/train/2026")
def narrow(
    shell: Shell, grant: str, resource: Annotated[str | None, typer.Option(help="A part of what it was.")] = None,
    target: Annotated[Literal["user", "federated_user", "group"] | None, typer.Option("--for")] = None,
    name: Named = None, days: Annotated[int | None, typer.Option(min=1, help="It ends so soon.")] = None,
) -> None:  # fmt: skip
    """Let a grant allow less."""
    with shell.finery as finery:
        shell.one(finery.grants.narrow(grant, resource=resource, target=target, name=name, days=days))


@command(grants, "delete", example="finery grants delete grant_01k9…")
def delete_grant(shell: Shell, grant: str) -> None:
    """Take a grant away."""
    with shell.finery as finery:
        finery.grants.delete(grant)
        shell.one({"id": grant, "deleted": True})


@command(grants, "clear", example="finery grants clear --confirm DELETE")
def clear(shell: Shell, confirm: Yes) -> None:
    """Take all grants of the project away."""
    _confirmed(confirm)
    with shell.finery as finery:
        shell.one({"deleted": finery.grants.clear()})


@command(connections, "list", example="finery connections list")
def list_connections(shell: Shell) -> None:
    """List what is registered; what opens it is never shown."""
    with shell.finery as finery:
        shell.many(finery.connections.list().data, CONNECTION_COLUMNS)


@command(connections, "add-s3", example="finery connections add-s3 lake --endpoint https://s3.example.com")
def add_s3(
    shell: Shell, name: str,
    access_key: Annotated[str, typer.Option(prompt=True, envvar="AWS_ACCESS_KEY_ID")],
    secret_key: Annotated[str, typer.Option(prompt=True, hide_input=True, envvar="AWS_SECRET_ACCESS_KEY")],
    endpoint: Annotated[str | None, typer.Option(help="Default: Amazon's of the region.")] = None,
    region: str = "us-east-1",
) -> None:  # fmt: skip
    """Register an S3-compatible object store."""
    with shell.finery as finery:
        made = finery.connections.add_s3(
            name, access_key=access_key, secret_key=secret_key, endpoint=endpoint, region=region
        )
        shell.one(made)


@command(connections, "add-postgres", example="finery connections add-postgres books")
def add_postgres(
    shell: Shell, name: str,
    dsn: Annotated[str, typer.Option(prompt=True, hide_input=True, help="postgresql://user:password@host/database.")],
) -> None:  # fmt: skip
    """Register a Postgres database; a role that may only read is wise."""
    with shell.finery as finery:
        shell.one(finery.connections.add_postgres(name, dsn))


@command(connections, "add-sqlite", example="finery connections add-sqlite shop file:///data/shop.sqlite")
def add_sqlite(shell: Shell, name: str, path: Annotated[str, typer.Argument(help="On the server.")]) -> None:
    """Register an SQLite file under an allowed root of the server."""
    with shell.finery as finery:
        shell.one(finery.connections.add_sqlite(name, path))


@command(connections, "delete", example="finery connections delete lake --confirm DELETE")
def delete_connection(shell: Shell, connection: str, confirm: Yes) -> None:
    """Forget a connection and what opens it."""
    _confirmed(confirm)
    with shell.finery as finery:
        finery.connections.delete(connection)
        shell.one({"id": connection, "deleted": True})


@command(uploads, "list", example="finery uploads list")
def list_uploads(shell: Shell, limit: Annotated[int, typer.Option(min=1, max=100)] = 20) -> None:
    """List uploads, newest first."""
    with shell.finery as finery:
        shell.many(finery.uploads.list(limit=limit).data, UPLOAD_COLUMNS)


@command(uploads, "delete", example="finery uploads delete upl_01k9…")
def delete_upload(shell: Shell, upload: str) -> None:
    """Give an upload up, with the bytes that came."""
    with shell.finery as finery:
        finery.uploads.delete(upload)
        shell.one({"id": upload, "deleted": True})


def _target(grant: GrantView) -> str:
    return grant.target.kind if grant.target.name is None else f"{grant.target.kind} {grant.target.name}"


def _confirmed(word: str) -> None:
    if word != "DELETE":
        raise UserMistake("what cannot be undone asks for the word DELETE")
