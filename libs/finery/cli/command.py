"""What every command shares: the connection, ``--json``, and how errors leave. It refuses to print a traceback.

Exit status: 0 done, 1 the installation said no or something failed, 2 the command itself was wrong.
"""

from __future__ import annotations

import functools
import inspect
import json
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.panel import Panel
from rich.table import Table

if TYPE_CHECKING:
    from pydantic import BaseModel

    from finery.client import Finery
    from finery_contracts.errors import ErrorBody

DEFAULT_HOME = Path(".finery")
Columns = Mapping[str, Callable[[Any], object]]
"""Heading → what stands there."""
URL = typer.Option("--url", envvar="FINERY_URL", help="Where the installation answers.", rich_help_panel="Connection")
KEY = typer.Option("--api-key", envvar="FINERY_API_KEY", help="A key of a project.", rich_help_panel="Connection")
HOME = typer.Option(
    "--home", envvar="FINERY_HOME", help="Home of a local installation; its connection.json is used.",
    rich_help_panel="Connection",
)  # fmt: skip
JSON = typer.Option("--json", help="Print JSON: one object, or one line an item.")


class UserMistake(Exception):
    """The command cannot be followed as it was given."""


@dataclass
class Shell:
    """What a command works with."""

    as_json: bool
    url: str | None = None
    api_key: str | None = None
    home: Path = DEFAULT_HOME
    console: Console = field(default_factory=Console)

    @property
    def finery(self) -> Finery:
        """A client of the installation that was named, or of the local one."""
        from finery.client import Finery

        url, key = self.connection
        return Finery(url, key)

    @property
    def connection(self) -> tuple[str, str]:
        """URL and key: from the options, the environment, or the home's connection.json."""
        if self.url and self.api_key:
            return self.url, self.api_key
        path = self.home / "connection.json"
        if not path.exists():
            raise UserMistake(
                f"no installation is known: {path} is not there. Start one with `finery up`, name its --home, or give "
                "--url and --api-key (or FINERY_URL and FINERY_API_KEY)."
            )
        try:
            known = json.loads(path.read_text())
            return self.url or known["url"], self.api_key or known["api_key"]
        except (ValueError, KeyError, TypeError) as fault:
            raise UserMistake(f"{path} is not what `finery up` writes; start it again, or give --url") from fault

    def one(self, view: BaseModel | Mapping[str, Any], *, title: str = "") -> None:
        """One thing."""
        plain = dict(view) if isinstance(view, Mapping) else view.model_dump(mode="json")
        if self.as_json:
            print(json.dumps(plain))
            return
        table = Table(title=title or None, show_header=False, box=None)
        table.add_column()
        table.add_column(overflow="fold")
        for name, value in plain.items():
            if value not in (None, "", [], {}):
                shown = value if isinstance(value, str) else json.dumps(value, indent=1)
                table.add_row(f"[bold]{escape(name)}[/]", escape(shown))
        self.console.print(table)

    def many(self, views: Sequence[BaseModel], columns: Columns) -> None:
        """A list: a table for people, a line an item for programs."""
        if self.as_json:
            for view in views:
                print(view.model_dump_json())
            return
        table = Table()
        rows = [[_plain(value(view)) for value in columns.values()] for view in views]
        for place, name in enumerate(columns):
            # An id is there to be copied: however narrow the screen, it is shown whole.
            whole = max((len(row[place]) for row in rows), default=0) if name == "id" else None
            table.add_column(name, min_width=whole, overflow="fold")
        for row in rows:
            table.add_row(*map(escape, row))
        self.console.print(table if views else "[dim]none yet[/]")

    def say(self, text: str) -> None:
        """A word to a person; nothing under ``--json``."""
        if not self.as_json:
            self.console.print(text)


def _plain(cell: object) -> str:
    """What stands in a table; amounts without an exponent."""
    if cell is None:
        return ""
    return f"{cell:f}" if isinstance(cell, Decimal) else str(cell)


