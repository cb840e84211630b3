"""The model that is served: its weights with the adapter merged in, its words as tokens, and its end of text.

It refuses prompts that leave no room in the context, and conversations that the model's chat template cannot express.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import jinja2
import torch
from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase

from finery_contracts.completions import Message
from finery_contracts.errors import InvalidRequest, WeightsInvalid
from finery_contracts.jobs import ServeJob
from finery_ml.loading import DTYPES, apply_adapter, choose_device, choose_precision, load_model, load_tokenizer

_TEMPLATE_FAULTS = (
    jinja2.TemplateError, ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError,
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class ServedModel:
    """A model ready to answer."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    end_ids: frozenset[int]
    max_length: int

    @property
    def device(self) -> torch.device:
        """Where tensors must lie."""
        return self.model.device

    def chat_prompt(self, messages: Sequence[Message]) -> list[int]:
        """The conversation as tokens, ending where the assistant begins to speak.

        The template comes with the weights and is not trusted: transformers renders it in jinja's immutable sandbox.

        Raises:
            InvalidRequest: ``no_chat_template``; ``invalid_messages`` with what the template said.
        """
        if self.tokenizer.chat_template is None:
            raise InvalidRequest(
                "this model has no chat template; send a prompt to /v1/completions instead", code="no_chat_template"
            )
        turns = [{"role": _role(message), "content": message.content} for message in messages]
        try:
            text = self.tokenizer.apply_chat_template(turns, add_generation_prompt=True, tokenize=False)
        except _TEMPLATE_FAULTS as fault:
            raise InvalidRequest(
                f"the model's chat template does not take these messages: {fault}; change their roles or order",
                code="invalid_messages",
                param="messages",
            ) from fault
        return self.tokenizer.encode(text, add_special_tokens=False)

    def text_prompt(self, prompt: str | list[int]) -> list[int]:
        """A prompt as tokens, with the special tokens that the tokenizer puts around a text.

        Raises:
            InvalidRequest: a token number outside the vocabulary, or a text of no tokens.
        """
        tokens = self.tokenizer.encode(prompt) if isinstance(prompt, str) else prompt
        size = self.model.get_input_embeddings().num_embeddings
        if not tokens or max(tokens) >= size:
            raise InvalidRequest(
                f"the prompt is empty or names a token outside the vocabulary of {size}; correct it", param="prompt"
            )
        return tokens

    def room_for(self, prompt_tokens: int, wanted: int | None) -> int:
        """How many tokens an answer may have: what was wanted, or what is left of the context.

        Raises:
            InvalidRequest: ``context_length_exceeded``.
        """
        left = self.max_length - prompt_tokens
        if left < 1 or (wanted or 1) > left:
            asked = f" and {wanted} tokens are wanted for the answer" if wanted else " and an answer needs at least one"
            raise InvalidRequest(
                f"the context holds {self.max_length} tokens; the prompt has {prompt_tokens}{asked}. "
                "Shorten the prompt or ask for fewer tokens.",
                code="context_length_exceeded",
                param="max_tokens" if left >= 1 else "messages",
            )
        return left if wanted is None else wanted


def load(job: ServeJob) -> ServedModel:
    """The folder's model in the fastest precision of this machine, its adapter merged, tried once.

    Raises:
        WeightsInvalid: the folder, the tokenizer or the adapter cannot be loaded, or the model computes no numbers.
    """
    device = choose_device()
    tokenizer = load_tokenizer(Path(job.model))
    model = load_model(Path(job.model), dtype=DTYPES[choose_precision("auto", device)], device=device)
    end_ids = _end_ids(model, tokenizer)
    if job.adapter is not None:
        model = apply_adapter(model, Path(job.adapter), trainable=False).merge_and_unload()
    model.generation_config = GenerationConfig()
    model.eval().requires_grad_(False)
    _try(model)
    longest = getattr(model.config.get_text_config(), "max_position_embeddings", None) or job.max_length
    return ServedModel(model, tokenizer, end_ids, min(job.max_length, longest))


def _role(message: Message) -> str:
    return "system" if message.role == "developer" else message.role


def _end_ids(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> frozenset[int]:
    """Every token that ends an answer, by any of the three places that may name one."""
    named = (model.config.get_text_config().eos_token_id, tokenizer.eos_token_id)
    generation = model.generation_config.eos_token_id if model.generation_config else None
    ids: set[int] = set()
    for value in (*named, generation):
        ids.update(value if isinstance(value, Iterable) else () if value is None else (value,))
    return frozenset(ids)


def _try(model: PreTrainedModel) -> None:
    """One pass over one token: a broken model must fail before it is said to be ready."""
    with torch.inference_mode():
        logits = model(input_ids=torch.zeros((1, 1), dtype=torch.long, device=model.device), use_cache=False).logits
    if not torch.isfinite(logits).all():
        raise WeightsInvalid(
            "the model computes values that are not numbers; validate its weights and import it again",
            code="model_not_finite",
        )
