"""The automatic recipe (SPEC TU3): what a person left out is chosen from model and data, each with its reason."""

from __future__ import annotations

from dataclasses import dataclass

from finery_contracts.tuning import TuneOptions, TuneParameters

LORA_RATES = ((500e6, 1e-3), (3e9, 3e-4), (float("inf"), 2e-4))


@dataclass(frozen=True)
class Facts:
    """What is known before the run."""

    samples: int
    model_parameters: int
    model_max_length: int
    gallery_rate: float | None = None


def decide(options: TuneOptions, facts: Facts) -> tuple[TuneParameters, dict[str, str]]:
    """Every parameter, and for each that was chosen here a line why."""
    reasons: dict[str, str] = {}
    samples = min(facts.samples, options.max_samples or facts.samples)
    epochs = options.epochs
    if epochs is None and options.iterations is None:
        epochs = _epochs(samples)
        reasons["epochs"] = f"{samples} samples: {epochs:g} passes"
    rate = options.learning_rate
    if rate is None:
        rate = facts.gallery_rate or next(r for size, r in LORA_RATES if facts.model_parameters < size)
        reasons["learning_rate"] = f"{rate:g} is usual for LoRA on {facts.model_parameters / 1e6:.0f} M parameters"
        rate *= options.learning_rate_multiplier or 1.0
    batch = options.batch_size
    if batch is None:
        batch = 8 if samples >= 64 else 4 if samples >= 16 else 2
        reasons["batch_size"] = f"{samples} samples: {batch} at once"
    length = min(options.max_length or 1024, facts.model_max_length)
    given = options.model_dump(exclude={"learning_rate_multiplier"}, exclude_none=True)
    chosen = {"epochs": epochs, "learning_rate": min(rate, 0.1), "batch_size": batch, "max_length": length}
    return TuneParameters.model_validate({**given, **chosen, "iterations": options.iterations}), reasons


def _epochs(samples: int) -> float:
    """Hundreds of samples 4-8 passes, thousands 2-4, more 1-2."""
    if samples < 200:
        return 6
    if samples < 1000:
        return 4
    return 3 if samples < 10_000 else 1
