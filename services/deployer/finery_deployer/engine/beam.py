"""Beam search: the n likeliest answers as a whole, found by following n beginnings at once.

It takes turns like every other run, and says nothing before it ends: until then any beginning may still be given up.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from finery_deployer.engine.generation import Attention, Delta, Order
from finery_deployer.engine.model import ServedModel
from finery_deployer.engine.sampling import Penalties
from finery_deployer.engine.text import TextStream


@dataclass(frozen=True, slots=True)
class _Hypothesis:
    tokens: tuple[int, ...]
    log_probability: float
    ended: bool = False

    def score(self, length_penalty: float) -> float:
        """Log-probability over length to the power of the penalty (1609.08144 without its constants, as in vLLM)."""
        return self.log_probability / len(self.tokens) ** length_penalty


class BeamRun:
    """The n best hypotheses of one prompt. It ends when n have ended and no open one scores better than the worst."""

    def __init__(self, served: ServedModel, order: Order) -> None:
        self._served = served
        self._order = order
        self._end_ids = frozenset() if order.ignore_eos else served.end_ids
        self._attention = Attention(served, order.prompt)
        self._penalties: Penalties | None = None
        self._open: list[_Hypothesis] = []
        self._ended: list[_Hypothesis] = []
        self.done = False

    def step(self) -> list[Delta]:
        """Read a piece of the prompt, or make every open hypothesis one token longer; at the end, all answers."""
        if self._open:
            last = torch.tensor([one.tokens[-1] for one in self._open], device=self._served.device)
            logits = self._attention.say(last)
        else:
            logits = self._attention.read()
            if self._attention.reading:
                return []
            self._open = [_Hypothesis((), 0.0)]
        self._extend(logits)
        if self._open and not self._decided():
            return []
        self.done = True
        return [self._answer(index, one) for index, one in enumerate(self._best())]

    def _extend(self, logits: torch.Tensor) -> None:
        """Replace the open hypotheses by their n likeliest continuations; those that end are put aside."""
        if self._penalties is None:
            self._penalties = Penalties(
                self._order.sampling, rows=1, vocabulary=logits.shape[-1], device=self._served.device
            )
        past = torch.tensor([one.log_probability for one in self._open], device=logits.device)
        totals = self._penalties.apply(logits).log_softmax(-1) + past[:, None]
        # Each row can end in at most so many ways, so that n continuations that go on are always among the taken.
        taken = min(self._order.n * (1 + len(self._end_ids)), totals.numel())
        best = totals.flatten().topk(taken)
        rows: list[int] = []
        longer: list[_Hypothesis] = []
        for total, place in zip(best.values.tolist(), best.indices.tolist(), strict=True):
            row, token = divmod(place, logits.shape[-1])
            tokens = (*self._open[row].tokens, token)
            if token in self._end_ids:
                self._ended.append(_Hypothesis(tokens, total, ended=True))
            elif len(longer) < self._order.n:
                rows.append(row)
                longer.append(_Hypothesis(tokens, total))
        self._go_on(longer, rows)

    def _go_on(self, hypotheses: list[_Hypothesis], rows: list[int]) -> None:
        if len(hypotheses[0].tokens) == self._order.max_tokens:
            self._ended += hypotheses
            self._open = []
            return
        self._open = hypotheses
        kept = torch.tensor(rows, device=self._served.device)
        self._attention.keep(kept)
        if self._penalties is not None:
            self._penalties.keep(kept)
            self._penalties.say(torch.tensor([one.tokens[-1] for one in hypotheses], device=kept.device))

    def _decided(self) -> bool:
        best = self._best()
        if len(best) < self._order.n:
            return False
        penalty = self._order.length_penalty
        return max(one.score(penalty) for one in self._open) <= best[-1].score(penalty)

    def _best(self) -> list[_Hypothesis]:
        ordered = sorted(self._ended, key=lambda one: one.score(self._order.length_penalty), reverse=True)
        self._ended = ordered[: self._order.n]
        return self._ended

    def _answer(self, index: int, hypothesis: _Hypothesis) -> Delta:
        """The hypothesis as text, cut at the first stop string; the tokens are counted up to there."""
        stream = TextStream(self._served.tokenizer, self._order.stops)
        spoken = hypothesis.tokens[:-1] if hypothesis.ended else hypothesis.tokens
        text = ""
        for count, token in enumerate(spoken, start=1):
            text += stream.push(token)
            if stream.stopped:
                return Delta(index, text, count, "stop")
        text += stream.end()
        finish = "stop" if hypothesis.ended or stream.stopped else "length"
        return Delta(index, text, len(hypothesis.tokens), finish)
