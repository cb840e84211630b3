"""finery topics, subscriptions, deliveries: who hears of what, and what became of each message."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from finery.cli.command import Columns, Shell, UserMistake, command
from finery.cli.reading import moment, short_type

if TYPE_CHECKING:
    from pydantic import BaseModel

    from finery.transport import Page

topics = typer.Typer(help="Topics that tasks and deployments name, and subscriptions hear.", no_args_is_help=True)
subscriptions = typer.Typer(help="Webhooks, e-mail addresses and channels that hear a topic.", no_args_is_help=True)
deliveries = typer.Typer(help="The delivery log: each message with every attempt.", no_args_is_help=True)
Size = Annotated[int, typer.Option(min=1, max=100)]
After = Annotated[str | None, typer.Option(help="From this id on, as the page before ended.")]
Topic = Annotated[str, typer.Argument(help="A topic's id or name.")]
Subscription = Annotated[str, typer.Argument(help="A subscription's id.")]
Delivery = Annotated[str, typer.Argument(help="A delivery's id.")]
Since = Annotated[str, typer.Option(help="From then on: 2h, 3d, 2026-11-01, 2026-11-21T08:00:00Z.")]
Reads = Annotated[
    Path | None,
    typer.Option(
        "--template", help='JSON file: {"subject": "…", "body": "{{ data.name }} …", "format": "text" or "json"}.'
    ),
]
SUBSCRIPTION: Columns = {
    "id": lambda s: s.id, "topic": lambda s: s.topic, "to": lambda s: s.url, "state": lambda s: s.state,
    "why": lambda s: s.why,
}  # fmt: skip
DELIVERY: Columns = {
    "id": lambda d: d.id, "event": lambda d: short_type(d.event_type), "state": lambda d: d.state,
    "attempts": lambda d: d.attempts, "status": lambda d: d.last_status, "error": lambda d: d.last_error,
    "next": lambda d: d.next_attempt_at.isoformat()[:19] if d.next_attempt_at else None,
}  # fmt: skip


@command(topics, "list", example="finery topics list")
def list_topics(shell: Shell, limit: Size = 20, after: After = None) -> None:
    """List topics, oldest first."""
    with shell.finery as finery:
        found = finery.topics.list(limit=limit, after=after)
        _page(shell, found, {"id": lambda t: t.id, "name": lambda t: t.name, "for": lambda t: t.description})


@command(topics, "create", example="finery topics create jobs")
def create_topic(
    shell: Shell,
    name: Annotated[str, typer.Argument(help="1 to 255 of letters, digits, - and _. The topic all hears everything.")],
    description: Annotated[str, typer.Option(help="What it is for.")] = "",
    template: Reads = None,
) -> None:
    """Make a topic."""
    reads = _template(template)
    with shell.finery as finery:
        shell.one(finery.topics.create(name, description=description, template=reads))


@command(topics, "delete", example="finery topics delete jobs")
def delete_topic(shell: Shell, topic: Topic) -> None:
    """Delete a topic with its subscriptions."""
    with shell.finery as finery:
        shell.one(finery.topics.delete(topic))


@command(subscriptions, "list", example="finery subscriptions list")
def list_subscriptions(shell: Shell, limit: Size = 20, after: After = None) -> None:
    """List subscriptions, oldest first."""
    with shell.finery as finery:
        _page(shell, finery.subscriptions.list(limit=limit, after=after), SUBSCRIPTION)


@command(subscriptions, "create", example="finery subscriptions create jobs --email ann@example.com --event 'task.*'")
def subscribe(
    shell: Shell,
    topic: Topic,
    endpoint: Annotated[str | None, typer.Argument(help="URL where a webhook listens, as --webhook.")] = None,
    webhook: Annotated[str | None, typer.Option(help="URL where it listens.")] = None,
    email: Annotated[str | None, typer.Option(help="An address.")] = None,
    channel: Annotated[str | None, typer.Option(help="A name that the operator declared.")] = None,
    event: Annotated[list[str] | None, typer.Option(help="task.succeeded, task.*; may be repeated.")] = None,
    filters: Annotated[
        list[str] | None,
        typer.Option("--filter", help="FIELD=VALUE, with * for anything; a field again: or; another field: and."),
    ] = None,
    ordered: Annotated[bool, typer.Option("--ordered", help="Keep the order of each task, or wait.")] = False,
    template: Reads = None,
    backfill_since: Annotated[
        str | None, typer.Option(help="Once confirmed, send the past from then on, too: 3d, 2026-11-01.")
    ] = None,
    description: Annotated[str, typer.Option(help="What it is for.")] = "",
) -> None:
    """Subscribe one address. Its owner confirms first; a webhook's secret is shown now and never again."""
    addresses = [endpoint, webhook, email, channel]
    if sum(address is not None for address in addresses) != 1:
        raise UserMistake("say where it goes, once: --webhook URL, --email ADDRESS or --channel NAME")
    wanted: dict[str, Any] = {
        "email": email or "", "channel": channel or "", "events": event or (), "filter": _filter(filters or ()),
        "ordered": ordered, "template": _template(template), "description": description,
        "backfill_since": moment(backfill_since, option="--backfill-since") if backfill_since else None,
    }  # fmt: skip
    with shell.finery as finery:
        shell.one(finery.subscriptions.create(topic, endpoint or webhook or "", **wanted))


