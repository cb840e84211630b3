"""Judges the histories of a house that was broken and left in peace. Pure: what it is given is all it knows.

Amounts are computed anew with ``Decimal`` from the facts; nothing of the billing meter's own code is used.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import ROUND_HALF_EVEN, Decimal, localcontext

from tests.chaos.history import History, Json
from tests.chaos.load import CHOSEN, TOPIC, Wish

ENDED = ("succeeded", "failed", "terminated")
BILLIONTH = Decimal("1e-9")
GAPLESS = ("task/", "model/")


@dataclass
class Verdict:
    """What is wrong, in words; all empty is what chaos is for."""

    lost: list[str] = field(default_factory=list[str])
    doubled: list[str] = field(default_factory=list[str])
    stuck: list[str] = field(default_factory=list[str])
    misbilled: list[str] = field(default_factory=list[str])

    @property
    def good(self) -> bool:
        """Nothing is wrong."""
        return not (self.lost or self.doubled or self.stuck or self.misbilled)

    def __str__(self) -> str:
        return (
            f"lost={len(self.lost)} doubled={len(self.doubled)} stuck={len(self.stuck)} misbilled={len(self.misbilled)}"
        )

    @property
    def faults(self) -> Iterator[str]:
        """One line each."""
        for name in ("lost", "doubled", "stuck", "misbilled"):
            yield from (f"{name}: {words}" for words in getattr(self, name))


def judge(
    histories: Sequence[History], wishes: Iterable[Wish], accepted: Mapping[str, str], starts: Counter[tuple[str, int]]
) -> Verdict:
    """Everything that can be seen to be wrong."""
    verdict = Verdict()
    tasks = {task["id"]: task for history in histories for task in history.tasks}
    _wishes(wishes, accepted, tasks, verdict)
    for history in histories:
        _chains(history, verdict)
        _ends(history, verdict)
        _results(history, verdict)
        _deliveries(history, verdict)
        _bill(history, verdict)
    verdict.doubled += [
        f"attempt {n} of {task} was begun {times} times" for (task, n), times in starts.items() if times > 1
    ]
    return verdict


def pending(history: History) -> list[str]:
    """What has yet to come: tasks without end, facts undelivered, intervals uncharged. Empty when all is quiet."""
    verdict = Verdict()
    _deliveries(history, verdict)
    waiting = [
        f"{task['id']} ({task['kind']}) is {task['state']}, {task.get('why_waiting')}" for task in _open(history)
    ]
    charged = {line["key"].partition("#")[0] for line in history.lines}
    uncharged = [f"{key} is not charged" for key in _amounts(history) if key not in charged]
    return waiting + verdict.lost + uncharged


def _wishes(wishes: Iterable[Wish], accepted: Mapping[str, str], tasks: Mapping[str, Json], verdict: Verdict) -> None:
    named = Counter(task["name"] for task in tasks.values())
    for wish in wishes:
        task = tasks.get(accepted.get(wish.tag, ""))
        if task is None:
            verdict.lost.append(f"{wish.tag} was submitted ({accepted.get(wish.tag)}) and is not in the list")
            continue
        if named[wish.tag] > 1:
            verdict.doubled.append(f"{wish.tag} was submitted once and there are {named[wish.tag]} tasks of it")
        if task["state"] not in ENDED:
            verdict.stuck.append(f"{wish.tag} ({task['id']}) is {task['state']}/{task['phase']}: {task['why_waiting']}")
        elif task["state"] not in wish.ends:
            verdict.lost.append(f"{wish.tag} ({task['id']}) {task['state']}: {task['error']}")


def _chains(history: History, verdict: Verdict) -> None:
    """Versions of a noun grow in the order of the log, and the last is what the list shows.

    A task and a model say every one of their versions; the others may change without a fact.
    """
    versions: dict[str, list[int]] = defaultdict(list)
    for event in history.events:
        versions[event["subject"]].append(event["nounversion"])
    for subject, seen in versions.items():
        if len(seen) != len(set(seen)):
            verdict.doubled.append(f"{subject} has a version twice: {seen}")
        elif seen != sorted(seen) or (subject.startswith(GAPLESS) and seen != list(range(1, len(seen) + 1))):
            verdict.lost.append(f"{subject} has versions {seen}")
    if history.places != sorted(set(history.places)):
        verdict.doubled.append(f"the log of {history.project} has a place twice")
    if again := [name for name, times in Counter(e["id"] for e in history.events).items() if times > 1]:
        verdict.doubled.append(f"the log of {history.project} has events twice: {again[:5]}")
    for noun, views in (("task", history.tasks), ("model", history.models), ("dataset", history.datasets)):
        for view in views:
            if versions[f"{noun}/{view['id']}"][-1:] != [view["version"]]:
                verdict.lost.append(f"{noun} {view['id']} is at {view['version']}, its last fact is not")


def _ends(history: History, verdict: Verdict) -> None:
    """One end for each task, one end for each of its attempts, and attempts are counted up."""
    ends: dict[str, list[str]] = defaultdict(list)
    attempts: dict[str, list[int]] = defaultdict(list)
    for event in history.events:
        fact = _fact(event)
        if fact in [f"task.{state}" for state in ENDED]:
            ends[event["data"]["id"]].append(fact)
        elif fact == "task.attempt_ended":
            attempts[event["data"]["task"]["id"]].append(event["data"]["attempt"]["number"])
    for task in history.tasks:
        told = ends[task["id"]]
        if len(told) > 1:
            verdict.doubled.append(f"{task['id']} ended more than once: {told}")
        if task["state"] in ENDED and told != [f"task.{task['state']}"]:
            verdict.lost.append(f"{task['id']} is {task['state']}, the log says {told}")
        numbers = [attempt["number"] for attempt in task["attempts"] if attempt["state"] == "ended"]
        if len(set(attempts[task["id"]])) != len(attempts[task["id"]]):
            verdict.doubled.append(f"attempts of {task['id']} ended more than once: {attempts[task['id']]}")
        elif attempts[task["id"]] != numbers or numbers != list(range(1, len(numbers) + 1)):
            verdict.lost.append(f"{task['id']} has attempts {numbers}, the log says {attempts[task['id']]}")


def _results(history: History, verdict: Verdict) -> None:
    """What a task says it made is there, and was made once."""
    names = {"model": {m["id"] for m in history.models}, "dataset": {d["id"] for d in history.datasets}}
    for task in history.tasks:
        for noun, known in names.items():
            made = task["result"].get(noun) or task["request"].get(noun)
            if task["state"] == "succeeded" and made is not None and made not in known:
                verdict.lost.append(f"{task['id']} made {noun} {made}, which is not there")
    for views in (history.models, history.datasets):
        doubled = [name for name, times in Counter(view["name"] for view in views).items() if times > 1]
        if views is history.models:
            verdict.doubled += [f"there is more than one model named {name}" for name in doubled]
    made_by = Counter(view["task"] for view in history.datasets if view.get("task"))
    verdict.doubled += [f"{task} made {times} data sets" for task, times in made_by.items() if times > 1]


def _deliveries(history: History, verdict: Verdict) -> None:
    for task in history.tasks:
        wanted = (task["notify"] or {}).get("topic") == TOPIC and task["state"] in CHOSEN
        if wanted and not history.delivered.get((task["state"], task["id"])):
            verdict.lost.append(f"nobody was told that {task['id']} {task['state']}")
    verdict.doubled += [f"{noun} {fact} came in {times} messages"
                        for (fact, noun), times in history.delivered.items() if times > 1]  # fmt: skip


def _bill(history: History, verdict: Verdict) -> None:
    """The ledger is what the facts of ended attempts say, line for line, to the last decimal."""
    expected = _amounts(history)
    found: dict[str, Decimal] = defaultdict(Decimal)
    for line in history.lines:
        if line["noun"] == "task":
            found[line["key"].partition("#")[0]] += Decimal(line["amount"])
    known = {event["id"] for event in history.events}
    for key, times in Counter(line["key"] for line in history.lines).items():
        if times > 1:
            verdict.doubled.append(f"the ledger has {key} {times} times")
    verdict.misbilled += [f"{line['key']} is charged for {line['event']}, which nobody said"
                          for line in history.lines if line["event"] not in known]  # fmt: skip
    for key in sorted(expected.keys() | found.keys()):
        if found.get(key) != expected.get(key):
            verdict.misbilled.append(f"{key}: {found.get(key)} was charged, {expected.get(key)} is right")


def _amounts(history: History) -> dict[str, Decimal]:
    amounts = dict[str, Decimal]()
    for event in history.events:
        if _fact(event) != "task.attempt_ended":
            continue
        task, interval = event["data"]["task"], event["data"]["interval"]
        if not interval["billed"] or not interval["running_s"] > 0:
            continue
        with localcontext() as context:
            context.prec = 60
            hours = Decimal(repr(interval["running_s"])) * task["instances"] / 3600
            amount = hours * Decimal(history.prices[task["flavour"]])
            key = f"task:{task['id']}:{interval['attempt']}:{interval['n']}"
            amounts[key] = amount.quantize(BILLIONTH, ROUND_HALF_EVEN)
    return amounts


def _open(history: History) -> Iterator[Json]:
    return (task for task in history.tasks if task["state"] not in ENDED)


def _fact(event: Json) -> str:
    return event["type"].removeprefix("io.finery.").rpartition(".")[0]
