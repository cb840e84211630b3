"""The rules of CONTRIBUTING that a machine can judge: sizes, names, who reads the environment, what a service has."""

from __future__ import annotations

import ast
import re
from collections import Counter
from pathlib import Path

import pytest
from python_sources import ALL, OURS, SERVICES, Source

BANNED = {"utils", "util", "helpers", "helper", "common", "base", "manager", "misc"}
MAX_FUNCTION_LINES = 45
MAX_LINES, MAX_ENGINE_LINES, MAX_TEST_LINES = 300, 400, 400
READS_ENVIRONMENT = {
    "libs/finery_kit/settings.py": "the one place a service's settings come from",
    "libs/finery_kit/executor.py": "hands a cleaned environment to engines",
    "libs/finery_ml/job.py": "the life line's descriptor",
    "libs/finery_ml/warm.py": "becomes the engine it was asked for",
}
"""Besides these, the first lines of an engine may set what torch reads when it is imported."""

LATER = re.compile(r"\b(TODO|FIXME|XXX|HACK)\b")
BARE_IGNORE = re.compile(r"#\s*(type:\s*ignore|noqa|pyright:\s*ignore)(?![\[:(])")


def _by_name(source: Source) -> str:
    return source.name


@pytest.mark.parametrize("source", ALL, ids=_by_name)
def test_a_file_is_short_enough_to_read(source: Source) -> None:
    limit = MAX_TEST_LINES if source.is_test else MAX_ENGINE_LINES if source.is_engine else MAX_LINES

    length = len(source.text.splitlines())
    assert length <= limit, f"{source.name} has {length} lines; split it by meaning"


@pytest.mark.parametrize("source", ALL, ids=_by_name)
def test_a_function_fits_on_a_screen(source: Source) -> None:
    long = [
        f"{source.name}:{node.lineno} {node.name}: {length} lines"
        for node in source.nodes()
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and (length := _length(node)) > MAX_FUNCTION_LINES
    ]

    assert long == []


@pytest.mark.parametrize("source", ALL, ids=_by_name)
def test_a_module_is_named_after_a_thing_of_the_field(source: Source) -> None:
    assert not BANNED & {source.path.stem, *source.path.relative_to(source.path.parents[-1]).parts[-3:-1]}


@pytest.mark.parametrize("source", OURS, ids=_by_name)
def test_a_file_says_why_it_exists(source: Source) -> None:
    assert ast.get_docstring(source.tree)


@pytest.mark.parametrize("source", OURS, ids=_by_name)
def test_the_environment_is_read_in_one_place(source: Source) -> None:
    touched = [node for node in source.nodes() if _touches_environment(node)]
    allowed = source.name in READS_ENVIRONMENT or (source.is_engine and _only_set_at_the_top(source))

    assert allowed or not touched, f"{source.name} reads os.environ; take it from the settings"


@pytest.mark.parametrize("source", ALL, ids=_by_name)
def test_nothing_is_left_for_later_or_ignored_without_a_reason(source: Source) -> None:
    found = [
        f"{source.name}:{line} {comment}"
        for line, comment in source.comments()
        if LATER.search(comment) or BARE_IGNORE.search(comment)
    ]

    assert found == []


@pytest.mark.parametrize("source", OURS, ids=_by_name)
def test_functions_take_flags_by_name_only(source: Source) -> None:
    flags = [
        f"{source.name}:{argument.lineno} {argument.arg}"
        for node in source.nodes()
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        for argument in [*node.args.posonlyargs, *node.args.args]
        if isinstance(argument.annotation, ast.Name) and argument.annotation.id == "bool" and not _is_route(node)
    ]

    assert flags == []


def test_no_two_test_modules_share_a_name() -> None:
    """pytest imports a test by its bare name, unless its folder is a package."""
    loose = [source.path for source in ALL if source.is_test and not (source.path.parent / "__init__.py").exists()]
    names = Counter(path.stem for path in loose if path.stem != "conftest")

    assert [name for name, times in names.items() if times > 1] == []


@pytest.mark.parametrize("service", SERVICES, ids=lambda folder: folder.name)
def test_a_service_has_the_files_that_every_service_has(service: Path) -> None:
    package = f"finery_{service.name.replace('-', '_')}"
    wanted = ["README.md", f"{package}/__init__.py", f"{package}/app.py", f"{package}/settings.py"]

    assert [name for name in wanted if not (service / name).is_file()] == []


def test_all_eleven_services_are_there() -> None:
    assert [service.name for service in SERVICES] == [
        "billing-meter", "compressor", "dataset-ingest", "deployer", "distiller", "evaluator", "gateway", "notifier",
        "studio", "trainer", "weight-validator",
    ]  # fmt: skip


def _length(node: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Lines of code and comment; the docstring is not counted, nor are functions defined inside (they count alone)."""
    lines = (node.end_lineno or node.lineno) - node.lineno + 1
    first = node.body[0]
    if ast.get_docstring(node) is not None:
        lines -= (first.end_lineno or first.lineno) - first.lineno + 1
    inner = [child for child in node.body if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef)]
    return lines - sum((child.end_lineno or child.lineno) - child.lineno + 1 for child in inner)


def _touches_environment(node: ast.AST) -> bool:
    if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "os":
        return node.attr in ("environ", "getenv", "environb", "putenv")
    return isinstance(node, ast.ImportFrom) and node.module == "os" and any(a.name == "environ" for a in node.names)


def _only_set_at_the_top(source: Source) -> bool:
    """Each use is ``os.environ.setdefault(…)`` as a statement of the module, before torch is imported."""
    at_top = [node.value for node in source.tree.body if isinstance(node, ast.Expr)]
    set_up = sum(ast.unparse(value).startswith("os.environ.setdefault(") for value in at_top)
    return set_up == sum(_touches_environment(node) for node in source.nodes())


def _is_route(node: ast.FunctionDef | ast.AsyncFunctionDef) -> bool:
    """FastAPI fills the parameters of a decorated function by name."""
    return bool(node.decorator_list)
