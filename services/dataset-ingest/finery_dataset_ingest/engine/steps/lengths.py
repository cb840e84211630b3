"""Length: records that are too short to teach something, or too long to be used."""

from __future__ import annotations

from collections.abc import Callable

import pyarrow as pa

from finery_contracts.cleansing import Length
from finery_dataset_ingest.engine.steps.texts import WORDS, texts_of, turns_of
from finery_dataset_ingest.engine.steps.verdicts import Judge, Judged, Why

CountTokens = Callable[[pa.RecordBatch, str], list[int]]
"""Tokens of a part of each record, as the task's model counts them."""


def length_judge(step: Length, count_tokens: CountTokens | None) -> Judge:
    """``count_tokens`` is needed for tokens alone."""

    def lengths(batch: pa.RecordBatch) -> list[int]:
        if step.unit == "tokens":
            assert count_tokens is not None
            return count_tokens(batch, step.of)
        if step.unit == "turns":
            return turns_of(batch)
        if step.unit == "words":
            return [len(WORDS.findall(text)) for text in texts_of(batch, step.of)]
        return [len(text) for text in texts_of(batch, step.of, joint="")]  # what lies between messages nobody said

    def judge(batch: pa.RecordBatch) -> Judged:
        removed = dict[int, Why]()
        for row, length in enumerate(lengths(batch)):
            if step.min is not None and length < step.min:
                removed[row] = Why("too_short", f"{length} {step.unit}, at least {step.min} are wanted")
            elif step.max is not None and length > step.max:
                removed[row] = Why("too_long", f"{length} {step.unit}, at most {step.max} are wanted")
        return Judged(batch, removed)

    return judge
