"""Renders what others read of the contracts: JSON Schemas, and the tables of the catalogue. It writes no word itself.

    python -m finery_contracts.render            write; refuses to break a published .v1 schema
    python -m finery_contracts.render --check    write nothing; status 1 names each file that drifted

What needs the services (AsyncAPI, OpenAPI) is rendered on top of them, by ``finery.render_api``.
"""

from __future__ import annotations

import argparse
import inspect
import json
import re
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import GenerateJsonSchema

from finery_contracts import inbound, jobs, notifications, work
from finery_contracts.compatibility import incompatibilities
from finery_contracts.envelope import Event
from finery_contracts.registry import EVENTS
from finery_contracts.streams import DAY_S, STREAMS, ConsumerSpec, StreamSpec, hearers_of

DIALECT = GenerateJsonSchema.schema_dialect
NOT_ON_THE_BUS = (notifications.SubscriptionConfirmation,)
"""Facts that travel in a webhook only."""

FILES: dict[str, type[BaseModel]] = {
    "engine.job": jobs.EngineJob,
    "engine.progress": jobs.Progress,
    "engine.span": jobs.Span,
    "engine.result": jobs.JobResult,
    "engine.bad-record": jobs.BadRecord,
    "engine.serve": jobs.ServeJob,
    "engine.serve-ready": jobs.ServeReady,
    "engine.serve-status": jobs.ServeStatus,
    "bus.inbound": inbound.InboundEvent,
    "bus.report": work.Report,
    "bus.metric-point": work.MetricPoint,
    "bus.log-line": work.LogLine,
    "bus.claim": work.ClaimRequest,
    "bus.claim-answer": work.ClaimAnswer,
    "bus.heartbeat": work.HeartbeatRequest,
    "bus.heartbeat-answer": work.HeartbeatAnswer,
}
"""Contracts that are no events: the files of an engine, and what else is said on the bus."""

Documents = dict[str, str]
"""Path below ``contracts/`` → text."""


def schemas() -> Documents:
    """A JSON Schema for every event, engine file and message."""
    found = {f"schemas/{kind.type_name()}.json": _as_json(event_schema(kind)) for kind in _all_events()}
    for name, model in FILES.items():
        found[f"schemas/{name}.json"] = _as_json(_schema(model, name))
    return found


def event_schema(kind: type[Event]) -> dict[str, Any]:
    """What any version of this event's bytes fulfils; the type is fixed, a field of a newer peer is allowed."""
    schema = _schema(kind, kind.type_name())
    schema["properties"]["type"] = {"const": kind.type_name()}
    schema["properties"]["source"] = {"const": f"finery/{kind.SAID_BY}"}
    return schema


def catalogue() -> str:
    """subject | said by | heard by | meaning."""
    rows = [
        (f"`{kind.filter_subject()}`", kind.SAID_BY, ", ".join(heard_by(kind)) or "—", _first_line(kind))
        for kind in EVENTS.values()
    ]
    rows += [(f"webhook only: `{kind.type_name()}`", kind.SAID_BY, "—", _first_line(kind)) for kind in NOT_ON_THE_BUS]
    return _table(("subject", "said by", "heard by", "meaning"), rows)


def streams_table() -> str:
    """Name, what it holds, how long, who reads it."""
    rows = [
        (
            f"`{stream.name}`",
            "<br>".join(f"`{subject}`" for subject in stream.subjects),
            stream.meaning,
            _keeps(stream),
            "<br>".join(_consumer(consumer) for consumer in stream.consumers) or "—",
        )
        for stream in STREAMS
    ]
    return _table(("stream", "subjects", "what it holds", "keeps", "durable consumers"), rows)


def heard_by(kind: type[Event]) -> list[str]:
    """The durable consumers whose filters let this event through."""
    return list(hearers_of(kind.filter_subject()))


def documents(contracts: Path) -> Documents:
    """Everything this module renders, with the tables put into the README that is there."""
    readme = (contracts / "README.md").read_text(encoding="utf-8")
    for name, table in (("catalogue", catalogue()), ("streams", streams_table())):
        readme = _between_markers(readme, name, table)
    return {**schemas(), "README.md": readme}


