"""The JSON that goes out: OpenAI's shapes of whole answers and of chunks. It decides nothing, it only words."""

from __future__ import annotations

import json
import secrets
import time
from dataclasses import dataclass, field
from typing import Any

from finery_contracts.errors import FineryError
from finery_deployer.engine.generation import FinishReason

END_OF_STREAM = b"data: [DONE]\n\n"


@dataclass(slots=True)
class Usage:
    """Tokens as the model saw and made them; the token that ends a text is one of them, as in vLLM."""

    prompt_tokens: int
    completion_tokens: int = 0

    def body(self) -> dict[str, int]:
        """In OpenAI's shape."""
        return {
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": self.completion_tokens,
            "total_tokens": self.prompt_tokens + self.completion_tokens,
        }


@dataclass(slots=True)
class Choice:
    """One choice of a whole answer while it is gathered."""

    text: str = ""
    finish: FinishReason | None = None


@dataclass(frozen=True, slots=True)
class Wording:
    """One answer's identity, and its words as ``chat`` or as plain completion."""

    model: str
    chat: bool
    answer_id: str = field(default_factory=lambda: secrets.token_hex(16))
    created: int = field(default_factory=lambda: int(time.time()))

    def whole(self, choices: list[Choice], usage: Usage) -> dict[str, Any]:
        """The body of an answer that is not streamed."""
        words = [
            {"index": index, **self._content(choice.text), "logprobs": None, "finish_reason": choice.finish}
            for index, choice in enumerate(choices)
        ]
        return {**self._head(chunk=False), "choices": words, "usage": usage.body()}

    def chunk(self, index: int, delta: dict[str, str], finish: FinishReason | None = None) -> dict[str, Any]:
        """One chunk of one choice; ``delta`` has ``content`` and, in a chat's first chunk, ``role``."""
        words = {"delta": delta} if self.chat else {"text": delta.get("content", "")}
        choice = {"index": index, **words, "logprobs": None, "finish_reason": finish}
        return {**self._head(chunk=True), "choices": [choice]}

    def usage_chunk(self, usage: Usage) -> dict[str, Any]:
        """The last chunk of a stream with ``include_usage``."""
        return {**self._head(chunk=True), "choices": [], "usage": usage.body()}

    def _content(self, text: str) -> dict[str, Any]:
        return {"message": {"role": "assistant", "content": text}} if self.chat else {"text": text}

    def _head(self, *, chunk: bool) -> dict[str, Any]:
        prefix, kind = ("chatcmpl", "chat.completion") if self.chat else ("cmpl", "text_completion")
        name = f"{kind}.chunk" if chunk and self.chat else kind
        return {"id": f"{prefix}-{self.answer_id}", "object": name, "created": self.created, "model": self.model}


def server_sent(body: dict[str, Any]) -> bytes:
    """A body as one server-sent event."""
    return b"data: " + json.dumps(body, ensure_ascii=False, separators=(",", ":")).encode() + b"\n\n"


def error_headers(error: FineryError) -> dict[str, str]:
    """The headers that belong to an error's status."""
    headers: dict[str, str] = {}
    if error.retry_after_s is not None:
        headers["Retry-After"] = str(max(1, round(error.retry_after_s)))
    if error.status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    return headers
