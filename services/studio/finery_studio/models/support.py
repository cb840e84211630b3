"""What may be done with a model: one table, asked wherever something is submitted, deployed or offered (SPEC MO1).

Pure: facts and a wish in, nothing or a refusal out. The first rule that is broken is the one that is named.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal, get_args

from finery_contracts.errors import InvalidRequest
from finery_contracts.gallery import GalleryEntry, Strategy
from finery_contracts.models import ModelView

Verb = Literal["tune", "compress", "deploy"]
VERBS: tuple[Verb, ...] = get_args(Verb)
STRATEGIES: tuple[Strategy, ...] = get_args(Strategy)
FROM_COMPRESSION = "compressed_from"
"""The key of a model's lineage under which compression names the model it began with."""
UNKNOWN = "unknown"
"""A model's ``quantisation`` when its weights are quantised, but nobody has said how."""


@dataclass(frozen=True)
class Action:
    """What somebody wants to do; ``how``: the method of tuning, the strategy of compression."""

    verb: Verb
    how: str = ""


@dataclass(frozen=True)
class Facts:
    """What the table looks at. ``entry``: what the gallery says of the model; None: it is in no gallery."""

    name: str
    quantisation: str | None = None
    compressed: bool = False
    """The weights were made by compression here."""
    adapter: bool = False
    entry: GalleryEntry | None = None


@dataclass(frozen=True)
class Refusal:
    """Why not: the rule's stable id, and a sentence that says what to do."""

    rule: str
    sentence: str


def may(facts: Facts, action: Action) -> Refusal | None:
    """None: it may be done."""
    for rule in RULES:
        if action.verb in rule.verbs and rule.broken(facts, action):
            return Refusal(rule.id, rule.sentence.format(name=facts.name, how=action.how, **_words(facts)))
    return None


def check(facts: Facts, action: Action, *, param: str = "model") -> None:
    """Let it pass, or refuse it.

    Raises:
        InvalidRequest: ``not_supported``; its details name the rule.
    """
    refusal = may(facts, action)
    if refusal is not None:
        detail = {"rule": refusal.rule, "model": facts.name, "action": action.verb, "how": action.how or None}
        message = f"{refusal.sentence} (rule {refusal.rule})"
        raise InvalidRequest(message, code="not_supported", param=param, details=[detail])


def facts_of(view: ModelView, entry: GalleryEntry | None) -> Facts:
    """The facts of a model of a project."""
    return Facts(
        name=view.name, quantisation=view.quantisation, compressed=FROM_COMPRESSION in view.lineage,
        adapter=view.adapter is not None, entry=entry,
    )  # fmt: skip


def facts_of_entry(entry: GalleryEntry) -> Facts:
    """The facts of a model that would be made from the gallery."""
    return Facts(name=entry.id, quantisation=quantised_as(entry), entry=entry)


def quantised_as(entry: GalleryEntry | None) -> str | None:
    """How the weights that an entry names are quantised; None: they are not, or nobody knows."""
    return None if entry is None or entry.quantisation == "none" else entry.quantisation


def found_by_validation(facts: Mapping[str, object], *, said: str | None) -> str | None:
    """How weights are quantised, by the facts of a validation. ``said``: by the gallery, before they were seen."""
    quantised = facts.get("quantised")
    if quantised is None:
        return said
    return str(facts.get("quantisation") or said or UNKNOWN) if quantised else None


def is_awq_only(entry: GalleryEntry) -> bool:
    """Whether its weights are served as AWQ ones, and never as SmoothQuant ones."""
    return "awq" in entry.supports.deploy and "smoothquant" not in entry.supports.deploy


@dataclass(frozen=True)
class _Rule:
    id: str
    verbs: tuple[Verb, ...]
    broken: Callable[[Facts, Action], bool]
    sentence: str


def _unmerged(facts: Facts, action: Action) -> bool:
    return facts.adapter and (action.verb == "compress" or action.how != "lora")


