"""Exact duplicates: records that say the same once differences that mean nothing are gone. The first one stays."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pyarrow as pa

from finery_contracts.cleansing import ExactDuplicates, Part
from finery_dataset_ingest.engine.steps.hashes import fingerprints
from finery_dataset_ingest.engine.steps.texts import normalised, texts_of
from finery_dataset_ingest.engine.steps.verdicts import Chooseable, Chosen, Why
from finery_dataset_ingest.engine.tables import View

EXAMPLES = 100
_JOINT = "\0"
"""Between messages: where one ends and the next begins is part of what is said."""
_TURNS = ("messages", "chosen", "rejected")
_LABELS = ("label", "reward")


def keys_of(batch: pa.RecordBatch, part: Part, *, normalise: bool, terms: bool = False) -> np.ndarray:
    """A 128-bit fingerprint of each record, two uint64; who spoke, and what a record is labelled, is part of it.
    ``terms``: so are the tools it may use, speakers' names and answers that are not trained on."""
    texts = texts_of(batch, part, joint=_JOINT)
    if normalise:
        texts = [_JOINT.join(map(normalised, text.split(_JOINT))) for text in texts]
    if part == "record":
        texts = [f"{shape}\0{text}" for shape, text in zip(_shapes(batch, terms=terms), texts, strict=True)]
    return fingerprints(texts)


def firsts(keys: np.ndarray) -> np.ndarray:
    """For each position the first one with the same key; a position that is its own first is no duplicate."""
    order = np.lexsort((np.arange(len(keys)), keys[:, 1], keys[:, 0]))
    ranked = keys[order]
    begins = np.ones(len(keys), bool)
    begins[1:] = (ranked[1:] != ranked[:-1]).any(axis=1)
    first = np.empty(len(keys), np.int64)
    first[order] = order[begins][np.cumsum(begins) - 1] if len(keys) else order
    return first


def choose_distinct(view: View, step: ExactDuplicates) -> Chosen:
    """Keep the first of each; the examples name it."""
    found = [keys_of(batch, step.of, normalise=step.normalise, terms=True) for batch in view.batches()]
    return distinct_of(view, firsts(np.concatenate(found) if found else np.empty((0, 2), np.uint64)))


def distinct_of(view: Chooseable, first: np.ndarray) -> Chosen:
    """The same, when the first of each is known."""
    own = first == np.arange(len(first))
    gone = np.flatnonzero(~own)
    return Chosen(
        kept=np.flatnonzero(own),
        reasons=Counter({"exact_duplicate": len(gone)} if len(gone) else {}),
        examples=[
            (int(place), Why("exact_duplicate", f"the same as {name}"))
            for place, name in zip(gone[:EXAMPLES], places_of(view, first[gone[:EXAMPLES]]), strict=True)
        ],
    )


def places_of(view: Chooseable, positions: np.ndarray) -> list[str]:
    """Where records come from, in words."""
    rows = view.at(positions).select(["source", "file", "line"]).to_pylist()
    return [f"{row['source']}{', ' + row['file'] if row['file'] else ''}, line {row['line']}" for row in rows]


def _shapes(batch: pa.RecordBatch, *, terms: bool) -> list[str]:
    rows = zip(*(batch.column(name).to_pylist() for name in (*_TURNS, *_LABELS, "tools")), strict=True)
    shapes = list[str]()
    for *turns, label, reward, tools in rows:
        roles = tuple("/".join(_shape(turn, terms=terms) for turn in side or ()) for side in turns)
        shapes.append(f"{roles}{(label, reward)}{tools or '' if terms else ''}")
    return shapes


def _shape(turn: dict[str, Any], *, terms: bool) -> str:
    if not terms:
        return turn["role"]
    called = f"({turn['name']})" if turn["name"] is not None else ""
    return f"{turn['role']}{called}{'!' * (turn['weight'] == 0)}{'+' * bool(turn['tool_calls'])}"
