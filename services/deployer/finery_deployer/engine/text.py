"""From tokens to text, piece by piece: never half a character, never a text that could still become a stop string.

Streamed and whole answers both come from here, so they cannot differ.
"""

from __future__ import annotations

from collections.abc import Sequence

from transformers import PreTrainedTokenizerBase

_HALF = "\N{REPLACEMENT CHARACTER}"


class TextStream:
    """The text of one choice while it grows."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, stops: Sequence[str]) -> None:
        self._tokenizer = tokenizer
        self._stops = stops
        self._tokens: list[int] = []
        self._context = 0
        self._read = 0
        self._held = ""
        self.stopped = False

    def push(self, token: int) -> str:
        """Take one token; return the text that is certain now. ``stopped`` says that a stop string was found."""
        self._tokens.append(token)
        return self._release(self._decode(), last=False)

    def end(self) -> str:
        """The rest, when no token follows: half a character becomes a replacement character, as in the whole text."""
        return self._release(self._decode(flush=True), last=True)

    def _decode(self, *, flush: bool = False) -> str:
        """The text of the tokens not read yet.

        Some tokenizers drop the space before a first word, so a few tokens that were read already are decoded again as
        context, and what they say is subtracted.
        """
        before = self._text(self._tokens[self._context : self._read])
        after = self._text(self._tokens[self._context :])
        if after.endswith(_HALF) and not flush:
            return ""
        self._context, self._read = self._read, len(self._tokens)
        return after[len(before) :]

    def _text(self, tokens: list[int]) -> str:
        return self._tokenizer.decode(tokens, skip_special_tokens=True, clean_up_tokenization_spaces=False)

    def _release(self, text: str, *, last: bool) -> str:
        if self.stopped:
            return ""
        self._held += text
        found = [place for stop in self._stops if (place := self._held.find(stop)) >= 0]
        if found:
            self.stopped = True
            return self._held[: min(found)]
        keep = 0 if last else self._undecided()
        out, self._held = self._held[: len(self._held) - keep], self._held[len(self._held) - keep :]
        return out

    def _undecided(self) -> int:
        """Length of the longest tail that is the beginning of a stop string."""
        longest = max((len(stop) for stop in self._stops), default=1) - 1
        for length in range(min(longest, len(self._held)), 0, -1):
            if any(stop.startswith(self._held[-length:]) for stop in self._stops):
                return length
        return 0
