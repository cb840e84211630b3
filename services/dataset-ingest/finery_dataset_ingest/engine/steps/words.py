"""Words and patterns: records that say what must not be taught, and records that speak of something else.

People's patterns run under limits: a text that takes one longer than its time counts as not matched, and a pattern that
does so again and again ends the task.
"""

from __future__ import annotations

from functools import cache
from importlib.resources import files

import pyarrow as pa
import regex
import yaml

from finery_contracts.cleansing import Blocked, Relevance
from finery_contracts.errors import DataInvalid
from finery_dataset_ingest.engine.steps.texts import HAN, normalised, texts_of
from finery_dataset_ingest.engine.steps.verdicts import Judge, Judged, Why

PATTERN_TIME_S = 0.2
_TIMEOUTS_ALLOWED = 5
_SHOWN = 5


def blocked_judge(step: Blocked) -> Judge:
    """Removes records that hold at least ``min_hits`` of the words. Reasons name the list, not the words of ours."""
    shipped = {word for language in step.shipped for word in shipped_words(language)}
    find = _finder({*shipped, *step.words})

    def judge(batch: pa.RecordBatch) -> Judged:
        removed = dict[int, Why]()
        for row, text in enumerate(texts_of(batch, step.of)):
            hits = find(normalised(text))
            if len(hits) >= step.min_hits:
                removed[row] = Why("blocked_word", ", ".join(sorted(set(hits))[:_SHOWN]))
        return Judged(batch, removed)

    return judge


def relevance_judge(step: Relevance) -> Judge:
    """Keeps or removes what matches any keyword or pattern.

    Raises DataInvalid ``pattern_invalid`` at once, ``pattern_too_slow`` when a pattern runs out of time too
    often.
    """
    find = _finder(set(step.keywords)) if step.keywords else lambda _: []
    patterns = [_Pattern(place, text) for place, text in enumerate(step.patterns)]

    def judge(batch: pa.RecordBatch) -> Judged:
        removed = dict[int, Why]()
        for row, text in enumerate(texts_of(batch, step.of)):
            hit = next(iter(find(normalised(text))), None) or next((p.text for p in patterns if p.matches(text)), None)
            if step.mode == "keep" and hit is None:
                removed[row] = Why("irrelevant", "it speaks of nothing that was asked for")
            elif step.mode == "drop" and hit is not None:
                removed[row] = Why("unwanted", f"it matches {hit}")
        slow = {f"records on which pattern {p.place + 1} ran out of time": p.timeouts for p in patterns}
        for pattern in patterns:
            pattern.told()
        return Judged(batch, removed, notes=slow)

    return judge


@cache
def shipped_words(language: str) -> tuple[str, ...]:
    """A short list that comes with Finery."""
    text = files("finery_dataset_ingest.engine.steps").joinpath("blocked_words.yaml").read_text("utf-8")
    return tuple(yaml.safe_load(text)[language])


class _Pattern:
    """A person's pattern, and how often it ran out of time."""

    def __init__(self, place: int, text: str) -> None:
        self.place, self.text, self.timeouts, self._all = place, text, 0, 0
        try:
            self._compiled = regex.compile(text, regex.IGNORECASE)
        except (regex.error, OverflowError, RecursionError) as fault:
            raise DataInvalid(
                f"pattern {place + 1} ({text[:100]}) is no regular expression: {fault}.",
                code="pattern_invalid", param=f"patterns[{place}]",
            ) from fault  # fmt: skip

    def matches(self, text: str) -> bool:
        try:
            return self._compiled.search(text, timeout=PATTERN_TIME_S, concurrent=False) is not None
        except TimeoutError as fault:
            self.timeouts, self._all = self.timeouts + 1, self._all + 1
            if self._all > _TIMEOUTS_ALLOWED:
                raise DataInvalid(
                    f"pattern {self.place + 1} ({self.text[:100]}) took longer than {PATTERN_TIME_S:g} s on "
                    f"{self._all} records; write it without nested repetition.",
                    code="pattern_too_slow", param=f"patterns[{self.place}]",
                ) from fault  # fmt: skip
            return False

    def told(self) -> None:
        """The batch's notes are made."""
        self.timeouts = 0


def _finder(words: set[str]):
    """Finds words in normalised texts: whole ones, save Chinese, which writes none apart."""
    plain = sorted({normalised(word) for word in words} - {""})
    joined = [word for word in plain if HAN.search(word)]
    apart = [word for word in plain if not HAN.search(word)]
    parts = ([r"\L<joined>"] if joined else []) + ([r"(?<!\w)\L<apart>(?!\w)"] if apart else [])
    compiled = (
        regex.compile("|".join(parts), ignore_unused=True, joined=joined, apart=apart)
        if parts
        else regex.compile(r"(?!)")
    )
    return compiled.findall
