"""The domain modules that a run drives: the very ones that the services import, or fresh ones with one fault planted.

A fault whose text is not in its module exactly once stops the run: a mutant that no longer applies proves nothing.
"""

from __future__ import annotations

import importlib
import sys
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

NAMES = {
    "moves": "finery_studio.tasks.moves",
    "tasks": "finery_studio.tasks.domain",
    "prices": "finery_billing_meter.prices.domain",
    "ledger": "finery_billing_meter.ledger.domain",
    "packages": "finery_billing_meter.packages.domain",
    "deadlines": "finery_billing_meter.deadlines.domain",
    "notifier": "finery_notifier.domain",
    "deployer": "finery_deployer.domain",
}
"""In the order of their imports."""


class DoesNotApply(Exception):
    """The text that a mutant replaces is not in its module exactly once."""


@dataclass(frozen=True)
class Mutant:
    """One fault: in ``module`` the text ``old`` becomes ``new``."""

    name: str
    module: str
    old: str
    new: str


@dataclass(frozen=True)
class Domains:
    """The modules, by their short names. Untyped: a mutant's classes are others than those one could import."""

    moves: Any
    tasks: Any
    prices: Any
    ledger: Any
    packages: Any
    deadlines: Any
    notifier: Any
    deployer: Any


def real() -> Domains:
    """What the services run."""
    return Domains(**{short: importlib.import_module(name) for short, name in NAMES.items()})


def planted(mutant: Mutant) -> Domains:
    """Fresh modules, one of them with the fault; whoever imports the real ones later still gets those.

    Raises:
        DoesNotApply: the module has changed.
    """
    originals = {name: importlib.import_module(name) for name in NAMES.values()}
    made: dict[str, ModuleType] = {}
    try:
        for short, name in NAMES.items():
            source = _source(originals[name])
            if short == mutant.module:
                source = _rewritten(source, mutant)
            module = ModuleType(name)
            module.__file__ = originals[name].__file__
            made[short] = sys.modules[name] = module
            exec(compile(source, f"{short}+{mutant.name}", "exec"), module.__dict__)
    finally:
        sys.modules.update(originals)
    return Domains(**made)


def _source(module: ModuleType) -> str:
    assert module.__file__ is not None
    return Path(module.__file__).read_text(encoding="utf-8")


def _rewritten(source: str, mutant: Mutant) -> str:
    found = source.count(mutant.old)
    if found != 1 or mutant.old == mutant.new:
        raise DoesNotApply(f"mutant {mutant.name}: its text is {found} times in {NAMES[mutant.module]}, not once")
    return source.replace(mutant.old, mutant.new)
