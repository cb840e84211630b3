"""The shapes that a decoded record of people's data can have, one a format; each makes samples of one kind.

Which shape a file has is decided once, by its first records; a later record of another shape is a bad record.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from finery_contracts.datasets import DataKind
from finery_dataset_ingest.engine.formats import alpaca, answer, feedback, moss, preference, sharegpt, text
from finery_dataset_ingest.engine.formats.alpaca import alpaca_turns
from finery_dataset_ingest.engine.formats.answer import answer_turns
from finery_dataset_ingest.engine.formats.feedback import feedback_turns
from finery_dataset_ingest.engine.formats.moss import moss_turns
from finery_dataset_ingest.engine.formats.preference import pair_turns
from finery_dataset_ingest.engine.formats.sharegpt import sharegpt_tools, sharegpt_turns
from finery_dataset_ingest.engine.formats.text import text_of
from finery_dataset_ingest.engine.messages import check_order, check_tools, sample_of
from finery_dataset_ingest.engine.samples import Flawed, Place, Sample, Wrong


@dataclass(frozen=True)
class Shape:
    """A format of records: its name in the API, what its records are for, what a record of it has, and its judge."""

    name: str
    kind: DataKind
    fits: Callable[[dict[str, Any]], bool]
    judge: Callable[[Any, Place], Sample | Flawed]


def _careful(keys: frozenset[str], sample: Callable[[Any, Place], Sample]) -> Callable[[Any, Place], Sample | Flawed]:
    """A judge from a reader that raises Wrong; names that the reader does not know are counted."""

    def judge(record: Any, place: Place) -> Sample | Flawed:
        try:
            made = sample(record, place)
        except Wrong as wrong:
            return Flawed((_of_another_shape(record, wrong, keys).at(place),))
        ignored = tuple(record.keys() - keys)
        return made._replace(ignored_keys=ignored) if ignored else made

    return judge


def _of_another_shape(record: Any, wrong: Wrong, keys: frozenset[str]) -> Wrong:
    """A record that lacks a key and has another format says so."""
    if wrong.code == f"{wrong.field}_missing" and isinstance(record, dict):
        other = next((shape for shape in SHAPES if shape.fits(record)), None)
        if other is not None and not keys >= record.keys():
            reason = f"{wrong.args[0]}; it looks like {other.name}"
            remedy = f"put records of the format {other.name} into a file of their own"
            return Wrong(wrong.field, wrong.code, reason=reason, remedy=remedy)
    return wrong


def _moss(record: Any, place: Place) -> Sample:
    return Sample(place, tuple(moss_turns(record)))


def _alpaca(record: Any, place: Place) -> Sample:
    return Sample(place, tuple(alpaca_turns(record)))


def _sharegpt(record: Any, place: Place) -> Sample:
    turns = sharegpt_turns(record)
    check_order(turns, "conversations")
    return Sample(place, tuple(turns), sharegpt_tools(record))


def _preference(record: Any, place: Place) -> Sample:
    prompt, chosen, rejected = pair_turns(record)
    for name, side in zip(preference.sides_of(record), (chosen, rejected), strict=True):
        check_tools([*prompt, *side], name)
    tools = preference.pair_tools(record)
    return Sample(place, tuple(prompt), tools, chosen=tuple(chosen), rejected=tuple(rejected))


def _feedback(record: Any, place: Place) -> Sample:
    turns, label = feedback_turns(record)
    check_order(turns, "completion")
    return Sample(place, tuple(turns), label=label)


def _answer(record: Any, place: Place) -> Sample:
    turns, expected = answer_turns(record)
    return Sample(place, tuple(turns), answer=expected)


def _text(record: Any, place: Place) -> Sample:
    return Sample(place, (), text=text_of(record))


def _fits_answer(record: dict[str, Any]) -> bool:
    if "answer" not in record or "chosen" in record:
        return False
    messages = record.get("messages")
    if isinstance(messages, list) and messages and isinstance(messages[-1], dict):
        return messages[-1].get("role") != "assistant"
    return "prompt" in record or "question" in record


def _fits_feedback(record: dict[str, Any]) -> bool:
    """A verdict on a completion, or on the last answer of a conversation; there it must look like one."""
    if "completion" in record:
        return "label" in record
    return "messages" in record and isinstance(record.get("label"), bool)


def _has(*keys: str) -> Callable[[dict[str, Any]], bool]:
    return lambda record: all(key in record for key in keys)


SHAPES: tuple[Shape, ...] = (
    Shape("preference", DataKind.PREFERENCE, preference.fits, _careful(preference.KEYS, _preference)),
    Shape("feedback", DataKind.FEEDBACK, _fits_feedback, _careful(feedback.KEYS, _feedback)),
    Shape("moss", DataKind.MESSAGES, _has("chat"), _careful(moss.KEYS, _moss)),
    Shape("sharegpt", DataKind.MESSAGES, _has("conversations"), _careful(sharegpt.KEYS, _sharegpt)),
    Shape("alpaca", DataKind.MESSAGES, _has("instruction", "output"), _careful(alpaca.KEYS, _alpaca)),
    Shape("answer", DataKind.ANSWER, _fits_answer, _careful(answer.KEYS, _answer)),
    Shape("openai", DataKind.MESSAGES, _has("messages"), sample_of),
    Shape("text", DataKind.TEXT, _has("text"), _careful(text.KEYS, _text)),
)
"""In the order in which they are looked for: what has more particular keys comes first."""
BY_NAME = {shape.name: shape for shape in SHAPES}


def shape_of(records: Sequence[Any]) -> Shape | None:
    """The shape that most of the records have, the earlier one of two; None when none of them has any."""
    found = [shape for record in records if isinstance(record, dict) if (shape := _first_fit(record)) is not None]
    return max(found, key=lambda shape: found.count(shape)) if found else None


def _first_fit(record: dict[str, Any]) -> Shape | None:
    return next((shape for shape in SHAPES if shape.fits(record)), None)
