"""finery bill, budgets, packages, estimate: what was charged, what may be spent, what is paid in advance."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from finery.cli.command import Columns, Shell, command, command_of_group

if TYPE_CHECKING:
    from finery_contracts.billing import Bill

bills = typer.Typer(help="What was charged.", no_args_is_help=False, invoke_without_command=True)
budgets = typer.Typer(help="What the project means to spend.", no_args_is_help=True)
packages = typer.Typer(help="Hours of a flavour, bought in advance.", no_args_is_help=True)
By = Annotated[Literal["project", "task", "day", "user", "noun"], typer.Option(help="How to group.")]
Since = Annotated[str | None, typer.Option(help="From this UTC day (2026-01-31) or time with its zone on.")]
Until = Annotated[str | None, typer.Option(help="Before this day or time.")]
Size = Annotated[int, typer.Option(min=1, max=100)]


@command_of_group(bills, example="finery bill --by day")
def bill(shell: Shell, by: By = "task", since: Since = None, until: Until = None) -> None:
    """Show what was charged."""
    with shell.finery as finery:
        _show(shell, finery.bill.summary(by=by, since=since, until=until))


@command(bills, "as-of", example="finery bill as-of 2026-03-01T12:00:00Z")
def as_of(
    shell: Shell,
    time: Annotated[str, typer.Argument(help="A UTC day, or a time with its zone.")],
    by: By = "task",
) -> None:
    """Show what the bill was at a time, by what was known then."""
    with shell.finery as finery:
        _show(shell, finery.bill.as_of(time, by=by))


@command(bills, "lines", example="finery bill lines --of task_01k…")
def lines(
    shell: Shell, of: Annotated[str | None, typer.Option(help="A task's or deployment's id.")] = None, limit: Size = 20
) -> None:
    """List ledger lines, oldest first."""
    columns: Columns = {
        "id": lambda line: line.id, "what": lambda line: line.name or line.noun_id,
        "quantity": lambda line: f"{line.quantity:f} {line.unit}", "amount": lambda line: line.amount,
        "started": lambda line: line.started_at, "package": lambda line: line.package,
    }  # fmt: skip
    with shell.finery as finery:
        shell.many(finery.bill.lines(noun_id=of, limit=limit).data, columns)


@command(bills, "verify", example="finery bill verify")
def verify(
    shell: Shell,
    all_projects: Annotated[bool, typer.Option("--all-projects", help="Of the installation (operator).")] = False,
) -> None:
    """Prove the ledger from the event log, line by line; leaves with 1 when they differ."""
    with shell.finery as finery:
        found = finery.bill.verify(all_projects=all_projects)
    if shell.as_json:
        shell.one(found)
    else:
        if found.differences:
            columns: Columns = {
                "line": lambda d: d.key, "what": lambda d: d.what, "ledger": lambda d: d.ledger, "log": lambda d: d.log,
                "event": lambda d: d.event,
            }  # fmt: skip
            shell.many(found.differences, columns)
        verdict = "equal" if found.ok else "NOT equal"
        shell.say(
            f"{verdict}: {found.lines} lines, {found.facts} facts; ledger {found.total_ledger:f} {found.currency}, "
            f"log {found.total_log:f} {found.currency}"
        )
    if not found.ok:
        raise typer.Exit(1)


@command(bills, "export", example="finery bill export --format focus > march.csv")
def export(
    shell: Shell,
    form: Annotated[Literal["csv", "focus"], typer.Option("--format", help="focus: FOCUS 1.2.")] = "csv",
    since: Since = None,
    until: Until = None,
) -> None:
    """Write the lines as a table, each with the ids of its events."""
    with shell.finery as finery:
        for piece in finery.bill.export(form=form, since=since, until=until):
            sys.stdout.write(piece)


@command(bills, "cost", example="finery bill cost task_01k…")
def cost(shell: Shell, of: Annotated[str, typer.Argument(help="A task's or deployment's id.")]) -> None:
    """Show what a task or deployment has cost so far; what runs now is an estimate."""
    with shell.finery as finery:
        found = finery.bill.cost(of)
    if shell.as_json:
        shell.one(found)
        return
    shell.say(f"{found.amount:f} {found.currency}: {found.charged:f} charged, {found.running:f} for what runs now")


@command(bills, "accounts", example="finery bill accounts")
def accounts(shell: Shell) -> None:
    """Show the balances of the double-entry ledger."""
    with shell.finery as finery:
        found = finery.bill.accounts()
    if shell.as_json:
        shell.one(found)
        return
    shell.many(found.data, {"account": lambda a: a.name, "balance": lambda a: a.balance})
    shell.say(f"sum {found.sum:f} {found.currency}")


@command(budgets, "list", example="finery budgets list")
def list_budgets(shell: Shell) -> None:
    """List budgets and what is used of them."""
    columns: Columns = {
        "id": lambda b: b.id, "name": lambda b: b.name, "period": lambda b: b.period, "limit": lambda b: b.limit,
        "used": lambda b: b.used, "stops": lambda b: b.stop, "used up": lambda b: b.exhausted,
    }  # fmt: skip
    with shell.finery as finery:
        shell.many(finery.budgets.list().data, columns)


@command(budgets, "create", example="finery budgets create lab 100 --alert-at 50 --alert-at 90 --stop")
def create_budget(
    shell: Shell,
    name: Annotated[str, typer.Argument(help="A name that is free.")],
    limit: Annotated[str, typer.Argument(help="In the currency of the price list.")],
    period: Annotated[Literal["month", "total"], typer.Option(help="The UTC month, or everything.")] = "month",
    alert_at: Annotated[list[int] | None, typer.Option(help="Percentages that are told.")] = None,
    stop: Annotated[bool, typer.Option("--stop", help="Stop running work when it is used up.")] = False,
    user: Annotated[str | None, typer.Option(help="Count only this user's work.")] = None,
) -> None:
    """Make a budget."""
    with shell.finery as finery:
        alerts = tuple(alert_at) if alert_at else (50, 80, 100)
        shell.one(finery.budgets.create(name, limit, period=period, alert_at=alerts, stop=stop, user=user))


@command(budgets, "delete", example="finery budgets delete lab")
def delete_budget(shell: Shell, budget: Annotated[str, typer.Argument(help="A budget's id or name.")]) -> None:
    """Delete a budget; what it stopped may go on."""
    with shell.finery as finery:
        shell.one(finery.budgets.delete(budget))


@command(packages, "offers", example="finery packages offers")
def offers(shell: Shell) -> None:
    """List what can be bought."""
    columns: Columns = {
        "name": lambda o: o.name, "flavour": lambda o: o.flavour, "hours": lambda o: o.hours,
        "each": lambda o: o.reset, "months": lambda o: o.valid_months, "days": lambda o: o.valid_days,
        "price": lambda o: o.price,
    }  # fmt: skip
    with shell.finery as finery:
        shell.many(finery.packages.offers().data, columns)


@command(packages, "list", example="finery packages list")
def list_packages(shell: Shell, limit: Size = 20) -> None:
    """List what was bought and what is left of it."""
    columns: Columns = {
        "id": lambda p: p.id, "offer": lambda p: p.offer, "state": lambda p: p.state, "left": lambda p: p.left_hours,
        "period ends": lambda p: p.period_end, "ends": lambda p: p.ends_at,
    }  # fmt: skip
    with shell.finery as finery:
        shell.many(finery.packages.list(limit=limit).data, columns)


@command(packages, "buy", example="finery packages buy gpu-month-100")
def buy(
    shell: Shell,
    offer: Annotated[str, typer.Argument(help="The name of an offer.")],
    starts_at: Annotated[str | None, typer.Option(help="A later day or time; otherwise now.")] = None,
) -> None:
    """Buy hours in advance; the price is due at once and is not given back."""
    with shell.finery as finery:
        shell.one(finery.packages.buy(offer, starts_at=starts_at))


def estimate(
    shell: Shell,
    flavour: Annotated[str, typer.Option(help="What it would run on.")] = "cpu",
    instances: Annotated[int, typer.Option(min=1, help="How many of it.")] = 1,
    seconds: Annotated[float | None, typer.Option(help="How long it runs, if that is known.")] = None,
    model: Annotated[str | None, typer.Option(help="Otherwise the model, such as Qwen2-0.5B,")] = None,
    method: Annotated[Literal["full", "lora"], typer.Option(help="the method")] = "lora",
    iterations: Annotated[int | None, typer.Option(help="and the iterations.")] = None,
    count: Annotated[str | None, typer.Option(help="A task that counted tokens: its tokens and its model.")] = None,
    tokens: Annotated[int | None, typer.Option(min=1, help="Or the tokens of one pass over the data.")] = None,
    epochs: Annotated[int, typer.Option(min=1, help="Passes over these tokens.")] = 1,
    throughput: Annotated[float | None, typer.Option(help="Tokens a second and card, if known.")] = None,
    cards: Annotated[int, typer.Option(min=1, help="Accelerators of one instance.")] = 1,
) -> None:
    """Show how long something would run and what it would cost, with a range."""
    asked = {"seconds": seconds, "model": model, "iterations": iterations, "count": count, "tokens": tokens}
    sized = {"flavour": flavour, "instances": instances, "method": method, "cards": cards}
    with shell.finery as finery:
        found = finery.bill.estimate(**sized, **asked, epochs=epochs, throughput=throughput)
    if shell.as_json:
        shell.one(found)
        return
    columns: Columns = {
        "seconds": lambda p: round(p.seconds, 1), "hours": lambda p: p.hours, "price": lambda p: p.amount,
        "from packages": lambda p: sum(c.hours for c in p.covered) or None,
    }  # fmt: skip
    shell.many([found.price.low, found.price.expected, found.price.high], columns)
    shell.say(f"{found.price.currency}; by {found.duration.basis}; nothing is promised")


def register(app: typer.Typer) -> None:
    """Put these commands on the application."""
    app.add_typer(bills, name="bill")
    app.add_typer(budgets, name="budgets")
    app.add_typer(packages, name="packages")
    command(app, "estimate", example="finery estimate --flavour gpu --seconds 3600")(estimate)


def _show(shell: Shell, found: Bill) -> None:
    if shell.as_json:
        shell.one(found)
        return
    columns: Columns = {
        "what": lambda r: r.name or r.key, "id": lambda r: r.key, "quantity": lambda r: f"{r.quantity:f} {r.unit}",
        "from packages": lambda r: r.from_packages or None, "amount": lambda r: r.amount,
    }  # fmt: skip
    shell.many(found.rows, columns)
    shell.say(f"total {found.total:f} {found.currency}")
