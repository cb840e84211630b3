"""finery events, logs, chat: reading along, and talking to a model."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from finery.cli import dead
from finery.cli.command import Columns, Shell, UserMistake, command, command_of_group

if TYPE_CHECKING:
    from collections.abc import Callable

    from openai import OpenAI, Stream
    from openai.types.chat import ChatCompletionChunk

SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}
EVENT_COLUMNS: Columns = {
    "cursor": lambda e: e.seq, "time": lambda e: e.event["time"][:19], "type": lambda e: short_type(e.event["type"]),
    "of": lambda e: e.event["subject"], "state": lambda e: state_of(e.event),
}  # fmt: skip


def events(
    shell: Shell,
    since: Annotated[str | None, typer.Option(help="From then on: 2h, 3d, 2026-11-01, 2026-11-21T08:00:00Z.")] = None,
    after: Annotated[int, typer.Option(min=0, help="From this cursor on.")] = 0,
    noun: Annotated[str | None, typer.Option(help="Only of and about this task, dataset, model, …")] = None,
    types: Annotated[list[str] | None, typer.Option("--type", help="task.succeeded, task.*; may be repeated.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=1000)] = 50,
    follow: Annotated[bool, typer.Option("--follow", help="Stay and show what comes.")] = False,
) -> None:
    """Show the project's event log, oldest first; replayable from any place."""
    begin = moment(since) if since else None
    with shell.finery as finery:
        if not follow:
            found = finery.events.list(after=after, since=begin, noun=noun, types=types or (), limit=limit)
            shell.many(found.data, EVENT_COLUMNS)
            if found.has_more:
                shell.say(f"[dim]there is more: --after {found.next}[/]")
            return
        for item in finery.events.follow(after=after, since=begin, noun=noun, types=types or ()):
            line = "  ".join(str(value(item) or "") for value in EVENT_COLUMNS.values())
            print(item.model_dump_json() if shell.as_json else line, flush=True)


def moment(text: str, *, option: str = "--since") -> str:
    """A time as the API takes it, from what a person says; ``2h`` is two hours ago."""
    ago = re.fullmatch(r"([0-9]{1,6})([smhdw])", text)
    try:
        if ago is not None:
            return (datetime.now(UTC) - timedelta(seconds=int(ago[1]) * SECONDS[ago[2]])).isoformat()
        found = datetime.fromisoformat(text)
    except (ValueError, OverflowError) as fault:
        raise UserMistake(f"{option} {text}: say 2h, 3d, 2026-11-01 or 2026-11-21T08:00:00Z") from fault
    return found.replace(tzinfo=found.tzinfo or UTC).isoformat()


def short_type(kind: str) -> str:
    """``io.finery.task.succeeded.v1`` as people say it."""
    return kind.removeprefix("io.finery.").removesuffix(".v1")


def state_of(event: dict[str, Any]) -> str | None:
    """What the event says of the state; a charge says its amount."""
    data: object = event.get("data")
    if not isinstance(data, dict):
        return None
    said = cast("dict[str, Any]", data)
    if "amount" in said:
        return f"{said['amount']} {said.get('currency', '')}".strip()
    return said.get("state")


def logs(
    shell: Shell,
    task: Annotated[str, typer.Argument(help="A task's id.")],
    follow: Annotated[bool, typer.Option("--follow", help="Stay until the task has ended.")] = False,
    search: Annotated[str | None, typer.Option(help="Only lines with this text.")] = None,
) -> None:
    """Show what a task's engine wrote."""
    with shell.finery as finery:
        lines = finery.tasks.follow_logs(task) if follow else finery.tasks.logs(task, search=search).data
        for line in lines:
            if search is None or search.lower() in line.text.lower():
                print(line.model_dump_json() if shell.as_json else line.text, flush=True)


def chat(
    shell: Shell,
    model: Annotated[str, typer.Argument(help="A deployment's name or an ft: name.")],
    message: Annotated[str | None, typer.Argument(help="Without one, a conversation begins.")] = None,
    system: Annotated[str | None, typer.Option(help="The system message.")] = None,
    max_tokens: Annotated[int, typer.Option(min=1)] = 256,
    temperature: Annotated[float, typer.Option(min=0, max=2)] = 0.7,
) -> None:
    """Talk to a model; answers are streamed. An ft: name is woken by the first message."""
    from openai import OpenAI

    from finery.completions import faults_translated

    url, key = shell.connection
    history: list[dict[str, str]] = [{"role": "system", "content": system}] if system else []
    options: dict[str, Any] = {"model": model, "max_tokens": max_tokens, "temperature": temperature}
    with faults_translated(), OpenAI(base_url=f"{url}/v1", api_key=key, timeout=120, max_retries=0) as client:
        while (said := message or _asked()) is not None:
            history.append({"role": "user", "content": said})
            answer = _answer(shell, client, history, options)
            history.append({"role": "assistant", "content": answer})
            if message is not None:
                return


def _asked() -> str | None:
    """The next thing a person says; an empty line is asked again, the end of input ends the conversation."""
    try:
        while not (said := input("you> ").strip()):
            continue
    except EOFError:
        return None
    return said


def _answer(shell: Shell, client: OpenAI, history: list[dict[str, str]], options: dict[str, Any]) -> str:
    parts: list[str] = []
    create = cast("Callable[..., Stream[ChatCompletionChunk]]", client.chat.completions.create)
    for chunk in create(messages=history, stream=True, **options):
        text = chunk.choices[0].delta.content if chunk.choices else None
        if text:
            parts.append(text)
            if not shell.as_json:
                print(text, end="", flush=True)
    if shell.as_json:
        shell.one({"model": options["model"], "content": "".join(parts)})
    else:
        print()
    return "".join(parts)


def register(app: typer.Typer) -> None:
    """Put these commands on the application."""
    group = typer.Typer()
    command_of_group(group, example="finery events --follow")(events)
    group.add_typer(dead.group, name="dead")
    app.add_typer(group, name="events")
    command(app, "logs", example="finery logs task_01k… --follow")(logs)
    command(app, "chat", example='finery chat ft:smollm2-135m-instruct:default:desk:0k3 "Where is my parcel?"')(chat)
