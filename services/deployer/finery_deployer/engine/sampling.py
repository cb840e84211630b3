"""The choice of the next token. Each request draws from its own generator, so no other request changes its answer."""

from __future__ import annotations

from dataclasses import dataclass

import torch

_GREEDY_BELOW = 1e-5


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampling:
    """How tokens are chosen; the names and ranges are those of the request."""

    temperature: float = 1.0
    top_k: int = -1
    top_p: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    seed: int | None = None

    @property
    def greedy(self) -> bool:
        """Whether the likeliest token is taken and nothing is drawn."""
        return self.temperature < _GREEDY_BELOW or self.top_k == 1


class Penalties:
    """What each row has said, and what saying it again costs, by OpenAI's definition: the prompt is not counted."""

    def __init__(self, sampling: Sampling, *, rows: int, vocabulary: int, device: torch.device) -> None:
        self._presence, self._frequency = sampling.presence_penalty, sampling.frequency_penalty
        active = bool(self._presence or self._frequency)
        self._counts = torch.zeros((rows, vocabulary), device=device) if active else None

    def apply(self, logits: torch.Tensor) -> torch.Tensor:
        """Logits (rows, vocabulary) less the penalties."""
        if self._counts is None:
            return logits
        return logits - self._frequency * self._counts - self._presence * (self._counts > 0)

    def say(self, tokens: torch.Tensor) -> None:
        """Count one token (rows,) for each row."""
        if self._counts is not None:
            self._counts.scatter_add_(1, tokens[:, None], torch.ones_like(tokens[:, None], dtype=self._counts.dtype))

    def keep(self, rows: torch.Tensor) -> None:
        """Keep these rows, in this order; a row may be named twice."""
        if self._counts is not None:
            self._counts = self._counts[rows]


class Sampler:
    """Draws for the rows of one request."""

    def __init__(self, sampling: Sampling, *, device: torch.device) -> None:
        self._sampling = sampling
        self._generator = torch.Generator(device)
        if sampling.seed is None:
            self._generator.seed()
        else:
            self._generator.manual_seed(sampling.seed)

    def pick(self, logits: torch.Tensor) -> torch.Tensor:
        """One token (rows,) from float32 logits (rows, vocabulary): temperature, then top_k, then top_p, as in vLLM."""
        if self._sampling.greedy:
            return logits.argmax(-1)
        # The greatest logit is taken off first, so that a temperature near 0 cannot make an infinity.
        logits = (logits - logits.max(-1, keepdim=True).values) / self._sampling.temperature
        if 0 < self._sampling.top_k < logits.shape[-1]:
            least = logits.topk(self._sampling.top_k, dim=-1).values[:, -1:]
            logits = logits.masked_fill(logits < least, float("-inf"))
        if self._sampling.top_p < 1:
            logits = _within_share(logits, self._sampling.top_p)
        return torch.multinomial(logits.softmax(-1), 1, generator=self._generator)[:, 0]


def _within_share(logits: torch.Tensor, share: float) -> torch.Tensor:
    """Only the smallest set of likeliest tokens whose probability reaches ``share`` (nucleus sampling, 1904.09751)."""
    ordered, order = logits.sort(-1, descending=True)
    probabilities = ordered.softmax(-1)
    beyond = probabilities.cumsum(-1) - probabilities >= share
    return logits.masked_fill(torch.zeros_like(beyond).scatter(1, order, beyond), float("-inf"))
