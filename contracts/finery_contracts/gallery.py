"""The gallery: models that can be made by name, what each can be used for, and the figures that estimates are made of.

It says what holds; whether something is allowed is decided by studio's support matrix.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field, JsonValue

from finery_contracts.model import Record

Method = Literal["full", "lora"]
Strategy = Literal["smoothquant-w8a8", "awq-w4a16", "fp8", "gptq-w4a16", "gguf"]
Form = Literal["none", "awq", "smoothquant", "gptq", "fp8"]
"""How weights are quantised; ``none``: they are not."""
Range = tuple[float, float]
MADE_BY: dict[Strategy, Form] = {
    "smoothquant-w8a8": "smoothquant", "awq-w4a16": "awq", "fp8": "fp8", "gptq-w4a16": "gptq",
}  # fmt: skip
"""What a way to compress leaves; ``gguf`` is an export, which nothing here deploys."""


class Licence(Record):
    """Under which terms weights may be used."""

    spdx: str | None = Field(default=None, description="SPDX expression; absent: a licence of its own")
    name: str
    acceptance: bool = Field(default=False, description="its terms must be agreed to before use")


class Supports(Record):
    """What a model can be used for; all empty: nothing."""

    tune: list[Method] = Field(default_factory=list[Method])
    compress: dict[Strategy, Range | None] = Field(
        default_factory=dict[Strategy, Range | None], description="minutes, from least to most, where they are known"
    )
    deploy: list[Form] = Field(default_factory=list[Form], description="in which forms its weights can be served")


class GalleryEntry(Record):
    """One model of the gallery, with what its family says of it."""

    id: str
    family: str
    title: str
    type: Literal["text-generation"] = "text-generation"
    uses: list[str] = Field(default_factory=list)
    languages: list[str] = Field(default_factory=list, description="ISO 639-1")
    licence: Licence
    parameters: int = Field(description="of the un-quantised model")
    quantisation: Form = Field(default="none", description="of the weights that the entry names")
    max_length: int = Field(description="longest input plus output that a deployment serves, in tokens")
    chat_template: bool | None = Field(default=None, description="whether the published tokenizer has one, if known")
    hub: str | None = Field(default=None, description="where the weights were published, as a hint for people")
    source: str | None = Field(default=None, description="recommended weights; absent: bring them in a folder")
    custom_only: bool = Field(default=False, description="weights are never recommended: everybody brings their own")
    gguf_file: str | None = None
    overrides: dict[str, JsonValue] = Field(default_factory=dict[str, JsonValue], description="known repairs of import")
    supports: Supports = Supports()
    throughput: dict[Method, Range] = Field(
        default_factory=dict[Method, Range], description="tokens a second and accelerator card, from least to most"
    )
    learning_rate: dict[Method, float] = Field(default_factory=dict[Method, float], description="recommended peak")
    qps: float = Field(default=1, description="recommended requests a second and instance")
    qps_awq: float | None = Field(default=None, description="the same for AWQ weights")
    qps_smoothquant: float | None = Field(default=None, description="the same for SmoothQuant weights")
    architecture: str | None = Field(default=None, description="model_type of its config.json")
    published_config: dict[str, JsonValue] | None = Field(
        default=None, description="structure keys of its config.json as published; what is not certain is left out"
    )


class Expected(Record):
    """What the gallery says of weights; whoever looks them over holds it against them."""

    expected_architecture: str | None = Field(default=None, description="model_type of config.json, if known")
    expected_quantised: bool | None = Field(default=None, description="absent: nobody knows what the weights should be")
    published_config: dict[str, JsonValue] | None = Field(
        default=None, description="structure keys of config.json as the model was published; others are not known"
    )


class Defaults(Record):
    """What holds where a model says nothing else, and the constants of the published estimate of duration."""

    max_length: int = Field(ge=16)
    duration_coefficient: float = Field(gt=0, description="hours = it x iterations / (cards x instances x throughput)")
    samples_per_iteration: int = Field(gt=0)


class Gallery(Record):
    """Everything that can be made by name, and what holds for all of it."""

    defaults: Defaults
    entries: dict[str, GalleryEntry]