def _form_not_served(facts: Facts, _: Action) -> bool:
    if facts.entry is None or facts.quantisation == UNKNOWN:
        return False
    return (facts.quantisation or "none") not in facts.entry.supports.deploy


RULES: tuple[_Rule, ...] = (
    _Rule(
        "quantised_deploy_only", ("tune", "compress"), lambda f, _: f.quantisation is not None,
        "{name} is quantised ({form}), and quantised models can only be deployed; take the un-quantised model",
    ),
    _Rule(
        "adapter_unmerged", ("tune", "compress"), _unmerged,
        "{name} is a LoRA adapter on its base: it can be neither compressed nor tuned in full before it is merged; "
        "merge it, or take its base",
    ),
    _Rule(
        "adapter_not_continued", ("tune",), lambda f, _: f.adapter,
        "{name} is a tuned model, and LoRA begins from whole weights; tune its base instead, or merge it first",
    ),
    _Rule(
        "tune_not_offered", ("tune",), lambda f, _: f.entry is not None and not f.entry.supports.tune,
        "the gallery does not offer {entry} for tuning, only for {offers}; take another model",
    ),
    _Rule(
        "method_not_offered", ("tune",), lambda f, a: f.entry is not None and a.how not in f.entry.supports.tune,
        "{name} cannot be tuned by {how}; {entry} offers {tune}",
    ),
    _Rule(
        "strategy_unknown", ("compress",), lambda _, a: a.how not in STRATEGIES,
        "there is no strategy {how!r}; there are " + ", ".join(STRATEGIES),
    ),
    _Rule(
        "smoothquant_not_for_awq_only", ("compress",),
        lambda f, a: a.how == "smoothquant-w8a8" and f.entry is not None and is_awq_only(f.entry),
        "SmoothQuant is not for {entry}: only AWQ weights of it are deployed quantised; bring open ones",
    ),
    _Rule(
        "compress_not_offered", ("compress",), lambda f, _: f.entry is not None and not f.entry.supports.compress,
        "the gallery does not offer {entry} for compression, only for {offers}; take another model",
    ),
    _Rule(
        "strategy_not_offered", ("compress",),
        lambda f, a: f.entry is not None and a.how not in f.entry.supports.compress,
        "{name} cannot be compressed by {how}; {entry} offers {compress}",
    ),
    _Rule(
        "smoothquant_only_from_compression", ("deploy",),
        lambda f, _: f.quantisation == "smoothquant" and not f.compressed,
        "{name} has SmoothQuant weights that were not made by compression here; compress the un-quantised model",
    ),
    _Rule(
        "deploy_not_offered", ("deploy",), lambda f, _: f.entry is not None and not f.entry.supports.deploy,
        "the gallery does not offer {entry} for deployment; take another model",
    ),
    _Rule(
        "form_not_offered", ("deploy",), _form_not_served,
        "{name} has {form} weights, and {entry} is deployed with {deploy} ones only; take such weights",
    ),
)  # fmt: skip


def _words(facts: Facts) -> dict[str, str]:
    """What the sentences name of a model and its entry."""
    form = "method unknown" if facts.quantisation == UNKNOWN else facts.quantisation or "un-quantised"
    if facts.entry is None:
        return {"form": form, "entry": "", "offers": "", "tune": "", "compress": "", "deploy": ""}
    supports = facts.entry.supports
    ways = {
        "tune": list[str](supports.tune), "compress": list[str](supports.compress),
        "deploy": ["un-quantised" if served == "none" else served for served in supports.deploy],
    }  # fmt: skip
    uses = {"tune": "tuning", "compress": "compression", "deploy": "deployment"}
    offers = " and ".join(uses[verb] for verb, some in ways.items() if some) or "nothing"
    told = {verb: ", ".join(some) or "nothing" for verb, some in ways.items()}
    return {"form": form, "entry": facts.entry.id, "offers": offers, **told}
