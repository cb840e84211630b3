"""Renders one chat template in a process of its own: ``python -m finery_weight_validator.engine.template``.

Reads ``{"template", "tokens", "conversations"}`` from standard input, answers ``{"syntax"}`` or ``{"texts": […]}`` with
``{"text"}`` or ``{"error"}`` for each. It gives itself two seconds of processor, half a gigabyte of memory, no file to
write, and jinja2's immutable sandbox.
"""

from __future__ import annotations

import json
import resource
import sys
from datetime import UTC, datetime
from typing import Any

import jinja2
import jinja2.ext
import jinja2.nodes
import jinja2.parser
import jinja2.sandbox

CPU_S = 2
MEMORY_BYTES = 512 * 2**20
MAX_TEXT = 2**20


class _GenerationBlock(jinja2.ext.Extension):
    """``{% generation %}…{% endgeneration %}`` marks what trains; for rendering it is transparent."""

    tags = {"generation"}  # noqa: RUF012 - jinja2 wants a set on the class

    def parse(self, parser: jinja2.parser.Parser) -> list[jinja2.nodes.Node]:
        """The block's body in place of the block."""
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def main() -> int:
    """Limit this process, render, answer."""
    resource.setrlimit(resource.RLIMIT_CPU, (CPU_S, CPU_S + 1))
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    request = json.loads(sys.stdin.buffer.read())
    json.dump(_answer(request), sys.stdout)
    return 0


def _answer(request: dict[str, Any]) -> dict[str, Any]:
    environment = jinja2.sandbox.ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_GenerationBlock, jinja2.ext.loopcontrols]
    )
    environment.filters["tojson"] = _to_json
    environment.globals["raise_exception"] = _raise
    environment.globals["strftime_now"] = lambda form: datetime.now(UTC).strftime(form)
    try:
        template = environment.from_string(request["template"])
    except (jinja2.TemplateError, RecursionError, ValueError) as fault:
        return {"syntax": str(fault)[:500]}
    return {"texts": [_rendered(template, messages, request["tokens"]) for messages in request["conversations"]]}


def _rendered(template: jinja2.Template, messages: list[dict[str, str]], tokens: dict[str, str]) -> dict[str, str]:
    """The sandbox does not bound what a template's own arithmetic may raise, hence the broad net."""
    pieces, size = [], 0
    try:
        for piece in template.generate(messages=messages, add_generation_prompt=True, tools=None, **tokens):
            pieces.append(piece)
            size += len(piece)
            if size > MAX_TEXT:
                return {"error": f"it writes more than {MAX_TEXT} characters for a few short messages"}
    except Exception as fault:
        return {"error": f"{type(fault).__name__}: {fault}"[:500]}
    return {"text": "".join(pieces)}


def _to_json(value: Any, indent: int | None = None, **_: Any) -> str:
    return json.dumps(value, ensure_ascii=False, indent=indent)


def _raise(message: str) -> None:
    raise jinja2.TemplateError(message)


if __name__ == "__main__":
    sys.exit(main())
