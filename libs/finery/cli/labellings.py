"""finery labellings: have records judged by people and models, and make a dataset of what they said."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from rich.panel import Panel
from rich.prompt import Prompt
from rich.text import Text

from finery.cli.command import Columns, Shell, UserMistake, command

if TYPE_CHECKING:
    from finery_contracts.labelling import ItemView

group = typer.Typer(help="Labellings: like or dislike, A versus B, written answers.", no_args_is_help=True)
Ref = Annotated[str, typer.Argument(help="A labelling's id or name.")]
Confirm = Annotated[str, typer.Option(help="Say DELETE: the verdicts cannot be brought back.")]
COLUMNS: Columns = {
    "id": lambda v: v.id, "name": lambda v: v.name, "mode": lambda v: v.mode, "state": lambda v: v.state,
    "records": lambda v: v.records, "verdicts each": lambda v: v.per_record, "finished": lambda v: v.finished or "",
}  # fmt: skip
SHARES: Columns = {
    "labeller": lambda s: s.labeller, "model": lambda s: "yes" if s.judge else "", "verdicts": lambda s: s.judgements,
    "skipped": lambda s: s.skipped,
    "with the others": lambda s: "" if s.with_majority is None else f"{s.with_majority:.0%}",
}  # fmt: skip
JUDGEMENTS: Columns = {
    "record": lambda j: j.record, "labeller": lambda j: j.labeller,
    "verdict": lambda j: "skipped" if j.skipped else j.verdict, "text": lambda j: j.text,
    "comment": lambda j: j.comment,
}  # fmt: skip
KEYS: dict[str, dict[str, str]] = {
    "like": {"y": "like", "n": "dislike"},
    "pair": {"a": "a", "b": "b", "t": "tie"},
    "write": {},
}


@command(group, "list", example="finery labellings list")
def list_labellings(shell: Shell, limit: Annotated[int, typer.Option(min=1, max=100)] = 20) -> None:
    """List labellings, newest first."""
    with shell.finery as finery:
        shell.many(finery.labellings.list(limit=limit).data, COLUMNS)


@command(group, "create", example="finery labellings create review --dataset answers.jsonl --mode like")
def create(
    shell: Shell,
    name: Annotated[str, typer.Argument(help="A name that is free.")],
    dataset: Annotated[str, typer.Option(help="What is to be labelled.")],
    mode: Annotated[Literal["like", "pair", "write"], typer.Option(help="What is asked for each record.")],
    against: Annotated[str | None, typer.Option(help="pair: a dataset with other answers to these prompts.")] = None,
    guidelines: Annotated[str, typer.Option(help="What labellers are to look at.")] = "",
    labeller: Annotated[list[str], typer.Option(help="Who may label; again for more. Default: everybody.")] = [],  # noqa: B006
    per_record: Annotated[int, typer.Option(min=1, max=9, help="Verdicts of different people for each record.")] = 1,
    sample: Annotated[int | None, typer.Option(min=1, help="So many records only.")] = None,
    seed: Annotated[int, typer.Option(help="Of the order in which records come.")] = 0,
) -> None:
    """Have a dataset labelled."""
    with shell.finery as finery:
        made = finery.labellings.create(
            name, dataset, mode, against=against, guidelines=guidelines, labellers=labeller or None,
            per_record=per_record, sample=sample, seed=seed,
        )  # fmt: skip
        shell.one(made)


@command(group, "show", example="finery labellings show review")
def show(shell: Shell, labelling: Ref) -> None:
    """Show a labelling, and how far its labellers agree."""
    with shell.finery as finery:
        view, found = finery.labellings.get(labelling), finery.labellings.agreement(labelling)
    plain = found.model_dump(mode="json", exclude={"labellers"} if not shell.as_json else None)
    shell.one({**view.model_dump(mode="json"), "agreement": plain})
    if not shell.as_json:
        shell.many(found.labellers, SHARES)


@command(group, "label", example="finery labellings label review")
def label(shell: Shell, labelling: Ref) -> None:
    """Judge record after record at this terminal, until nothing is left or you stop."""
    if shell.as_json:
        raise UserMistake("labelling asks a person; programs use the client's `labellings.next` and `.judge`")
    done = 0
    with shell.finery as finery:
        view = finery.labellings.get(labelling)
        if view.guidelines:
            shell.console.print(Panel(Text(_plain(view.guidelines)), title="what to look at"))
        while (item := finery.labellings.next(labelling)) is not None:
            said = _ask(shell, item, view.mode.value, number=done + 1)
            if said is None:
                break
            finery.labellings.judge(item, **said)
            done += 1
    shell.say(f"{done} judged" if item is not None else f"{done} judged; nothing is left for you")


@command(group, "assign", example="finery labellings assign review mia --records 50")
def assign(
    shell: Shell,
    labelling: Ref,
    user: Annotated[str, typer.Argument(help="Who is to judge them.")],
    records: Annotated[int, typer.Option(min=1, max=500)] = 20,
    hours: Annotated[float, typer.Option(help="Kept for so long.")] = 24,
) -> None:
    """Keep the next records of the queue for somebody."""
    with shell.finery as finery:
        kept = finery.labellings.assign(labelling, user, records=records, hours=hours)
    shell.one({"user": user, "records": list(kept)})


@command(group, "judgements", example="finery labellings judgements review --json")
def judgements(shell: Shell, labelling: Ref) -> None:
    """List everything that was said."""
    with shell.finery as finery:
        shell.many(list(finery.labellings.judgements(labelling)), JUDGEMENTS)


@command(group, "export", example="finery labellings export review --name preferences --minimum 2")
def export(
    shell: Shell,
    labelling: Ref,
    name: Annotated[str, typer.Option(help="Of the dataset.")],
    minimum: Annotated[int, typer.Option(min=1, max=9, help="Verdicts that a record needs.")] = 1,
    majority: Annotated[float, typer.Option(min=0.5, max=1, help="Share of its verdicts that must exceed this.")] = 0.5,
    judges: Annotated[bool, typer.Option(help="Count what models said, too.")] = True,
) -> None:
    """Make a dataset of what was decided."""
    with shell.finery as finery:
        shell.one(finery.labellings.export(labelling, name, minimum=minimum, majority=majority, judges=judges))


@command(group, "close", example="finery labellings close review")
def close(shell: Shell, labelling: Ref) -> None:
    """Take no more verdicts."""
    with shell.finery as finery:
        shell.one(finery.labellings.close(labelling))


@command(group, "delete", example="finery labellings delete review --confirm DELETE")
def delete(shell: Shell, labelling: Ref, confirm: Confirm = "") -> None:
    """Drop a labelling with its verdicts; datasets made of them stay."""
    if confirm != "DELETE":
        raise UserMistake("deleting a labelling drops its verdicts for good: say --confirm DELETE")
    with shell.finery as finery:
        shell.one(finery.labellings.delete(labelling))


def _ask(shell: Shell, item: ItemView, mode: str, *, number: int) -> dict[str, Any] | None:
    """What the person says; None to stop."""
    for message in item.prompt:
        shell.console.print(Text.assemble((f"{_plain(message['role'])} ", "bold"), _plain(message.get("content"))))
    for answer in item.answers:
        text = "\n".join(_plain(message.get("content")) for message in answer.messages)
        shell.console.print(Panel(Text(text), title=answer.key.upper() if mode == "pair" else "answer"))
    keys = KEYS[mode]
    if mode == "write":
        text = Prompt.ask(f"{number} · your answer ([s]kip, [q]uit)", console=shell.console)
        return None if text == "q" else {"skip": True} if text == "s" else {"text": text}
    said = Prompt.ask(
        f"{number} · {', '.join(f'{key} {word}' for key, word in keys.items())}, s skip, q quit", console=shell.console,
        choices=[*keys, "s", "q"], show_choices=False,
    )  # fmt: skip
    return None if said == "q" else {"skip": True} if said == "s" else {"verdict": keys[said]}


def _plain(content: object) -> str:
    """A record is somebody else's text: what steers a terminal is not passed on to it."""
    return "".join(c if c.isprintable() or c in "\n\t" else "\N{REPLACEMENT CHARACTER}" for c in str(content or ""))