@command(subscriptions, "show", example="finery subscriptions show sub_01k…")
def show(shell: Shell, subscription: Subscription) -> None:
    """Show a subscription: its state, what it hears, why it is off."""
    with shell.finery as finery:
        shell.one(finery.subscriptions.get(subscription))


@command(subscriptions, "delete", example="finery subscriptions delete sub_01k…")
def unsubscribe(shell: Shell, subscription: Subscription) -> None:
    """Delete a subscription with all that was on its way to it."""
    with shell.finery as finery:
        shell.one(finery.subscriptions.delete(subscription))


@command(subscriptions, "enable", example="finery subscriptions enable sub_01k…")
def enable(shell: Shell, subscription: Subscription) -> None:
    """Switch one on again that was switched off; `redeliver` sends what it missed."""
    with shell.finery as finery:
        shell.one(finery.subscriptions.enable(subscription))


@command(subscriptions, "rotate", example="finery subscriptions rotate sub_01k… --overlap-s 3600")
def rotate(
    shell: Shell,
    subscription: Subscription,
    overlap_s: Annotated[
        float, typer.Option(min=0, max=604_800, help="So long the old secret signs, too; 0: not at all.")
    ] = 86_400,
) -> None:
    """Give a webhook a new secret, shown now and never again."""
    with shell.finery as finery:
        shell.one(finery.subscriptions.rotate(subscription, overlap_s=overlap_s))


@command(subscriptions, "redeliver", example="finery subscriptions redeliver sub_01k… --since 2d")
def redeliver_since(
    shell: Shell,
    subscription: Subscription,
    since: Since,
    state: Annotated[Literal["dead", "delivered", "all"], typer.Option(help="What became of them.")] = "dead",
) -> None:
    """Send once more what happened since a time. One alone: `finery deliveries redeliver`."""
    begin = moment(since)
    with shell.finery as finery:
        shell.one(finery.subscriptions.redeliver(subscription, since=begin, state=state))


@command(subscriptions, "backfill", example="finery subscriptions backfill sub_01k… --since 2026-11-01")
def backfill(shell: Shell, subscription: Subscription, since: Since) -> None:
    """Send facts of the past from the event log, each at most once."""
    begin = moment(since)
    with shell.finery as finery:
        shell.one(finery.subscriptions.backfill(subscription, since=begin))


@command(subscriptions, "deliveries", example="finery subscriptions deliveries sub_01k… --state dead")
def list_deliveries(
    shell: Shell,
    subscription: Subscription,
    state: Annotated[
        Literal["waiting", "delivered", "dead"] | None, typer.Option(help="Only those in this state.")
    ] = None,
    limit: Size = 20,
    after: After = None,
) -> None:
    """List what was sent, newest first; `finery deliveries show` tells all of one."""
    with shell.finery as finery:
        found = finery.subscriptions.deliveries(subscription, limit=limit, after=after, state=state)
        _page(shell, found, DELIVERY)


@command(deliveries, "show", example="finery deliveries show dlv_01k…")
def show_delivery(shell: Shell, delivery: Delivery) -> None:
    """Show a delivery: request, answer and time of every attempt."""
    with shell.finery as finery:
        found = finery.deliveries.get(delivery)
    if shell.as_json:
        shell.one(found)
        return
    shell.one(found.model_dump(mode="json", exclude={"log"}))
    for attempt in found.log:
        shell.one(attempt, title=f"attempt {attempt.number}")


@command(deliveries, "redeliver", example="finery deliveries redeliver dlv_01k…")
def redeliver(shell: Shell, delivery: Delivery) -> None:
    """Send one delivery once more, at once."""
    with shell.finery as finery:
        shell.one(finery.deliveries.redeliver(delivery))


def _page(shell: Shell, found: Page[Any], columns: Columns) -> None:
    rows: list[BaseModel] = found.data
    shell.many(rows, columns)
    if found.has_more:
        shell.say(f"[dim]there is more: --after {found.next}[/]")


def _filter(said: list[str] | tuple[str, ...]) -> dict[str, list[str]]:
    """``kind=tune`` twice with two values is either; two fields are both."""
    found = dict[str, list[str]]()
    for text in said:
        field, sign, value = text.partition("=")
        if not (field and sign):
            raise UserMistake(f"--filter {text}: write FIELD=VALUE, such as kind=tune or 'name=nightly-*'")
        found.setdefault(field, []).append(value)
    return found


def _template(path: Path | None) -> dict[str, Any] | None:
    from finery_contracts.notifications import Template

    if path is None:
        return None
    try:
        said = json.loads(path.read_text("utf-8"))
    except (ValueError, RecursionError) as fault:
        raise UserMistake(f"--template {path}: this is no JSON: {fault}") from fault
    return Template.model_validate(said).model_dump()


def register(app: typer.Typer) -> None:
    """Put these commands on the application."""
    app.add_typer(topics, name="topics")
    app.add_typer(subscriptions, name="subscriptions")
    app.add_typer(deliveries, name="deliveries")
