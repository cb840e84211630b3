"""What was said, as lines that ingest reads: likes and dislikes, preferences, or written answers. It decides nothing
that ``domain.decided`` does not."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any

from finery_contracts.canonical import Messages, Shown
from finery_contracts.labelling import Judgement, LabelExport, LabelMode, Verdict
from finery_studio.labelling import domain
from finery_studio.labelling.records import Content, read_some

FORMATS = {LabelMode.LIKE: "feedback", LabelMode.PAIR: "preference", LabelMode.WRITE: "openai"}
"""The ingest format of each mode's lines."""


def lines(content: Content, mode: LabelMode, said: Sequence[Judgement], asked: LabelExport) -> Iterator[bytes]:
    """A line for each record that is decided (write: for each text), in the order of the dataset."""
    by_record: dict[int, list[Judgement]] = {}
    for one in said:
        if one.verdict is not None and (asked.judges or not one.judge):
            by_record.setdefault(one.record, []).append(one)
    for place, record in read_some(content, by_record, mode):
        for fields in _records(record, by_record[place], mode, asked):
            yield json.dumps(fields, ensure_ascii=False).encode() + b"\n"


def _records(record: Shown, said: Sequence[Judgement], mode: LabelMode, asked: LabelExport) -> Iterator[dict[str, Any]]:
    tools: dict[str, Any] = {"tools": record.tools} if record.tools else {}
    if mode is LabelMode.WRITE:
        for one in said if len(said) >= asked.minimum else ():
            yield {"messages": [*record.prompt, {"role": "assistant", "content": one.text}], **tools}
        return
    verdicts = [one.verdict for one in said if one.verdict is not None]
    verdict = domain.decided(verdicts, minimum=asked.minimum, majority=asked.majority)
    if verdict is None:
        return
    if mode is LabelMode.LIKE:
        yield {"prompt": record.prompt, "completion": record.answers[0], "label": verdict is Verdict.LIKE, **tools}
        return
    better, worse = record.answers if verdict is Verdict.FIRST else reversed(record.answers)
    yield _pair(record.prompt, better, worse) | tools


def _pair(prompt: Messages, better: Messages, worse: Messages) -> dict[str, Any]:
    return {"prompt": prompt, "chosen": better, "rejected": worse}
