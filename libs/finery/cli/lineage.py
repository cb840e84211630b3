"""What a dataset or model comes from and what came of it, on a terminal: its things, then the arrows between them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.markup import escape

from finery.cli.command import Columns, Shell

if TYPE_CHECKING:
    from finery_contracts.lineage import Lineage, LineageNode

NODES: Columns = {
    "id": lambda n: n.id, "what": lambda n: n.noun, "name": lambda n: _name(n), "state": lambda n: n.state,
    "flags": lambda n: "withdrawn" if n.withdrawn else "",
}  # fmt: skip


def picture(shell: Shell, found: Lineage) -> None:
    """Show it; with ``--json`` as it came."""
    if shell.as_json:
        shell.one(found)
        return
    shell.many(found.nodes, NODES)
    names = {node.id: f"{node.noun} {escape(_name(node))}" for node in found.nodes}
    for edge in found.edges:
        shell.say(f"{names[edge.source]} → {names[edge.target]} [dim]({edge.role})[/]")
    if not found.complete:
        shell.say("[yellow]there is more than this; the nearest is shown[/]")


def _name(node: LineageNode) -> str:
    return f"{node.name}@{node.number}" if node.number is not None else node.name
