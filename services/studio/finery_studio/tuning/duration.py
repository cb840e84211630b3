"""How long a tuning would run, before it is submitted (SPEC TU4). Pure: the published formula, the gallery's figures.

It refuses to guess where neither a duration nor a known throughput is given.
"""

from __future__ import annotations

from finery_contracts.errors import InvalidRequest
from finery_contracts.estimates import Duration, EstimateAsked
from finery_contracts.gallery import Gallery

GUESS = 0.25
"""How far a duration that somebody states may be off, either way."""


def duration_of(asked: EstimateAsked, gallery: Gallery) -> Duration:
    """Seconds, with a range; hours = coefficient x iterations / (cards x instances x throughput).

    Raises:
        InvalidRequest: what would be needed is missing, or the model's throughput is not known.
    """
    if asked.seconds is not None:
        return Duration(
            seconds=asked.seconds, low_s=asked.seconds * (1 - GUESS), high_s=asked.seconds * (1 + GUESS), basis="stated"
        )
    if asked.tokens is not None:
        return _of_tokens(asked, asked.tokens * asked.epochs, gallery)
    if asked.iterations is None:
        raise InvalidRequest(
            "give seconds, or a count, tokens or iterations with throughput or a model", param="iterations"
        )
    low, high = _throughput(asked, gallery)
    work = gallery.defaults.duration_coefficient * asked.iterations / (asked.cards * asked.instances) * 3600
    samples = asked.iterations * gallery.defaults.samples_per_iteration
    tokens = samples * asked.tokens_per_sample if asked.tokens_per_sample else None
    return Duration(
        seconds=2 * work / (low + high), low_s=work / high, high_s=work / low, tokens=tokens,
        basis="stated throughput" if asked.throughput is not None else "reference table",
    )  # fmt: skip


def _of_tokens(asked: EstimateAsked, tokens: int, gallery: Gallery) -> Duration:
    """As long as so many tokens take on all cards together."""
    low, high = _throughput(asked, gallery)
    work = tokens / (asked.cards * asked.instances)
    basis = "counted tokens, stated throughput" if asked.throughput is not None else "counted tokens, reference table"
    return Duration(seconds=2 * work / (low + high), low_s=work / high, high_s=work / low, tokens=tokens, basis=basis)


def _throughput(asked: EstimateAsked, gallery: Gallery) -> tuple[float, float]:
    if asked.throughput is not None:
        return asked.throughput * (1 - GUESS), asked.throughput * (1 + GUESS)
    entry = gallery.entries.get(asked.model or "")
    known = entry.throughput.get(asked.method) if entry else None
    if known is None:
        names = ", ".join(name for name, entry in gallery.entries.items() if asked.method in entry.throughput)
        raise InvalidRequest(
            f"no throughput is known of {asked.model or 'this model'} ({asked.method}); give throughput in tokens a "
            f"second and card, or one of {names}", param="model",
        )  # fmt: skip
    return known
