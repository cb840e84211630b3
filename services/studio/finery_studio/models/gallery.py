"""The gallery: read at start from the shipped files and the operator's, validated, then only looked up.

A fault stops the start and names file, entry, key and remedy; all faults are told at once.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from importlib.resources import files
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple, TypeVar, cast

import yaml
from pydantic import BaseModel, Field, ValidationError

from finery_contracts.errors import InvalidRequest, NotFound
from finery_contracts.gallery import Defaults, Gallery, GalleryEntry
from finery_contracts.model import Record, Request
from finery_studio.models.entries import FamilySaid, ModelSaid, SupportsSaid, contradictions, entry_of, remedy_for
from finery_studio.projects.domain import check_name

S = TypeVar("S", bound=BaseModel)
_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
MOST_NODES = 1_000_000
SHIPPED = "families"
"""The folder beside this file: one file for a family or a few kindred ones, and the defaults."""


class Fault(Record):
    """Something in a gallery file that cannot hold."""

    file: str
    entry: str
    key: str
    reason: str
    remedy: str


def load_gallery(operators: Path | Sequence[Path] | None = None) -> Gallery:
    """The shipped families and models, and the operator's files or folders of files.

    Raises:
        InvalidRequest: ``gallery_invalid``, with every fault in its details.
    """
    folder = files("finery_studio.models").joinpath(SHIPPED)
    texts = {item.name: item.read_text("utf-8") for item in folder.iterdir() if item.name.endswith(".yaml")}
    defaults = Defaults.model_validate(yaml.safe_load(texts.pop("defaults.yaml"))["defaults"])
    shelf = _Shelf(defaults)
    for name in sorted(texts):
        shelf.add(_read(name, texts[name], shelf.faults), shipped=True)
    given = [operators] if isinstance(operators, Path) else operators or []
    for path in _files_of(given, shelf.faults):
        shelf.add(_read(str(path), _text(path, shelf.faults), shelf.faults), shipped=False)
    return shelf.gallery()


def entry_named(entries: Mapping[str, GalleryEntry], model_id: str, *, param: str = "model") -> GalleryEntry:
    """A gallery entry.

    Raises:
        NotFound: there is none of that id.
    """
    if model_id not in entries:
        near = get_close_matches(model_id, entries, n=3)
        meant = f"; near it are {', '.join(near)}" if near else ""
        raise NotFound(
            f"the gallery has no model {model_id!r}{meant}; list the gallery to see all {len(entries)}",
            code="model_not_found", param=param,
        )  # fmt: skip
    return entries[model_id]


def expected_of(entry: GalleryEntry | None) -> dict[str, Any]:
    """What the specs of import and validation say of weights that somebody brings for an entry."""
    if entry is None:
        return {}
    return {
        "expected_architecture": entry.architecture, "expected_quantised": entry.quantisation != "none",
        "published_config": entry.published_config,
    }  # fmt: skip


class _Sheet(Request):
    """One gallery file; what is wrong with a family or model is found one by one."""

    families: dict[str, Any] = Field(default_factory=dict[str, Any])
    models: dict[str, Any] = Field(default_factory=dict[str, Any])


class _Found(NamedTuple):
    """What a file says, as far as it can be read."""

    file: str
    families: dict[str, FamilySaid]
    models: dict[str, ModelSaid]


@dataclass
class _Shelf:
    """What has been read so far, and who said it first."""

    defaults: Defaults
    families: dict[str, FamilySaid] = field(default_factory=dict[str, FamilySaid])
    models: dict[str, ModelSaid] = field(default_factory=dict[str, ModelSaid])
    said_in: dict[tuple[str, str], tuple[str, bool]] = field(default_factory=dict[tuple[str, str], tuple[str, bool]])
    faults: list[Fault] = field(default_factory=list[Fault])

    def add(self, found: _Found, *, shipped: bool) -> None:
        """Put what a file says beside what others said."""
        for name, family in found.families.items():
            self._claim("families", name, found.file, replaces=family.replaces, shipped=shipped)
            self.families[name] = family
        for model_id, model in found.models.items():
            self._claim("models", model_id, found.file, replaces=model.replaces, shipped=shipped)
            self.models[model_id] = model

    def gallery(self) -> Gallery:
        """All of it, if none of it is wrong."""
        known = {i: m for i, m in self.models.items() if self._fits(i, m)}
        _refuse(self.faults)
        entries = {
            model_id: entry_of(model_id, said, self.families[said.family], max_length=self.defaults.max_length)
            for model_id, said in known.items()
        }
        return Gallery(defaults=self.defaults, entries=entries)

    def _claim(self, noun: str, name: str, file: str, *, replaces: bool, shipped: bool) -> None:
        first, by_us = self.said_in.get((noun, name), ("", False))
        self.said_in[noun, name] = (file, shipped)
        what = f"{noun}.{name}"
        if not first and replaces:
            self.faults.append(
                Fault(file=file, entry=what, key="replaces", reason="there is none of that name", remedy="leave it out")
            )
        if first and not (replaces and by_us):
            remedy = "say `replaces: true` here if that is meant" if by_us else "keep one of the two"
            reason = f"there is one of that name already, in {first}"
            self.faults.append(Fault(file=file, entry=what, key=name, reason=reason, remedy=remedy))

    def _fits(self, model_id: str, said: ModelSaid) -> bool:
        file, _ = self.said_in["models", model_id]
        family = self.families.get(said.family)
        if family is None:
            remedy = f"declare it under families, or take one of {', '.join(sorted(self.families))}"
            fault = Fault(
                file=file, entry=f"models.{model_id}", key="family", reason=f"there is no family {said.family!r}",
                remedy=remedy,
            )  # fmt: skip
            self.faults.append(fault)
            return False
        found = [
            Fault(file=file, entry=f"models.{model_id}", key=key, reason=reason, remedy=remedy)
            for key, reason, remedy in contradictions(said, family)
        ]
        self.faults += found
        return not found


# --- reading ----------------------------------------------------------------------------------------------------------


def _files_of(given: Iterable[Path], faults: list[Fault]) -> Iterator[Path]:
    """The files that were named, and those of the folders that were named."""
    for path in given:
        if not path.is_dir():
            yield path
            continue
        inside = sorted(chain(path.glob("*.yaml"), path.glob("*.yml")))
        if not inside:
            faults.append(_of_file(str(path), "the folder holds no .yaml file", "name a file, or put one there"))
        yield from inside


def _text(path: Path, faults: list[Fault]) -> str:
    try:
        return path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as fault:
        faults.append(_of_file(str(path), f"it cannot be read: {fault}", "correct FINERY_GALLERY_FILE, or the file"))
        return "{}"


def _read(file: str, text: str, faults: list[Fault]) -> _Found:
    try:
        root = yaml.compose(text, _LOADER)
        if root is not None and _expanded(root, {}) > MOST_NODES:
            raise ValueError("its aliases repeat too much")
        sheet = _Sheet.model_validate(_LOADER("").construct_document(root) if root else None)
        repeated = list(_repeated_keys(root))
    except ValidationError as fault:
        faults += _told(file, "-", fault, _Sheet)
        return _Found(file, {}, {})
    except (yaml.YAMLError, ValueError, RecursionError) as fault:  # a day that no calendar has; nested without end
        faults.append(_of_file(file, f"it is no YAML: {fault}", "correct the place that is named"))
        return _Found(file, {}, {})
    faults += [
        Fault(
            file=file, entry=f"line {line}", key=key, reason="the key is there twice; the second would hide the first",
            remedy="keep one of the two",
        )
        for key, line in repeated
    ]  # fmt: skip
    return _Found(
        file, _judged(file, "families", sheet.families, FamilySaid, faults),
        _judged(file, "models", sheet.models, ModelSaid, faults),
    )  # fmt: skip


def _judged(file: str, noun: str, said: Mapping[str, Any], shape: type[S], faults: list[Fault]) -> dict[str, S]:
    judged = dict[str, S]()
    for name, words in said.items():
        try:
            if noun == "models":
                check_name(name, model=True)  # a model that is made of it gets this name
            judged[name] = shape.model_validate(words)
        except ValidationError as fault:
            faults += _told(file, f"{noun}.{name}", fault, shape)
        except InvalidRequest as fault:
            faults.append(
                Fault(file=file, entry=f"{noun}.{name}", key=name, reason=fault.message, remedy="give it another id")
            )
    return judged


def _expanded(node: yaml.Node, known: dict[int, int]) -> int:
    """How many nodes there are when every alias is written out; endless when one contains itself."""
    if id(node) not in known:
        known[id(node)] = MOST_NODES + 1  # until it is counted: an alias to a node around it
        pairs: list[Any] = node.value if isinstance(node, yaml.MappingNode | yaml.SequenceNode) else []
        inside = chain.from_iterable(pairs) if isinstance(node, yaml.MappingNode) else pairs
        known[id(node)] = 1 + sum(_expanded(part, known) for part in inside)
    return known[id(node)]


def _repeated_keys(root: yaml.Node | None) -> Iterator[tuple[str, int]]:
    """Keys that a mapping has twice (YAML's own reader keeps the last without a word), with their line."""
    rest, seen = [root] if root is not None else [], set[int]()
    while rest:
        node = rest.pop()
        if id(node) in seen:  # an alias
            continue
        seen.add(id(node))
        if isinstance(node, yaml.MappingNode):
            keys = set[str]()
            for key, value in node.value:
                if isinstance(key, yaml.ScalarNode) and key.value in keys:
                    yield key.value, key.start_mark.line + 1
                keys.add(str(key.value))
                rest.append(value)
        elif isinstance(node, yaml.SequenceNode):
            rest += cast("list[yaml.Node]", node.value)


def _told(file: str, entry: str, fault: ValidationError, shape: type[BaseModel]) -> list[Fault]:
    """A fault for each place that pydantic names."""
    told = list[Fault]()
    for error in fault.errors(include_url=False):
        place = [str(part) for part in error["loc"]]
        inside = shape if len(place) < 2 else SupportsSaid if place[0] == "supports" and len(place) == 2 else None
        reason = error["msg"].removeprefix("Value error, ")
        told.append(
            Fault(
                file=file, entry=entry, key=".".join(place) or "-", reason=reason,
                remedy=remedy_for(error["type"], inside),
            )
        )  # fmt: skip
    return told


def _of_file(file: str, reason: str, remedy: str) -> Fault:
    return Fault(file=file, entry="-", key="-", reason=reason, remedy=remedy)


def _refuse(faults: list[Fault]) -> None:
    if not faults:
        return
    lines = [f"{f.file}: {f.entry}: {f.key}: {f.reason}; {f.remedy}" for f in faults[:20]]
    more = f"\n… and {len(faults) - 20} more" if len(faults) > 20 else ""
    raise InvalidRequest(
        "the gallery is not valid:\n" + "\n".join(lines) + more, code="gallery_invalid", param=faults[0].file,
        details=[fault.model_dump() for fault in faults],
    )  # fmt: skip
