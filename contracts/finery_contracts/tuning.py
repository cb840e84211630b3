"""The parameters of tuning: range, default and help of each, and OpenAI's names for those it has (SPEC TU2)."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from finery_contracts.model import Record, Request

Precision = Literal["auto", "fp32", "bf16", "fp16"]
Scheduler = Literal["linear", "cosine", "constant"]


class TuneOptions(Request):
    """What a person may say; what is left out is chosen for them (see ``finery_studio.tuning.recipe``)."""

    method: Literal["lora"] = Field(default="lora", description="how the weights are tuned")
    iterations: int | None = Field(
        default=None, ge=0, le=100_000, description="optimizer steps; never together with epochs"
    )
    epochs: float | None = Field(default=None, ge=1, le=50, description="passes over the data")
    learning_rate: float | None = Field(default=None, gt=0, le=0.1, description="peak learning rate")
    learning_rate_multiplier: float | None = Field(
        default=None, gt=0, le=100, description="times the recommended rate; never together with learning_rate"
    )
    batch_size: int | None = Field(default=None, ge=1, le=256, description="samples a device takes at once")
    gradient_accumulation: int | None = Field(default=None, ge=1, le=1024, description="batches for one step")
    max_samples: int | None = Field(default=None, ge=1, description="train on the first so many samples only")
    max_length: int | None = Field(default=None, ge=16, le=131_072, description="tokens; longer samples are cut")
    precision: Precision = Field(default="auto", description="auto takes bf16 where the processor has it")
    scheduler: Scheduler = Field(default="cosine", description="how the learning rate falls")
    warmup_ratio: float = Field(default=0.05, ge=0, le=0.5, description="share of the steps spent warming up")
    weight_decay: float = Field(default=0.0, ge=0, le=1)
    validation_ratio: float = Field(
        default=0.0, ge=0, le=0.5, description="share kept for validation when no validation set is given"
    )
    lora_rank: int = Field(default=16, ge=1, le=512)
    lora_alpha: int = Field(default=32, ge=1, le=2048)
    lora_dropout: float = Field(default=0.0, ge=0, lt=1)
    lora_targets: list[str] | Literal["all-linear"] = Field(default="all-linear")
    checkpoint_interval: int | None = Field(default=None, ge=1, description="steps between checkpoints")
    keep_checkpoints: int = Field(default=3, ge=1, le=100)
    log_interval: int = Field(default=1, ge=1, le=1000, description="steps between metric points")
    seed: int = Field(default=42, ge=0, le=2**31 - 1)

    @model_validator(mode="after")
    def _one_of_two(self) -> TuneOptions:
        if self.iterations is not None and self.epochs is not None:
            raise ValueError("iterations and epochs exclude each other: give one of them")
        if self.learning_rate is not None and self.learning_rate_multiplier is not None:
            raise ValueError("learning_rate and learning_rate_multiplier exclude each other: give one of them")
        return self


class TuneParameters(Record):
    """What the trainer gets: every value decided; exactly one of iterations and epochs is set."""

    method: Literal["lora"] = "lora"
    iterations: int | None = None
    epochs: float | None = 3
    learning_rate: float = 2e-4
    batch_size: int = 8
    gradient_accumulation: int = 1
    max_samples: int | None = None
    max_length: int = 1024
    precision: Precision = "auto"
    scheduler: Scheduler = "cosine"
    warmup_ratio: float = 0.05
    weight_decay: float = 0.0
    validation_ratio: float = 0.0
    lora_rank: int = 16
    lora_alpha: int = 32
    lora_dropout: float = 0.0
    lora_targets: list[str] | Literal["all-linear"] = "all-linear"
    checkpoint_interval: int | None = Field(default=None, description="steps; None: once an epoch")
    keep_checkpoints: int = 3
    log_interval: int = 1
    seed: int = 42
