"""What a gallery file may say of families and models, and what of it contradicts itself.

Judges the words alone: whether ids repeat and who may replace what is the business of ``gallery``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import PurePosixPath
from typing import Annotated, Literal, NamedTuple, cast

from packaging.licenses import InvalidLicenseExpression, canonicalize_license_expression
from pydantic import AfterValidator, BaseModel, BeforeValidator, Field, JsonValue

from finery_contracts.gallery import MADE_BY, Form, GalleryEntry, Licence, Method, Range, Strategy, Supports
from finery_contracts.model import Request


class NamedLicence(Request):
    """A licence that SPDX has no id for."""

    name: str = Field(min_length=1, max_length=200)
    acceptance: bool = True


def _spdx(said: object) -> object:
    if isinstance(said, str):
        try:
            return canonicalize_license_expression(said)
        except InvalidLicenseExpression as fault:
            raise ValueError(f"{said!r} is no SPDX expression; or give {{name: …, acceptance: true}}") from fault
    return said


def _ordered(said: Range) -> Range:
    if said[0] > said[1]:
        raise ValueError(f"{said[0]:g} is more than {said[1]:g}; give [least, most]")
    return said


def _without_minutes(said: object) -> object:
    if not isinstance(said, list):
        return said
    names = cast("list[object]", said)
    return dict.fromkeys(names) if all(isinstance(name, str) for name in names) else names


LicenceSaid = Annotated[str | NamedLicence, AfterValidator(_spdx)]
Positive = Annotated[float, Field(gt=0)]
Bounds = Annotated[tuple[Positive, Positive], AfterValidator(_ordered)]
Length = Annotated[int, Field(ge=16, le=16_777_216)]


class FamilySaid(Request):
    """What the models of a family have in common."""

    type: Literal["text-generation"] = "text-generation"
    uses: list[str] = Field(default_factory=list)
    languages: list[str] = Field(default_factory=list)
    licence: LicenceSaid | None = None
    custom_only: bool = Field(default=False, description="weights are never recommended: everybody brings their own")
    replaces: bool = Field(default=False, description="true: instead of a family that is shipped")


class SupportsSaid(Request):
    """What a model can be used for."""

    tune: list[Method] = Field(default_factory=list[Method])
    compress: Annotated[dict[Strategy, Bounds | None], BeforeValidator(_without_minutes)] = Field(
        default_factory=dict[Strategy, Bounds | None], description="with minutes; or a list where they are not known"
    )
    deploy: list[Form] | None = Field(default=None, description="forms of weights; default: the form of the entry")


class ModelSaid(Request):
    """What a gallery file says of one model."""

    family: str
    title: str | None = Field(default=None, min_length=1, max_length=100)
    uses: list[str] | None = None
    languages: list[str] | None = None
    licence: LicenceSaid | None = None
    parameters: int = Field(gt=0)
    quantisation: Form = "none"
    max_length: Length | None = None
    chat_template: bool | None = None
    hub: str | None = Field(default=None, max_length=200)
    source: str | None = None
    gguf_file: str | None = None
    overrides: dict[str, JsonValue] = Field(default_factory=dict[str, JsonValue])
    supports: SupportsSaid = SupportsSaid()
    throughput: dict[Method, Bounds] = Field(default_factory=dict[Method, Bounds])
    learning_rate: dict[Method, Positive] = Field(default_factory=dict[Method, Positive])
    qps: Positive = 1
    qps_awq: Positive | None = None
    qps_smoothquant: Positive | None = None
    architecture: str | None = None
    published_config: dict[str, JsonValue] | None = None
    replaces: bool = Field(default=False, description="true: instead of an entry of the same id that is shipped")

    @property
    def deployed_as(self) -> list[Form]:
        """The forms of weights that can be served."""
        return [self.quantisation] if self.supports.deploy is None else self.supports.deploy


class Contradiction(NamedTuple):
    """Something that cannot hold: at which key, why, and what to do."""

    key: str
    reason: str
    remedy: str


def entry_of(model_id: str, said: ModelSaid, family: FamilySaid, *, max_length: int) -> GalleryEntry:
    """The entry, with what its family says where it says nothing itself."""
    licence = said.licence or family.licence
    assert licence is not None, "contradictions() has refused that"
    config = said.published_config
    given = said.model_dump(
        exclude={"replaces", "supports", "licence", "title", "uses", "languages", "max_length", "architecture"}
    )
    return GalleryEntry(
        **given, id=model_id, title=said.title or model_id, type=family.type, licence=_licence(licence),
        custom_only=family.custom_only,
        uses=family.uses if said.uses is None else said.uses,
        languages=family.languages if said.languages is None else said.languages,
        max_length=said.max_length or max_length,
        architecture=said.architecture or (str(config["model_type"]) if config else None),
        supports=Supports(tune=said.supports.tune, compress=said.supports.compress, deploy=said.deployed_as),
    )  # fmt: skip


def contradictions(said: ModelSaid, family: FamilySaid) -> Iterator[Contradiction]:
    """What the words of one model say against themselves, or against its family."""
    if said.licence is None and family.licence is None:
        yield Contradiction("licence", "neither it nor its family has one", "give an SPDX id, or {name, acceptance}")
    for broken, key, reason, remedy in _RULES:
        if broken(said, family):
            yield Contradiction(key, reason, remedy)
    for method in sorted((said.throughput.keys() | said.learning_rate.keys()) - set(said.supports.tune)):
        yield Contradiction(
            "supports.tune", f"{method} has figures but is not offered", f"add {method}, or drop its figures"
        )
    yield from _made_but_not_served(said)
    yield from _override_faults(said.overrides)
    yield from _config_faults(said.published_config or {}, "published_config")


def remedy_for(kind: str, shape: type[BaseModel] | None) -> str:
    """What to do about a fault that pydantic found in one of these shapes."""
    known = f"; the keys are {', '.join(shape.model_fields)}" if shape is not None else ""
    return {"extra_forbidden": f"remove it or correct its name{known}", "missing": "add the key"}.get(
        kind, "correct the value"
    )


_OVERRIDES = ("eos_token", "pad_token", "model_max_length")
_NO_STRUCTURE = frozenset({
    "model_type", "architectures", "transformers_version", "torch_dtype", "dtype", "use_cache", "auto_map",
    "_name_or_path", "quantization_config", "initializer_range", "_attn_implementation",
})  # fmt: skip
"""Keys of config.json by which validation compares nothing."""
_DEPLOY_ONLY = "a quantised entry can only be deployed"
_OTHER_ENTRY = "leave it out here; the un-quantised weights are an entry of their own"
_Rule = tuple[Callable[[ModelSaid, FamilySaid], bool], str, str, str]


def _awq_only(said: ModelSaid) -> bool:
    """Whether its weights are served as AWQ ones and not as SmoothQuant ones."""
    return "awq" in said.deployed_as and "smoothquant" not in said.deployed_as


_RULES: tuple[_Rule, ...] = (
    (lambda m, _: m.quantisation != "none" and bool(m.supports.tune), "supports.tune", _DEPLOY_ONLY, _OTHER_ENTRY),
    (
        lambda m, _: m.quantisation != "none" and bool(m.supports.compress),
        "supports.compress", _DEPLOY_ONLY, _OTHER_ENTRY,
    ),
    (
        lambda m, _: m.quantisation == "smoothquant",
        "quantisation", "SmoothQuant weights only come from compression here", "name the un-quantised weights instead",
    ),
    (
        lambda m, _: m.quantisation != "none" and m.deployed_as not in ([], [m.quantisation]),
        "supports.deploy", "a quantised entry is served in its own form only", "leave deploy out",
    ),
    (
        lambda m, _: m.quantisation == "none" and _awq_only(m) and "smoothquant-w8a8" in m.supports.compress,
        "supports.compress", "SmoothQuant is not for a row whose weights are served as AWQ only",
        "leave smoothquant-w8a8 out, or add smoothquant to supports.deploy",
    ),
    (
        lambda m, _: m.qps_awq is not None and "awq" not in m.deployed_as,
        "qps_awq", "AWQ weights are not among what is served", "add awq to supports.deploy, or leave it out",
    ),
    (
        lambda m, _: m.qps_smoothquant is not None and "smoothquant" not in m.deployed_as,
        "qps_smoothquant", "SmoothQuant weights are not among what is served",
        "add smoothquant to supports.deploy, or leave it out",
    ),
    (
        lambda m, family: family.custom_only and m.source is not None,
        "source", "its family is custom-only: weights are never recommended", "leave source out",
    ),
    (
        lambda m, _: m.source is not None and not m.source.startswith(("package://", "file:///", "/")),
        "source", "it is no folder that can be read", "give package://…, file:///… or an absolute path",
    ),
    (
        lambda m, _: m.gguf_file is not None and m.gguf_file != PurePosixPath(m.gguf_file).name,
        "gguf_file", "it is no plain name of a file", "name a file at the top of source",
    ),
    (
        lambda m, _: len(set(m.supports.tune)) < len(m.supports.tune),
        "supports.tune", "a method is there twice", "keep one of the two",
    ),
    (
        lambda m, _: m.published_config is not None and not m.published_config.keys() - _NO_STRUCTURE,
        "published_config", "it holds no key that describes a structure",
        "take the structure keys of the published config.json, such as hidden_size, or leave it out",
    ),
    (lambda m, _: m.gguf_file is not None and m.source is None, "gguf_file", "there is no source", "give source, too"),
    (
        lambda m, _: m.published_config is not None and not isinstance(m.published_config.get("model_type"), str),
        "published_config.model_type", "the key is missing or no text", "give model_type as config.json has it",
    ),
    (
        lambda m, _: None not in (m.architecture, m.published_config)
        and m.architecture != (m.published_config or {}).get("model_type"),
        "architecture", "it is not the model_type of published_config", "leave architecture out",
    ),
)  # fmt: skip


def _made_but_not_served(said: ModelSaid) -> Iterator[Contradiction]:
    for strategy in said.supports.compress:
        form = MADE_BY.get(strategy)
        ruled = said.quantisation != "none" or (form == "smoothquant" and _awq_only(said))
        if form is not None and form not in said.deployed_as and not ruled:
            yield Contradiction(
                "supports.compress", f"what {strategy} makes ({form}) could not be deployed",
                f"add {form} to supports.deploy, or leave {strategy} out",
            )  # fmt: skip


def _override_faults(overrides: Mapping[str, JsonValue]) -> Iterator[Contradiction]:
    """What import would refuse later."""
    for key, value in overrides.items():
        if key not in _OVERRIDES:
            yield Contradiction(f"overrides.{key}", "import knows no such override", f"use {', '.join(_OVERRIDES)}")
        elif key == "model_max_length" and not (type(value) is int and value >= 16):
            yield Contradiction(f"overrides.{key}", "it is no whole number of tokens, at least 16", "correct the value")
        elif key != "model_max_length" and not (isinstance(value, str) and value):
            yield Contradiction(f"overrides.{key}", "it is no token", "give the token's text")


def _config_faults(config: Mapping[str, JsonValue], place: str) -> Iterator[Contradiction]:
    for key, value in config.items():
        where = f"{place}.{key}"
        if isinstance(value, dict):
            yield from _config_faults(value, where)
        elif isinstance(value, int | float) and not isinstance(value, bool) and not 0 < value < 1e15:
            yield Contradiction(where, f"{value} is no size of a model", "take the value of the published config.json")


def _licence(said: str | NamedLicence) -> Licence:
    if isinstance(said, str):
        return Licence(spdx=said, name=said)
    return Licence(name=said.name, acceptance=said.acceptance)
