"""Turns conversations into tokens: the model's own chat template, and a mask that trains nothing but the answers.

A template that writes an earlier turn differently once later turns follow is refused: what the model would see when it
answers would not be what it was trained on.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import jinja2
from transformers import PreTrainedTokenizerBase

from finery_contracts.errors import DataInvalid, WeightsInvalid
from finery_ml.records import Conversation, Message

IGNORED = -100
"""The label that PyTorch's cross entropy leaves out."""


@dataclass(frozen=True, slots=True)
class Sample:
    """One conversation as the trainer takes it; ``labels`` are IGNORED except on tokens that train."""

    line: int
    input_ids: list[int]
    labels: list[int]
    truncated: bool

    @property
    def trains(self) -> bool:
        """Whether at least one token is left to train on."""
        return any(label != IGNORED for label in self.labels)


def check_template(tokenizer: PreTrainedTokenizerBase) -> None:
    """Raise WeightsInvalid unless the tokenizer has a chat template and can say where a token stands in the text."""
    if not tokenizer.chat_template:
        raise WeightsInvalid(
            "The model has no chat template, so conversations cannot be written for it; choose an instruction model "
            "or add chat_template.jinja to its folder.",
            code="chat_template_missing",
            param="chat_template",
        )
    if not tokenizer.is_fast:
        raise WeightsInvalid(
            "The model's tokenizer gives no character offsets; add tokenizer.json to the model's folder.",
            code="tokenizer_without_offsets",
            param="tokenizer.json",
        )


def encode(
    conversations: Sequence[Conversation], tokenizer: PreTrainedTokenizerBase, *, max_length: int
) -> list[Sample]:
    """Token ids and labels of each conversation, cut after ``max_length`` tokens.

    Only the assistant's answers with their end-of-turn token train. Raises DataInvalid
    ``template_not_prefix_preserving``, ``template_refused_record`` or ``template_without_tools``, naming the line.
    """
    marked = [_mark_answers(conversation, tokenizer) for conversation in conversations]
    tokens = tokenizer(
        [text for text, _ in marked], add_special_tokens=False, return_offsets_mapping=True, verbose=False
    )
    samples = []
    for index, conversation in enumerate(conversations):
        ids, offsets = tokens["input_ids"][index], tokens["offset_mapping"][index]
        labels = _labels_of(ids, offsets, marked[index][1])
        samples.append(
            Sample(conversation.line, ids[:max_length], labels[:max_length], truncated=len(ids) > max_length)
        )
    return samples


def prompt_text(conversation: Conversation, tokenizer: PreTrainedTokenizerBase, *, turns: int | None = None) -> str:
    """The first ``turns`` messages (all by default) as the model sees them when it is about to answer."""
    return _render(conversation, tokenizer, messages=conversation.messages[:turns], answer_next=True)


def _mark_answers(conversation: Conversation, tokenizer: PreTrainedTokenizerBase) -> tuple[str, list[tuple[int, int]]]:
    """The whole text, and from where to where (in characters) each answer that trains stands in it.

    An answer starts where the generation prompt ends and reaches to its end-of-turn mark; white space that a template
    puts after the mark belongs to the next turn.
    """
    messages = conversation.messages
    text = _render(conversation, tokenizer, messages=messages, answer_next=False)
    spans = []
    for turn, message in enumerate(messages):
        if message.role != "assistant" or message.weight == 0:
            continue
        before = prompt_text(conversation, tokenizer, turns=turn)
        after = _render(conversation, tokenizer, messages=messages[: turn + 1], answer_next=False)
        if not (after.startswith(before) and text.startswith(after)):
            raise _not_prefix_preserving(conversation.line, turn)
        spans.append((len(before), len(after.rstrip())))
    return text, spans


def _labels_of(ids: list[int], offsets: list[tuple[int, int]], spans: list[tuple[int, int]]) -> list[int]:
    """``ids`` where a token lies in a span, else IGNORED. The first token has no context and never trains.

    Some tokenizers report white space as an empty place at its end; such a token at a span's edge lies outside. So does
    a token that begins before the span, which an answer with white space in front can cause.
    """
    labels, pending = [IGNORED] * len(ids), list(reversed(spans))
    for position, (start, end) in enumerate(offsets):
        while pending and start >= pending[-1][1]:
            pending.pop()
        if not pending:
            break
        if start >= pending[-1][0] and end > pending[-1][0] and position > 0:
            labels[position] = ids[position]
    return labels


def _render(
    conversation: Conversation,
    tokenizer: PreTrainedTokenizerBase,
    *,
    messages: Sequence[Message],
    answer_next: bool,
) -> str:
    _check_tools(conversation, tokenizer)
    try:
        return tokenizer.apply_chat_template(
            [message.for_template() for message in messages],
            tools=list(conversation.tools) or None,
            tokenize=False,
            add_generation_prompt=answer_next,
        )
    except (jinja2.TemplateError, TypeError, KeyError, ValueError, IndexError) as fault:
        raise DataInvalid(
            f"The model's chat template refuses the record of line {conversation.line}: {fault}. Change the order or "
            "the roles of its messages, or choose a model whose template takes them.",
            code="template_refused_record",
            param=f"line {conversation.line}",
        ) from fault


def _check_tools(conversation: Conversation, tokenizer: PreTrainedTokenizerBase) -> None:
    uses_tools = conversation.tools or any(message.tool_calls for message in conversation.messages)
    if uses_tools and "tool" not in str(tokenizer.chat_template):
        raise DataInvalid(
            f"The record of line {conversation.line} uses tools, which the model's chat template does not write; "
            "remove them or choose a model that is made for tools.",
            code="template_without_tools",
            param=f"line {conversation.line}",
        )


def _not_prefix_preserving(line: int, turn: int) -> DataInvalid:
    return DataInvalid(
        f"The model's chat template writes messages[{turn}] of line {line} differently once later turns follow, so the "
        "answer cannot be found in the text; split the conversation so that it ends with that answer, give the answer "
        "weight 0, or choose another model.",
        code="template_not_prefix_preserving",
        param=f"line {line}, messages[{turn}]",
    )
