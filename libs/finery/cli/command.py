"""What every command shares: the connection, ``--json``, and how errors leave. It refuses to print a traceback.

Exit status: 0 done, 1 the installation said no or something failed, 2 the command itself was wrong.
"""

from __future__ import annotations

import functools
import inspect
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import typer
from pydantic import BaseModel
from rich.console import Console
from rich.panel import Panel
from rich.table import Table

from finery.client import Finery
from finery.errors import FineryAPIError, TaskDidNotSucceed
from finery_contracts.errors import ErrorBody, FineryError

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
        known = json.loads(path.read_text())
        return self.url or known["url"], self.api_key or known["api_key"]

    def one(self, view: BaseModel | Mapping[str, Any], *, title: str = "") -> None:
        """One thing."""
        plain = view.model_dump(mode="json") if isinstance(view, BaseModel) else dict(view)
        if self.as_json:
            print(json.dumps(plain))
            return
        table = Table(title=title or None, show_header=False, box=None)
        for name, value in plain.items():
            if value not in (None, "", [], {}):
                shown = value if isinstance(value, str) else json.dumps(value, indent=1)
                table.add_row(f"[bold]{name}[/]", shown)
        self.console.print(table)

    def many(self, views: Sequence[BaseModel], columns: Columns) -> None:
        """A list: a table for people, a line an item for programs."""
        if self.as_json:
            for view in views:
                print(view.model_dump_json())
            return
        table = Table()
        for name in columns:
            table.add_column(name)
        for view in views:
            table.add_row(*(str(value(view) if value(view) is not None else "") for value in columns.values()))
        self.console.print(table if views else "[dim]none yet[/]")

    def say(self, text: str) -> None:
        """A word to a person; nothing under ``--json``."""
        if not self.as_json:
            self.console.print(text)


def command(group: typer.Typer, name: str, *, example: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Register ``function(shell, …)``: its own parameters, then connection and ``--json``."""

    def register(function: Callable[..., None]) -> Callable[..., None]:
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
        group.command(name, epilog=f"Example: {example}")(run)
        return function

    return register


class errors_shown:  # noqa: N801 - reads as a phrase where it is used
    """Errors leave as a panel, or as JSON on standard error, with the exit status that fits."""

    def __init__(self, *, as_json: bool) -> None:
        self._as_json = as_json

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type[BaseException] | None, fault: BaseException | None, trace: object) -> None:
        if isinstance(fault, TaskDidNotSucceed):
            body = fault.task.error or ErrorBody(code=f"task_{fault.task.state}", message=str(fault))
            self._leave(body, 1, fault)
        if isinstance(fault, FineryAPIError):
            body = ErrorBody(code=fault.code, message=fault.message, param=fault.param, details=fault.details)
            self._leave(body, 1, fault)
        if isinstance(fault, FineryError):
            self._leave(fault.body, 1, fault)
        if isinstance(fault, UserMistake):
            self._leave(ErrorBody(code="command_invalid", message=str(fault)), 2, fault)
        if isinstance(fault, OSError):
            place = f"{fault.filename}: " if fault.filename else ""
            self._leave(ErrorBody(code="file_not_readable", message=f"{place}{fault.strerror or fault}"), 2, fault)
        if isinstance(fault, KeyboardInterrupt):
            raise typer.Exit(130) from fault

    def _leave(self, body: ErrorBody, status: int, fault: BaseException) -> None:
        if self._as_json:
            print(json.dumps({"error": body.model_dump(mode="json")}), file=sys.stderr)
        else:
            show_error(body)
        raise typer.Exit(status) from fault


def show_error(body: ErrorBody) -> None:
    """Code, message, place, and a table of the single faults."""
    console = Console(stderr=True)
    place = f"\n[dim]at[/] {body.param}" if body.param else ""
    console.print(Panel(f"{body.message}{place}", title=f"[red]{body.code}", border_style="red"))
    rows = body.details
    if rows:
        names = list(dict.fromkeys(name for row in rows for name, value in row.items() if value is not None))
        table = Table(*names)
        for row in rows[:20]:
            table.add_row(*(str(row.get(name, "")) for name in names))
        console.print(table)
        if len(rows) > 20:
            console.print(f"[dim]… and {len(rows) - 20} more; --json shows all[/]")
