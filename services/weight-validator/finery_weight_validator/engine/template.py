"""Parses and renders one chat template in jinja2's immutable sandbox; called in a limited child and nowhere else.

It refuses templates that read other files, that name attributes with underscores (how a template gets out of its
sandbox), and those that the sandbox had to stop even once, whether or not the text came out.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import jinja2
import jinja2.ext
import jinja2.nodes
import jinja2.parser
import jinja2.sandbox

MAX_TEXT = 2**20
_LOADS = (jinja2.nodes.Include, jinja2.nodes.Import, jinja2.nodes.FromImport, jinja2.nodes.Extends)
_HIDDEN_NAME = re.compile(r"__|(mro|gi_\w+|f_globals|f_locals|func_\w+|tb_\w+|cr_\w+|ag_\w+)$")
_HIDDEN_TEXT = re.compile(r"__[a-z]+__")
_LARGEST_RANGE = 10_000
_MOST_NODES = 200_000


class Refused(Exception):
    """The template asks for what no template may have; the text says what."""


class _GenerationBlock(jinja2.ext.Extension):
    """``{% generation %}…{% endgeneration %}`` marks what trains; for rendering it is transparent."""

    tags = {"generation"}  # noqa: RUF012 - jinja2 wants a set on the class

    def parse(self, parser: jinja2.parser.Parser) -> list[jinja2.nodes.Node]:
        """The block's body in place of the block."""
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


class _Sandbox(jinja2.sandbox.ImmutableSandboxedEnvironment):
    """jinja2's own, which answers a forbidden attribute with something undefined: here it ends the rendering."""

    def unsafe_undefined(self, obj: Any, attribute: str) -> jinja2.Undefined:
        """Called when the sandbox keeps an attribute back."""
        raise Refused(f"it reaches for {attribute[:60]!r} of {type(obj).__name__}, which the sandbox keeps back")


def render(request: dict[str, Any]) -> dict[str, Any]:
    """``{"refused"}``, ``{"syntax"}``, or ``{"texts": […]}`` with ``{"text"}`` or ``{"error"}`` for each conversation.

    ``request``: template, tokens by name, and conversations of messages with tools or none.
    """
    environment = _Sandbox(trim_blocks=True, lstrip_blocks=True, extensions=[_GenerationBlock, jinja2.ext.loopcontrols])
    environment.filters["tojson"] = _to_json
    environment.globals["raise_exception"] = _raise
    environment.globals["strftime_now"] = lambda form: datetime.now(UTC).strftime(str(form)[:100])
    try:
        _inspect(environment.parse(request["template"]))
        template = environment.from_string(request["template"])
    except Refused as fault:
        return {"refused": str(fault)[:300]}
    except (jinja2.TemplateError, RecursionError, ValueError, OverflowError, SyntaxError) as fault:
        return {"syntax": str(fault)[:300]}
    texts = []
    for asked in request["conversations"]:
        try:
            texts.append(_rendered(template, asked, request["tokens"]))
        except Refused as fault:
            return {"refused": str(fault)[:300]}
    return {"texts": texts}


def _inspect(tree: jinja2.nodes.Template) -> None:
    """Raise Refused for what is wrong wherever it stands, in a branch that is never rendered here, too."""
    for count, node in enumerate(_nodes(tree)):
        if count > _MOST_NODES:
            raise Refused(f"it has more than {_MOST_NODES} parts")
        if isinstance(node, _LOADS):
            raise Refused(f"it reads another template ({type(node).__name__.lower()})")
        if isinstance(node, jinja2.nodes.Getattr | jinja2.nodes.NSRef) and _HIDDEN_NAME.match(node.attr):
            raise Refused(f"it names the attribute {node.attr[:60]!r}")
        if isinstance(node, jinja2.nodes.Name) and _HIDDEN_NAME.match(node.name):
            raise Refused(f"it names {node.name[:60]!r}")
        if isinstance(node, jinja2.nodes.Const) and isinstance(node.value, str) and _HIDDEN_TEXT.search(node.value):
            raise Refused(f"it spells {node.value[:60]!r}")
        if isinstance(node, jinja2.nodes.Filter) and node.name == "attr":
            raise Refused("it takes attributes by a name that it computes (the filter attr)")
        if isinstance(node, jinja2.nodes.Call) and _is_huge_range(node):
            raise Refused(f"it counts to more than {_LARGEST_RANGE}")
        if isinstance(node, jinja2.nodes.Mul) and any(_is_over(side, MAX_TEXT) for side in (node.left, node.right)):
            raise Refused(f"it multiplies by more than {MAX_TEXT}")


def _nodes(tree: jinja2.nodes.Node) -> Iterator[jinja2.nodes.Node]:
    waiting: list[jinja2.nodes.Node] = [tree]
    while waiting:
        node = waiting.pop()
        yield node
        waiting.extend(node.iter_child_nodes())


def _is_huge_range(call: jinja2.nodes.Call) -> bool:
    if not (isinstance(call.node, jinja2.nodes.Name) and call.node.name == "range"):
        return False
    return any(_is_over(argument, _LARGEST_RANGE) for argument in call.args)


def _is_over(node: jinja2.nodes.Expr, most: int) -> bool:
    """It is a number that is known before rendering, and larger than that."""
    try:
        value = node.as_const()
    except (jinja2.nodes.Impossible, ArithmeticError, TypeError, ValueError):
        return False
    return isinstance(value, int) and abs(value) > most


def _rendered(template: jinja2.Template, asked: dict[str, Any], tokens: dict[str, str]) -> dict[str, str]:
    """The sandbox does not bound what a template's own arithmetic may raise, hence the broad net."""
    pieces, size = [], 0
    given = {**tokens, "messages": asked["messages"], "tools": asked["tools"], "documents": None}
    try:
        for piece in template.generate(**given, add_generation_prompt=asked["prompt"]):
            pieces.append(piece)
            size += len(piece)
            if size > MAX_TEXT:
                raise Refused(f"it writes more than {MAX_TEXT} characters for a few short messages")
    except (Refused, MemoryError):
        raise
    except (jinja2.sandbox.SecurityError, OverflowError, RecursionError) as fault:
        raise Refused(f"{type(fault).__name__}: {fault}") from fault
    except Exception as fault:
        return {"error": f"{type(fault).__name__}: {fault}"[:300]}
    return {"text": "".join(pieces)}


def _to_json(value: Any, indent: int | None = None, **_: Any) -> str:
    return json.dumps(value, ensure_ascii=False, indent=indent)


def _raise(message: str) -> None:
    raise jinja2.TemplateError(str(message)[:300])
