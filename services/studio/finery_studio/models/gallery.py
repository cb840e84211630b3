"""The gallery: read at start, validated, then only looked up."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import Field, ValidationError

from finery_contracts.errors import InvalidRequest
from finery_contracts.model import Request


class Supports(Request):
    """What a model can be used for."""

    tune: list[Literal["full", "lora"]] = Field(default_factory=list)
    deploy: bool = True
    compress: list[str] = Field(default_factory=list)


class GalleryEntry(Request):
    """One model of the gallery."""

    family: str
    title: str
    type: Literal["text-generation"] = "text-generation"
    uses: list[str] = Field(default_factory=list)
    languages: list[str] = Field(default_factory=list)
    licence: str
    architecture: str
    parameters: int = Field(gt=0)
    max_length: int = Field(default=4096, ge=16)
    source: str | None = None
    gguf_file: str | None = None
    overrides: dict[str, Any] = Field(default_factory=dict)
    supports: Supports = Supports()
    learning_rate: dict[str, float] = Field(default_factory=dict)
    qps: float = 1


class _File(Request):
    models: dict[str, GalleryEntry]


def load_gallery(extra: Path | None = None) -> dict[str, GalleryEntry]:
    """The shipped entries and the operator's; a faulty file stops the start and names the place."""
    shipped = files("finery_studio.models").joinpath("gallery.yaml").read_text("utf-8")
    entries = _parse(shipped, "gallery.yaml").models
    if extra is not None:
        entries = {**entries, **_parse(extra.read_text("utf-8"), str(extra)).models}
    return entries


def _parse(text: str, name: str) -> _File:
    try:
        return _File.model_validate(yaml.safe_load(text))
    except (ValidationError, yaml.YAMLError) as fault:
        raise InvalidRequest(f"the gallery file {name} is not valid: {fault}", code="gallery_invalid") from fault
