"""How long a tuning would run, before it is submitted (SPEC TU4). Pure: the published formula and table, with a range.

It refuses to guess where neither a duration nor a known throughput is given.
"""

from __future__ import annotations

from finery_contracts.errors import InvalidRequest
from finery_contracts.estimates import Duration, EstimateAsked

COEFFICIENT = 36
"""hours = coefficient × iterations / (cards × instances × throughput)"""
SAMPLES_PER_ITERATION = 32
GUESS = 0.25
"""How far a duration that somebody states may be off, either way."""
THROUGHPUT: dict[str, dict[str, tuple[int, int]]] = {
    "Baichuan2-13B": {"full": (1200, 1600), "lora": (1300, 1800)},
    "ChatGLM3-6B": {"full": (2000, 2700), "lora": (2300, 3100)},
    "Llama2-7B": {"full": (3100, 4200), "lora": (3500, 4700)},
    "Llama2-13B": {"full": (1300, 1800), "lora": (1400, 1900)},
    "Llama2-70B": {"full": (300, 400), "lora": (400, 500)},
    "Llama3-8B": {"full": (2100, 2800), "lora": (2300, 3100)},
    "Llama3-70B": {"full": (300, 400), "lora": (300, 500)},
    "Qwen-7B": {"full": (2100, 2900), "lora": (2200, 3000)},
    "Qwen-14B": {"full": (1200, 1600), "lora": (1400, 1900)},
    "Qwen-72B": {"full": (300, 400), "lora": (300, 500)},
    "Qwen1.5-7B": {"full": (2200, 3000), "lora": (2600, 3600)},
    "Qwen1.5-14B": {"full": (1300, 1700), "lora": (1400, 1800)},
    "Qwen1.5-32B": {"full": (600, 800), "lora": (700, 900)},
    "Qwen1.5-72B": {"full": (300, 400), "lora": (300, 500)},
    "Qwen2-0.5B": {"full": (12800, 17300), "lora": (12800, 17300)},
    "Qwen2-1.5B": {"full": (7300, 9800), "lora": (7300, 9900)},
    "Qwen2-7B": {"full": (2300, 3200), "lora": (2600, 3500)},
    "Qwen2-72B": {"full": (300, 300), "lora": (300, 400)},
}
"""Tokens a second and card, from the slowest to the fastest that was measured."""


def duration_of(asked: EstimateAsked) -> Duration:
    """Seconds, with a range.

    Raises:
        InvalidRequest: what would be needed is missing, or the model's throughput is not known.
    """
    if asked.seconds is not None:
        return Duration(
            seconds=asked.seconds, low_s=asked.seconds * (1 - GUESS), high_s=asked.seconds * (1 + GUESS), basis="stated"
        )
    if asked.iterations is None:
        raise InvalidRequest("give seconds, or iterations with throughput or a model", param="iterations")
    low, high = _throughput(asked)
    work = COEFFICIENT * asked.iterations / (asked.cards * asked.instances) * 3600
    tokens = asked.iterations * SAMPLES_PER_ITERATION * asked.tokens_per_sample if asked.tokens_per_sample else None
    return Duration(
        seconds=2 * work / (low + high), low_s=work / high, high_s=work / low, tokens=tokens,
        basis="stated throughput" if asked.throughput is not None else "reference table",
    )  # fmt: skip


def _throughput(asked: EstimateAsked) -> tuple[float, float]:
    if asked.throughput is not None:
        return asked.throughput * (1 - GUESS), asked.throughput * (1 + GUESS)
    known = THROUGHPUT.get(asked.model or "", {}).get(asked.method)
    if known is None:
        names = ", ".join(THROUGHPUT)
        raise InvalidRequest(
            f"no throughput is known of {asked.model or 'no model'} ({asked.method}); give throughput in tokens a "
            f"second and card, or one of {names}", param="model",
        )  # fmt: skip
    return known
