"""What lies in contracts/ is what the code says; the renderer names what is not, and breaks no promise."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest
import yaml

from finery import render_api
from finery_contracts import render
from finery_contracts.compatibility import incompatibilities
from finery_contracts.tasks import TaskFailed

CONTRACTS = Path(__file__).parents[2] / "contracts"
A_SCHEMA = f"schemas/{TaskFailed.type_name()}.json"


@pytest.fixture(scope="module")
def rendered() -> render.Documents:
    return {**render.documents(CONTRACTS), **render_api.documents()}


@pytest.fixture
def contracts(tmp_path: Path) -> Path:
    """A copy to spoil."""
    return Path(shutil.copytree(CONTRACTS, tmp_path / "contracts", ignore=shutil.ignore_patterns("__pycache__")))


def test_nothing_in_contracts_drifted_from_the_code(rendered: render.Documents) -> None:
    assert render.drifted(CONTRACTS, rendered) == [], "run: python -m finery.render_api"


def test_no_published_schema_is_broken() -> None:
    assert render.broken_promises(CONTRACTS) == []


def test_rendering_twice_gives_the_same_bytes(rendered: render.Documents) -> None:
    assert render_api.documents() | render.documents(CONTRACTS) == rendered


def test_check_names_each_file_that_drifted(contracts: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (contracts / A_SCHEMA).write_text("{}")
    (contracts / "schemas" / "io.finery.task.dreamt.v1.json").write_text("{}")
    (contracts / "schemas" / "engine.job.json").unlink()

    status = render.main(["--check", "--contracts", str(contracts)])

    named = capsys.readouterr().err
    assert status == 1
    for name in (A_SCHEMA, "schemas/io.finery.task.dreamt.v1.json", "schemas/engine.job.json"):
        assert f"drifted: contracts/{name}" in named
    assert (contracts / A_SCHEMA).read_text() == "{}"


def test_rendering_mends_what_drifted_and_removes_what_is_no_event(contracts: Path) -> None:
    (contracts / "schemas" / "io.finery.task.dreamt.v1.json").write_text("{}")
    (contracts / "schemas" / "engine.job.json").unlink()

    status = render.main(["--contracts", str(contracts)])

    assert status == 0
    assert render.main(["--check", "--contracts", str(contracts)]) == 0


def test_the_renderer_refuses_to_take_a_field_from_a_published_event(
    contracts: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    published = json.loads((contracts / A_SCHEMA).read_text())
    published["properties"]["mood"] = {"type": "string"}
    (contracts / A_SCHEMA).write_text(json.dumps(published))

    refused = render.main(["--contracts", str(contracts)])
    forced = render.main(["--break", "--contracts", str(contracts)])

    assert (refused, forced) == (1, 0)
    assert f"{TaskFailed.type_name()}: mood: the field is gone" in capsys.readouterr().err


def test_a_readme_without_markers_stops_the_renderer_and_names_them(contracts: Path) -> None:
    (contracts / "README.md").write_text("# contracts\n")

    with pytest.raises(ValueError, match="rendered: catalogue"):
        render.documents(contracts)


OLD: dict[str, Any] = {
    "type": "object",
    "properties": {"id": {"type": "string"}, "state": {"$ref": "#/$defs/State"}, "step": {"type": "integer"}},
    "required": ["id", "state"],
    "$defs": {"State": {"enum": ["on", "off"]}},
}


def test_an_optional_field_and_other_words_may_come() -> None:
    new = {
        **OLD,
        "description": "said better",
        "properties": {**OLD["properties"], "note": {"type": "string", "default": ""}},
        "$defs": {"State": {"enum": ["off", "on"], "title": "State"}, "Note": {"type": "string"}},
    }

    assert incompatibilities(OLD, new) == []


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({"properties": {"id": {"type": "string"}, "state": {"$ref": "#/$defs/State"}}}, "step: the field is gone"),
        ({"properties": {**OLD["properties"], "step": {"type": "string"}}}, "step: type was 'integer'"),
        ({"properties": {**OLD["properties"], "id": {"type": "string", "maxLength": 9}}}, "id: maxLength was None"),
        ({"required": ["id", "state", "step"]}, "step: the field is required now"),
        ({"required": ["id"]}, "state: the field may be missing now"),
        ({"$defs": {"State": {"enum": ["on"]}}}, "State: enum was ['on', 'off'] and is ['on']"),
        ({"$defs": {"State": {"enum": ["on", "off", "dim"]}}}, "State: enum was"),
        ({"additionalProperties": False}, "the whole: additionalProperties was None and is False"),
    ],
)
def test_anything_else_breaks_a_promise_and_is_named(change: dict[str, Any], fault: str) -> None:
    faults = incompatibilities(OLD, {**OLD, **change})

    assert len(faults) == 1
    assert fault in faults[0]


def test_openapi_holds_both_halves_of_the_public_port(rendered: render.Documents) -> None:
    document = json.loads(rendered["schemas/openapi.json"])

    assert {"/v1/chat/completions", "/v1/completions", "/v1/files", "/api/v1/tasks"} <= document["paths"].keys()
    assert document["paths"]["/healthz"]["get"]["security"] == []
    assert "HTTPValidationError" not in json.dumps(document)
    taken = [
        operation
        for path in document["paths"].values()
        for operation in path.values()
        if "422" in operation["responses"]
    ]
    assert all("idempotency_key_reused" in operation["responses"]["422"]["description"] for operation in taken)


def test_asyncapi_names_every_service_that_speaks(rendered: render.Documents) -> None:
    document = yaml.safe_load(rendered["schemas/asyncapi.yaml"])

    speakers = {name.split(".")[0] for name in document["channels"]}
    assert document["asyncapi"] == "3.0.0"
    assert {"studio", "trainer", "deployer", "gateway", "notifier", "billing-meter"} <= speakers


@pytest.mark.parametrize("name", ["schemas/openapi.json", "schemas/asyncapi.yaml"])
def test_every_reference_leads_somewhere(rendered: render.Documents, name: str) -> None:
    document = yaml.safe_load(rendered[name])

    dangling = [reference for reference in _references(document) if not _leads_somewhere(document, reference)]

    assert dangling == []


def _references(node: Any) -> Iterator[str]:
    if isinstance(node, dict):
        yield from ([node["$ref"]] if isinstance(node.get("$ref"), str) else [])
        node = list(node.values())
    if isinstance(node, list):
        for item in node:
            yield from _references(item)


def _leads_somewhere(document: Any, reference: str) -> bool:
    for step in reference.removeprefix("#/").split("/"):
        document = document.get(unquote(step).replace("~1", "/").replace("~0", "~")) if document else None
    return document is not None
