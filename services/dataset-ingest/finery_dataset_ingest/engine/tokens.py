"""How many tokens records are, written by a model's own template and cut by its own tokenizer, as training does it.

Plain text is counted with the end token that training puts behind it. A preference is two conversations.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
from transformers import PreTrainedTokenizerBase

from finery_contracts.errors import DataInvalid
from finery_dataset_ingest.engine.steps.lengths import CountTokens
from finery_dataset_ingest.engine.steps.texts import texts_of
from finery_dataset_ingest.engine.tables import rows_of
from finery_ml.conversation import IGNORED, encode
from finery_ml.records import Conversation, conversation_of

_WHOLE = 2**31 - 1


@dataclass(frozen=True, slots=True)
class TokenCount:
    """Of one record, in tokens; ``refused`` says why the template does not take it (nothing is counted then)."""

    line: int
    whole: int
    kept: int
    trained: int
    refused: str | None = None

    @property
    def truncated(self) -> bool:
        """Whether something is cut off."""
        return self.kept < self.whole


def count_records(batch: pa.RecordBatch, tokenizer: PreTrainedTokenizerBase, *, max_length: int) -> list[TokenCount]:
    """One count a record, in order."""
    rows = rows_of(batch)
    owners = list[int]()
    conversations = list[Conversation]()
    counts: dict[int, TokenCount] = {}
    for place, row in enumerate(rows):
        if row["text"] is not None and not row["messages"]:
            counts[place] = _of_text(row, tokenizer, max_length)
            continue
        for conversation in _conversations_of(row):
            owners.append(place)
            conversations.append(conversation)
    for place, count in zip(owners, _of_conversations(conversations, tokenizer, max_length), strict=True):
        counts[place] = _together(counts[place], count) if place in counts else count
    return [counts[place] for place in range(len(rows))]


def token_counter(tokenizer: PreTrainedTokenizerBase) -> CountTokens:
    """For steps that ask how long a part of each record is; what the template refuses is counted as plain text."""

    def count(batch: pa.RecordBatch, part: Any) -> list[int]:
        if part != "record" or not tokenizer.chat_template:
            return _plain(texts_of(batch, part), tokenizer)
        counts = count_records(batch, tokenizer, max_length=_WHOLE)
        if all(count.refused is None for count in counts):
            return [count.whole for count in counts]
        plain = _plain(texts_of(batch), tokenizer)
        return [length if c.refused else c.whole for c, length in zip(counts, plain, strict=True)]

    return count


def _conversations_of(row: dict[str, Any]) -> list[Conversation]:
    if row["chosen"] is None:
        return [conversation_of(row)]
    return [
        conversation_of({**row, "messages": row["messages"] + (row[side] or [])}) for side in ("chosen", "rejected")
    ]


def _of_conversations(
    conversations: Sequence[Conversation], tokenizer: PreTrainedTokenizerBase, max_length: int
) -> list[TokenCount]:
    """All at once; when the template refuses one of them, one by one."""
    if not conversations:
        return []
    try:
        samples = encode(conversations, tokenizer, max_length=_WHOLE)
    except DataInvalid as fault:
        if len(conversations) == 1:
            return [TokenCount(conversations[0].line, 0, 0, 0, f"{fault.error_code}: {fault.message}"[:500])]
        return [count for one in conversations for count in _of_conversations([one], tokenizer, max_length)]
    return [
        TokenCount(
            sample.line, len(sample.input_ids), min(len(sample.input_ids), max_length),
            sum(label != IGNORED for label in sample.labels[:max_length]),
        )
        for sample in samples
    ]  # fmt: skip


def _of_text(row: dict[str, Any], tokenizer: PreTrainedTokenizerBase, max_length: int) -> TokenCount:
    whole = _plain([row["text"]], tokenizer)[0] + (tokenizer.eos_token_id is not None)
    kept = min(whole, max_length)
    return TokenCount(row["line"], whole, kept, max(0, kept - 1))


def _plain(texts: list[str], tokenizer: PreTrainedTokenizerBase) -> list[int]:
    found = tokenizer(texts, add_special_tokens=False, verbose=False)["input_ids"]
    return [len(ids) for ids in found]


def _together(one: TokenCount, other: TokenCount) -> TokenCount:
    return TokenCount(
        one.line, one.whole + other.whole, one.kept + other.kept, one.trained + other.trained,
        one.refused or other.refused,
    )  # fmt: skip
