"""What import-linter cannot say of single modules: domain.py is pure, and torch lives in engines alone."""

from __future__ import annotations

import ast
import sys

import pytest
from python_sources import OURS, Source

HEAVY = {"accelerate", "datasets", "gguf", "numpy", "peft", "pyarrow", "safetensors", "tokenizers", "torch",
         "transformers", "trl", "vllm"}  # fmt: skip
READS_RECORDS = {("services/studio/finery_studio/datasets/preview.py", "pyarrow")}
"""Pages of canonical records, which ingest wrote: reading them asks for no engine."""
PURE_PACKAGES = {"finery_contracts", "pydantic", "pydantic_core"}
IMPURE = {"asyncio", "io", "os", "pathlib", "random", "secrets", "shutil", "signal", "socket", "sqlite3", "subprocess",
          "tempfile", "threading", "time", "urllib", "uuid"}  # fmt: skip
CLOCK_AND_CHANCE = {"now", "utcnow", "today", "monotonic", "perf_counter", "time_ns", "new_id", "ULID", "uuid4"}
DOORS = {"open", "input", "print", "exec", "eval", "__import__"}

DOMAINS = [source for source in OURS if source.path.name == "domain.py" or source.says_it_is_pure]
PURE_MODULES = {source.module for source in DOMAINS}


def _by_name(source: Source) -> str:
    return source.name


@pytest.mark.parametrize("source", DOMAINS, ids=_by_name)
def test_a_domain_imports_contracts_and_pure_parts_of_the_standard_library(source: Source) -> None:
    foreign = [
        f"{source.name}:{line} {module}"
        for line, module in source.imports()
        if not _is_pure(module.split(".")[0]) and not _is_own_domain(module, source)
    ]

    assert foreign == []


@pytest.mark.parametrize("source", DOMAINS, ids=_by_name)
def test_a_domain_asks_no_clock_no_chance_and_no_file(source: Source) -> None:
    calls = [node for node in source.nodes() if isinstance(node, ast.Call)]

    asked = [f"{source.name}:{call.lineno} {ast.unparse(call.func)}" for call in calls if _reaches_out(call.func)]

    assert asked == []


@pytest.mark.parametrize("source", [source for source in OURS if not source.is_engine], ids=_by_name)
def test_only_engines_import_what_engines_need(source: Source) -> None:
    heavy = [
        f"{source.name}:{line} {module}"
        for line, module in source.imports()
        if (source.name, module.split(".")[0]) not in READS_RECORDS
        if module.split(".")[0] in HEAVY | {"finery_ml"} or (module.startswith("finery_") and ".engine" in module)
    ]

    assert heavy == []


def test_there_is_a_domain_to_look_at() -> None:
    assert len(DOMAINS) >= 4


def _is_pure(root: str) -> bool:
    return root in PURE_PACKAGES or (root in sys.stdlib_module_names and root not in IMPURE)


def _is_own_domain(module: str, source: Source) -> bool:
    """``module`` is a pure module of the same service, or a name in one."""
    return module.split(".")[0] == source.package and bool({module, module.rpartition(".")[0]} & PURE_MODULES)


def _reaches_out(called: ast.expr) -> bool:
    if isinstance(called, ast.Name):
        return called.id in CLOCK_AND_CHANCE | DOORS
    return isinstance(called, ast.Attribute) and called.attr in CLOCK_AND_CHANCE
