"""Settings of weight-validator."""

from __future__ import annotations

from pydantic import Field

from finery_kit.settings import Settings, Texts


class WeightValidatorSettings(Settings):
    """See the README for what each knob does."""

    weight_validator_slots: int = Field(default=1, ge=1, le=64, description="attempts at a time")
    pool: str = Field(default="public", description="id of the pool it works for")
    flavours: Texts = Field(default_factory=lambda: ["cpu"], min_length=1, description="what this machine offers")
