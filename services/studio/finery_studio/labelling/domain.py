"""The rules of labelling: in which order records come, what a verdict may be, how far people agree. Pure."""

from __future__ import annotations

import hashlib
import itertools
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from finery_contracts.errors import InvalidRequest
from finery_contracts.labelling import Agreement, LabellerShare, LabelMode, Seen, Verdict, VerdictRequest

LETTERS = {"like": Verdict.LIKE, "dislike": Verdict.DISLIKE, "tie": Verdict.TIE}
ALLOWED = {LabelMode.LIKE: ("like", "dislike"), LabelMode.PAIR: ("a", "b", "tie"), LabelMode.WRITE: ()}


class Said(NamedTuple):
    """A verdict, and whose it is."""

    record: int
    labeller: str
    judge: bool
    verdict: Verdict


def place_of(turn: int, *, records: int, total: int, seed: int) -> int:
    """Which of ``total`` records comes as the ``turn``-th of those that are labelled: a shuffle that needs no memory.

    turn → (a·turn + b) mod total is a bijection while a and total have no common divisor, so the first ``records``
    turns are a sample without repetition.
    """
    if not 0 <= turn < records <= total:
        raise ValueError(f"turn {turn} of {records} of {total}")
    offset = _number(f"{seed}:{total}") % total
    tries = (_number(f"{seed}:{total}:{count}") % total for count in itertools.count())
    factor = next(factor for factor in tries if math.gcd(factor, total) == 1)
    return (factor * turn + offset) % total


def is_flipped(labelling: str, record: int, labeller: str) -> bool:
    """Whether this labeller sees the second answer as A; no letter is favoured, and one labeller sees it always so."""
    return _number(f"{labelling}:{record}:{labeller}") % 2 == 1


def verdict_of(asked: VerdictRequest, mode: LabelMode, *, flipped: bool) -> Verdict | None:
    """What is kept of what was said; None for a skip.

    Raises:
        InvalidRequest: code ``verdict_invalid``: this mode asks for something else.
    """
    said = [name for name in ("verdict", "text") if getattr(asked, name) is not None] + ["skip"] * asked.skip
    wanted = "text" if mode is LabelMode.WRITE else "verdict"
    if said == ["skip"]:
        return None
    if said != [wanted] or (asked.verdict is not None and asked.verdict not in ALLOWED[mode]):
        choice = "a text" if mode is LabelMode.WRITE else f"verdict as one of {', '.join(ALLOWED[mode])}"
        raise InvalidRequest(
            f"a labelling of mode {mode} takes {choice}, or skip; say exactly one", code="verdict_invalid",
            param=said[0] if said else wanted,
        )  # fmt: skip
    if asked.verdict is None:
        if not (asked.text or "").strip():
            raise InvalidRequest("the text is empty; write the answer, or skip", code="verdict_invalid", param="text")
        return Verdict.WRITTEN
    if asked.verdict in LETTERS:
        return LETTERS[asked.verdict]
    return Verdict.FIRST if (asked.verdict == "a") is not flipped else Verdict.SECOND


def shown(verdict: Verdict, *, flipped: bool) -> Seen:
    """The verdict in the letters that this labeller saw."""
    if verdict is Verdict.FIRST or verdict is Verdict.SECOND:
        return "a" if (verdict is Verdict.FIRST) is not flipped else "b"
    return verdict.value


def decided(verdicts: Sequence[Verdict], *, minimum: int, majority: float) -> Verdict | None:
    """What these say together: the one with more than ``majority`` of them (1: all); None when nothing, or a tie."""
    if len(verdicts) < minimum or not verdicts:
        return None
    (verdict, count), *others = Counter(verdicts).most_common()
    share = count / len(verdicts)
    enough = share > majority or (majority == 1 and share == 1)
    if verdict is Verdict.TIE or not enough or (others and others[0][1] == count):
        return None
    return verdict


def agreement(said: Sequence[Said], skipped: Mapping[str, int], *, records: int, per_record: int) -> Agreement:
    """How far they agree; of written answers nothing is said. ``skipped``: how many records each labeller skipped."""
    by_record: dict[int, list[Said]] = {}
    for one in said:
        by_record.setdefault(one.record, []).append(one)
    people = [sum(not one.judge for one in some) for some in by_record.values()]
    overlapping = [[one.verdict for one in some] for some in by_record.values() if len(some) > 1]
    votes = [verdicts for verdicts in overlapping if Verdict.WRITTEN not in verdicts]
    pairs = [first is second for verdicts in votes for first, second in itertools.combinations(verdicts, 2)]
    return Agreement(
        records=records, judged=len(by_record), complete=sum(count >= per_record for count in people),
        overlapping=len(overlapping), observed=sum(pairs) / len(pairs) if pairs else None, alpha=alpha(votes),
        verdicts=dict(sorted(Counter(str(one.verdict) for one in said).items())),
        labellers=_shares(by_record, skipped),
    )  # fmt: skip


def alpha(units: Sequence[Sequence[Verdict]]) -> float | None:
    """Krippendorff's alpha for nominal data; ``units``: the verdicts on each record with two or more.

    None where it says nothing: no such record, or one verdict everywhere. Source: K. Krippendorff, Computing
    Krippendorff's Alpha-Reliability (2011), section C.
    """
    values = Counter[Verdict]()
    disagreement = 0.0
    for unit in units:
        counts, size = Counter(unit), len(unit)
        values.update(counts)
        disagreement += sum(count * (size - count) for count in counts.values()) / (size - 1)
    total = values.total()
    expected = sum(count * (total - count) for count in values.values())
    return 1 - (total - 1) * disagreement / expected if expected else None


def _shares(by_record: Mapping[int, Sequence[Said]], skipped: Mapping[str, int]) -> list[LabellerShare]:
    judgements, asked, agreed = Counter[str](), Counter[str](), Counter[str]()
    judges = {one.labeller for some in by_record.values() for one in some if one.judge}
    for some in by_record.values():
        for one in some:
            judgements[one.labeller] += 1
            others = [other.verdict for other in some if other.labeller != one.labeller]
            common = decided(others, minimum=1, majority=0.5)
            if common is not None and common is not Verdict.WRITTEN:
                asked[one.labeller] += 1
                agreed[one.labeller] += common is one.verdict
    return [
        LabellerShare(
            labeller=name, judge=name in judges, judgements=judgements[name], skipped=skipped.get(name, 0),
            with_majority=agreed[name] / asked[name] if asked[name] else None,
        )
        for name in sorted({*judgements, *skipped})
    ]  # fmt: skip


def _number(text: str) -> int:
    """A large number that the text decides."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest())