def command(group: typer.Typer, name: str, *, example: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Register ``function(shell, …)``: its own parameters, then connection and ``--json``."""

    def register(function: Callable[..., None]) -> Callable[..., None]:
        group.command(name, epilog=f"Example: {example}")(_connected(function))
        return function

    return register


def command_of_group(group: typer.Typer, *, example: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """The same for what a group does when none of its commands is named."""

    def register(function: Callable[..., None]) -> Callable[..., None]:
        alone = _connected(function)

        @functools.wraps(alone)
        def run(*, ctx: typer.Context, **arguments: Any) -> None:
            if ctx.invoked_subcommand is None:
                alone(**arguments)

        context = inspect.Parameter("ctx", inspect.Parameter.KEYWORD_ONLY, annotation=typer.Context)
        own = inspect.signature(alone).parameters.values()
        vars(run)["__signature__"] = inspect.Signature([context, *own])
        run.__annotations__ = {"ctx": typer.Context, **alone.__annotations__}
        group.callback(invoke_without_command=True, epilog=f"Example: {example}")(run)
        return function

    return register


def _connected(function: Callable[..., None]) -> Callable[..., None]:
    """``function`` with the parameters that every command has."""

    @functools.wraps(function)
    def run(*, url: str | None, api_key: str | None, home: Path, as_json: bool, **arguments: Any) -> None:
        shell = Shell(as_json, url, api_key, home)
        with errors_shown(as_json=as_json):
            function(shell, **arguments)

    own = list(inspect.signature(function, eval_str=True).parameters.values())[1:]
    shared: dict[str, tuple[Any, Any, object]] = {
        "url": (str | None, URL, None),
        "api_key": (str | None, KEY, None),
        "home": (Path, HOME, DEFAULT_HOME),
        "as_json": (bool, JSON, False),
    }
    extra = [
        inspect.Parameter(key, inspect.Parameter.KEYWORD_ONLY, annotation=Annotated[kind, option], default=default)
        for key, (kind, option, default) in shared.items()
    ]
    keyword = [p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in own]
    vars(run)["__signature__"] = inspect.Signature([*keyword, *extra])
    run.__annotations__ = {p.name: p.annotation for p in [*keyword, *extra]}
    return run


class errors_shown:  # noqa: N801 - reads as a phrase where it is used
    """Errors leave as a panel, or as JSON on standard error, with the exit status that fits."""

    def __init__(self, *, as_json: bool) -> None:
        self._as_json = as_json

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type[BaseException] | None, fault: BaseException | None, trace: object) -> None:
        if fault is None:
            return
        if isinstance(fault, KeyboardInterrupt):
            raise typer.Exit(130) from fault
        if isinstance(fault, BrokenPipeError):
            # Whoever read our output has enough; what Python would still flush goes nowhere.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise typer.Exit(1) from fault
        told = told_of(fault)
        if told is not None:
            body, status = told
            leave(body, as_json=self._as_json)
            raise typer.Exit(status) from fault


def told_of(fault: BaseException) -> tuple[ErrorBody, int] | None:
    """What to say of an error, and the exit status; None for one that nobody foresaw."""
    from pydantic import ValidationError

    from finery.errors import FineryAPIError
    from finery_contracts.errors import ErrorBody, FineryError

    if isinstance(fault, FineryAPIError):
        return ErrorBody(code=fault.code, message=fault.message, param=fault.param, details=fault.details), 1
    if isinstance(fault, FineryError):
        return fault.body, 1
    if isinstance(fault, UserMistake):
        return ErrorBody(code="command_invalid", message=str(fault)), 2
    if isinstance(fault, ValidationError):
        details = [{"field": ".".join(map(str, e["loc"])), "reason": e["msg"]} for e in fault.errors()]
        return ErrorBody(code="command_invalid", message="the command's values are not valid", details=details), 2
    if isinstance(fault, TimeoutError):  # an OSError too, so it is asked for first
        return ErrorBody(code="timeout", message=f"{fault}; look again later, nothing was stopped"), 1
    if isinstance(fault, OSError):
        place = f"{fault.filename}: " if fault.filename else ""
        return ErrorBody(code="file_not_readable", message=f"{place}{fault.strerror or fault}"), 2
    return None


def leave(body: ErrorBody, *, as_json: bool) -> None:
    """The last word: on standard error, in the form that was asked for."""
    if as_json:
        print(json.dumps({"error": body.model_dump(mode="json")}), file=sys.stderr)
    else:
        show_error(body)


def show_error(body: ErrorBody) -> None:
    """Code, message, place, and a table of the single faults."""
    console = Console(stderr=True)
    place = f"\n[dim]at[/] {escape(body.param)}" if body.param else ""
    console.print(Panel(f"{escape(body.message)}{place}", title=f"[red]{escape(body.code)}", border_style="red"))
    rows = body.details
    if rows:
        names = list(dict.fromkeys(name for row in rows for name, value in row.items() if value is not None))
        table = Table(*names)
        for row in rows[:20]:
            table.add_row(*(escape(str(row.get(name, ""))) for name in names))
        console.print(table)
        if len(rows) > 20:
            console.print(f"[dim]… and {len(rows) - 20} more; --json shows all[/]")
