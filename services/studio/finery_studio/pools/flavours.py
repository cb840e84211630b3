"""The flavours file: read at start, validated, then only looked up. What a flavour can do is decided here, purely."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from typing import Annotated

import yaml
from packaging.specifiers import InvalidSpecifier, SpecifierSet
from packaging.version import InvalidVersion, Version
from pydantic import AfterValidator, Field, ValidationError

from finery_contracts.errors import InvalidRequest
from finery_contracts.jobs import TaskKind
from finery_contracts.model import Request
from finery_contracts.pools import Flavour, FlavourName

BYTES_OF_A_WEIGHT = 2
"""The least that an engine can hold a weight in without compressing it. Less than that certainly does not fit."""


def _requirement(text: str) -> str:
    try:
        SpecifierSet(text)
    except InvalidSpecifier as fault:
        raise ValueError(f"{text!r} is not a requirement of versions such as >=535,<600") from fault
    return text


Requirement = Annotated[str, Field(max_length=64), AfterValidator(_requirement)]


class FlavourSpec(Request):
    """What the flavours file says of one flavour."""

    title: str = Field(min_length=1, max_length=100)
    accelerators: int = Field(default=0, ge=0, le=1024, description="for one instance")
    accelerator: str | None = Field(default=None, max_length=100, description="what kind of accelerator")
    memory_gb: float = Field(gt=0, description="memory that weights can lie in, for one instance, in 10^9 bytes")
    price: str | None = Field(default=None, max_length=64, description="name in the price list; default: the flavour's")
    slots: int = Field(default=1, ge=1, le=1024, description="how many slots a task of this flavour takes")
    driver: Requirement | None = Field(default=None, description="versions of the driver it works with")
    kinds: list[TaskKind] = Field(default_factory=lambda: list(TaskKind), min_length=1)
    methods: list[str] | None = Field(default=None, description="ways to tune that it can do; default: all")


class _File(Request):
    flavours: dict[FlavourName, FlavourSpec]


def load_flavours(extra: Path | None = None) -> dict[str, Flavour]:
    """The shipped flavours and the operator's.

    Raises:
        InvalidRequest: a file is not valid; it stops the start and names the place.
    """
    shipped = files("finery_studio.pools").joinpath("flavours.yaml").read_text("utf-8")
    specs = _parse(shipped, "flavours.yaml").flavours
    if extra is not None:
        specs = {**specs, **_parse(_text(extra), str(extra)).flavours}
    return {
        name: Flavour.model_validate({**spec.model_dump(), "name": name, "price": spec.price or name})
        for name, spec in specs.items()
    }


def can_do(flavour: Flavour, kind: TaskKind, *, method: str | None = None, parameters: int | None = None) -> str | None:
    """Why it cannot do that, in words; None when it can. ``parameters``: of the model that has to fit."""
    if kind not in flavour.kinds:
        return f"it does {', '.join(flavour.kinds)}, not {kind}"
    if kind is TaskKind.TUNE and method is not None and flavour.methods is not None and method not in flavour.methods:
        return f"it tunes by {', '.join(flavour.methods) or 'nothing'}, not by {method}"
    needed_gb = (parameters or 0) * BYTES_OF_A_WEIGHT / 1e9
    if needed_gb > flavour.memory_gb:
        return f"the weights take at least {needed_gb:.1f} GB, it has {flavour.memory_gb:g} GB"
    return None


def wrong_driver(offered: Mapping[str, object], flavours: Mapping[str, Flavour], driver: str | None) -> str | None:
    """Why a pool with this driver cannot offer these flavours, in words; None when it can."""
    if driver is not None and not _is_version(driver):
        return f"{driver!r} is not a version such as 550.54.15"
    for name in offered:
        wanted = flavours[name].driver
        if wanted is None:
            continue
        if driver is None:
            return f"flavour {name} needs a driver {wanted}; say which version the pool has"
        if not SpecifierSet(wanted).contains(driver, prereleases=True):
            return f"flavour {name} needs a driver {wanted}, the pool has {driver}"
    return None


def _is_version(text: str) -> bool:
    try:
        Version(text)
    except InvalidVersion:
        return False
    return True


def _text(path: Path) -> str:
    try:
        return path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as fault:
        raise InvalidRequest(f"the flavours file {path} cannot be read: {fault}", code="flavours_invalid") from fault


def _parse(text: str, name: str) -> _File:
    try:
        return _File.model_validate(yaml.safe_load(text))
    except (ValidationError, yaml.YAMLError) as fault:
        raise InvalidRequest(f"the flavours file {name} is not valid: {fault}", code="flavours_invalid") from fault
