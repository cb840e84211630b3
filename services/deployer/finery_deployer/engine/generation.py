"""One request's way through the model, step by step: prompt in pieces, then one token a step for all of its choices.

A step is short, so that the scheduler can take turns; nothing here waits, and nothing here knows other requests.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

import torch
from transformers import DynamicCache

from finery_deployer.engine.model import ServedModel
from finery_deployer.engine.sampling import Penalties, Sampler, Sampling
from finery_deployer.engine.text import TextStream

PROMPT_STEP = 512
"""Tokens of a prompt that one step reads: long prompts must not hold up other requests' streams."""

FinishReason = Literal["stop", "length"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """What to generate. ``max_tokens`` fits the context: that was checked."""

    prompt: Sequence[int]
    max_tokens: int
    n: int = 1
    sampling: Sampling = field(default_factory=Sampling)
    stops: Sequence[str] = ()
    ignore_eos: bool = False
    beam_search: bool = False
    length_penalty: float = 1.0


@dataclass(frozen=True, slots=True)
class Delta:
    """What one choice gained: text (often none), tokens, and at its end the reason."""

    index: int
    text: str
    tokens: int
    finish: FinishReason | None = None


class Run(Protocol):
    """A request under way."""

    @property
    def done(self) -> bool:
        """Whether every choice has ended."""
        ...

    def step(self) -> list[Delta]:
        """Go once through the model."""
        ...


class Attention:
    """The model and what it remembers of one request: a cache with one row for each choice under way."""

    def __init__(self, served: ServedModel, prompt: Sequence[int]) -> None:
        self._served = served
        self._prompt = torch.tensor([list(prompt)], device=served.device)
        self._place = 0
        self._cache = DynamicCache(config=served.model.config)

    @property
    def reading(self) -> bool:
        """Whether a part of the prompt is still to be read."""
        return self._place < self._prompt.shape[1]

    def read(self) -> torch.Tensor:
        """Read the next piece of the prompt; logits (1, vocabulary) after its last token."""
        piece = self._prompt[:, self._place : self._place + PROMPT_STEP]
        self._place += piece.shape[1]
        return self._forward(piece)

    def say(self, tokens: torch.Tensor) -> torch.Tensor:
        """Append one token (rows,) to each row; logits (rows, vocabulary) for the next."""
        return self._forward(tokens[:, None])

    def widen(self, rows: int) -> None:
        """After the prompt: as many rows as there are choices, all of the same past."""
        if rows > 1:
            self._cache.batch_repeat_interleave(rows)

    def keep(self, rows: torch.Tensor) -> None:
        """Keep these rows, in this order; a row may be named twice."""
        self._cache.batch_select_indices(rows)

    def _forward(self, tokens: torch.Tensor) -> torch.Tensor:
        answer = self._served.model(
            input_ids=tokens, past_key_values=self._cache, use_cache=True, logits_to_keep=1, return_dict=True
        )
        return answer.logits[:, -1].float()


@dataclass(slots=True)
class _Choice:
    index: int
    text: TextStream
    tokens: int = 0


class SampledRun:
    """Greedy or drawn choices of one prompt, side by side in one batch; a choice that ended leaves the batch."""

    def __init__(self, served: ServedModel, order: Order) -> None:
        self._end_ids = frozenset() if order.ignore_eos else served.end_ids
        self._order = order
        self._device = served.device
        self._attention = Attention(served, order.prompt)
        self._sampler = Sampler(order.sampling, device=served.device)
        self._penalties: Penalties | None = None
        self._last: torch.Tensor | None = None
        self._open = [_Choice(index, TextStream(served.tokenizer, order.stops)) for index in range(order.n)]

    @property
    def done(self) -> bool:
        """Whether every choice has ended."""
        return not self._open

    def step(self) -> list[Delta]:
        """Read a piece of the prompt, or give each open choice one more token."""
        if self._last is not None:
            logits = self._attention.say(self._last)
        else:
            logits = self._attention.read()
            if self._attention.reading:
                return []
            self._attention.widen(self._order.n)
            logits = logits.expand(self._order.n, -1)
        return self._take(logits)

    def _take(self, logits: torch.Tensor) -> list[Delta]:
        if self._penalties is None:
            self._penalties = Penalties(
                self._order.sampling, rows=len(logits), vocabulary=logits.shape[-1], device=self._device
            )
        self._last = self._sampler.pick(self._penalties.apply(logits))
        self._penalties.say(self._last)
        deltas = [self._grow(choice, token) for choice, token in zip(self._open, self._last.tolist(), strict=True)]
        self._drop_ended(deltas)
        return deltas

    def _grow(self, choice: _Choice, token: int) -> Delta:
        choice.tokens += 1
        if token in self._end_ids:
            text, finish = choice.text.end(), "stop"
        else:
            text, finish = choice.text.push(token), None
            if not choice.text.stopped and choice.tokens == self._order.max_tokens:
                text, finish = text + choice.text.end(), "length"
        if choice.text.stopped:
            finish = "stop"
        return Delta(choice.index, text, 1, finish)

    def _drop_ended(self, deltas: list[Delta]) -> None:
        kept = [row for row, delta in enumerate(deltas) if delta.finish is None]
        if len(kept) == len(deltas):
            return
        self._open = [self._open[row] for row in kept]
        if kept and self._last is not None and self._penalties is not None:
            rows = torch.tensor(kept, device=self._device)
            self._last = self._last[rows]
            self._attention.keep(rows)
            self._penalties.keep(rows)
