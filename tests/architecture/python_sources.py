"""Finery's own Python files, as the checks of this folder see them: by place, by syntax tree, by what they import."""

from __future__ import annotations

import ast
import io
import re
import tokenize
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

ROOT = Path(__file__).parents[2]
SERVICES = sorted(path.parent for path in ROOT.glob("services/*/finery_*") if path.is_dir())


@dataclass(frozen=True)
class Source:
    """One file."""

    path: Path

    @cached_property
    def text(self) -> str:
        return self.path.read_text(encoding="utf-8")

    @cached_property
    def tree(self) -> ast.Module:
        return ast.parse(self.text)

    @property
    def name(self) -> str:
        return self.path.relative_to(ROOT).as_posix()

    @property
    def module(self) -> str:
        """Its dotted name."""
        parts = self.path.relative_to(ROOT).with_suffix("").parts
        return ".".join(
            parts[next(i for i, part in enumerate(parts) if part.startswith("finery") and "-" not in part) :]
        )

    @property
    def says_it_is_pure(self) -> bool:
        """Its opening sentences promise ``Pure``: no clock, no chance, no file."""
        return re.search(r"\bPure\b", ast.get_docstring(self.tree) or "") is not None

    @property
    def is_engine(self) -> bool:
        return "engine" in self.path.parts or "finery_ml" in self.path.parts

    @property
    def is_test(self) -> bool:
        return self.name.startswith("tests/")

    @property
    def package(self) -> str:
        """The top-level package the file belongs to."""
        return next((part for part in self.name.split("/") if part.startswith("finery_")), "finery")

    def comments(self) -> Iterator[tuple[int, str]]:
        """(line, text) of every comment."""
        tokens = tokenize.generate_tokens(io.StringIO(self.text).readline)
        return ((token.start[0], token.string) for token in tokens if token.type == tokenize.COMMENT)

    def nodes(self) -> Iterator[ast.AST]:
        """Every node, those inside functions too."""
        return ast.walk(self.tree)

    def imports(self) -> Iterator[tuple[int, str]]:
        """(line, module) of every import, wherever it stands; names for type checkers alone are left out."""
        for_types = {id(inner) for node in self.nodes() if _is_type_checking(node) for inner in ast.walk(node)}
        for node in self.nodes():
            if id(node) in for_types:
                continue
            if isinstance(node, ast.Import):
                yield from ((node.lineno, alias.name) for alias in node.names)
            elif isinstance(node, ast.ImportFrom) and node.module is not None:
                yield from ((node.lineno, f"{node.module}.{alias.name}") for alias in node.names)


def of(*folders: str) -> list[Source]:
    """The files under these folders of the repository, in a stable order."""
    return [Source(path) for folder in folders for path in sorted((ROOT / folder).rglob("*.py"))]


OURS = of("contracts", "libs", "services")
ALL = [*OURS, *of("tests")]


def _is_type_checking(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"