def drifted(contracts: Path, wanted: Mapping[str, str]) -> list[str]:
    """What is missing, differs, or should not be there, sorted."""
    differing = [name for name, text in wanted.items() if _on_disk(contracts / name) != text]
    left_over = [
        name
        for path in contracts.glob("schemas/*.json")
        if (name := f"schemas/{path.name}") not in wanted and path.name != "openapi.json"
    ]
    return sorted([*differing, *left_over])


def broken_promises(contracts: Path) -> list[str]:
    """What the schemas would take from those who read the published ones."""
    faults: list[str] = []
    for name, text in schemas().items():
        published = _on_disk(contracts / name)
        if published is not None:
            found = incompatibilities(json.loads(published), json.loads(text))
            faults += [f"{Path(name).stem}: {fault}" for fault in found]
    return faults


def write_or_check(contracts: Path, wanted: Mapping[str, str], *, check: bool, may_break: bool = False) -> int:
    """The work of the command line; the return value is the exit status."""
    differing = drifted(contracts, wanted)
    if check:
        _say(f"drifted: contracts/{name}; run: python -m finery.render_api" for name in differing)
        return 1 if differing else 0
    promises = [] if may_break else broken_promises(contracts)
    if promises:
        _say([*promises, "an event may only gain optional fields; say it as a new version, or, unreleased, --break"])
        return 1
    for name in differing:
        path = contracts / name
        if name not in wanted:
            path.unlink()
            continue
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(wanted[name], encoding="utf-8")
    _say(f"rendered: contracts/{name}" for name in differing)
    return 0


def options(description: str, argv: list[str] | None = None) -> argparse.Namespace:
    """The options that both renderers take: check, may_break, contracts."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--check", action="store_true", help="write nothing; status 1 when a file drifted")
    parser.add_argument("--break", action="store_true", dest="may_break", help="replace schemas that nobody has yet")
    parser.add_argument("--contracts", type=Path, default=Path(__file__).resolve().parents[1], help="the folder")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    """See the module's docstring."""
    asked = options("Render schemas and catalogue.", argv)
    return write_or_check(asked.contracts, documents(asked.contracts), check=asked.check, may_break=asked.may_break)


def _all_events() -> Iterable[type[Event]]:
    return (*EVENTS.values(), *NOT_ON_THE_BUS)


def _schema(model: type[BaseModel], name: str) -> dict[str, Any]:
    return {"$schema": DIALECT, "$id": f"urn:finery:{name}", **model.model_json_schema()}


def _as_json(schema: Mapping[str, Any]) -> str:
    return json.dumps(schema, indent=2, sort_keys=True, ensure_ascii=False) + "\n"


def _first_line(kind: type[Event]) -> str:
    return (inspect.getdoc(kind) or "").split("\n")[0]


def _keeps(stream: StreamSpec) -> str:
    limits = [_age(stream.max_age_s) if stream.max_age_s else "for ever"]
    if stream.max_bytes > 0:
        limits.append(f"{stream.max_bytes / 2**30:g} GiB")
    if stream.max_msgs_per_subject > 0:
        limits.append(f"{stream.max_msgs_per_subject} a subject")
    return ", ".join(limits) + (" (may lose the last second in a power cut)" if stream.quick else "")


def _age(seconds: int) -> str:
    return f"{seconds // DAY_S} days" if seconds >= DAY_S else f"{seconds} s"


def _consumer(spec: ConsumerSpec) -> str:
    tries = "tries for ever" if spec.max_deliver < 0 else f"at most {spec.max_deliver} tries"
    return f"`{spec.durable}` ({tries})"


def _table(header: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    lines = [header, tuple("---" for _ in header), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


def _between_markers(text: str, name: str, table: str) -> str:
    """The text with what stands between the markers of ``name`` replaced.

    Raises:
        ValueError: the markers are not there, each once.
    """
    begin, end = f"<!-- rendered: {name} -->", f"<!-- end: {name} -->"
    if text.count(begin) != 1 or text.count(end) != 1:
        raise ValueError(f"contracts/README.md must hold {begin} and {end} once each; put them back")
    pattern = re.compile(re.escape(begin) + ".*?" + re.escape(end), re.DOTALL)
    return pattern.sub(lambda _: f"{begin}\n{table}\n{end}", text)


def _on_disk(path: Path) -> str | None:
    return path.read_text(encoding="utf-8") if path.exists() else None


def _say(lines: Iterable[str]) -> None:
    for line in lines:
        print(line, file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
