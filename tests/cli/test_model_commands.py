"""Commands that import models: which source they name to the installation, and what they leave to it to refuse."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.cli.test_commands import AT, point_at, run

MODEL = {
    "id": "mdl_1", "project": "prj_1", "name": "mine", "state": "ready", "version": 3, "created_by": "ann",
    "created_at": AT, "tasks": ["task_1"],
}  # fmt: skip
TASK = {
    "id": "task_1", "project": "prj_1", "kind": "import", "name": "n", "state": "succeeded", "version": 3,
    "created_by": "ann", "created_at": AT,
}  # fmt: skip


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """Bodies of what was created; every task has succeeded when it is looked at."""
    bodies = list[dict[str, Any]]()

    def answer(request: httpx.Request) -> httpx.Response:
        if request.method == "POST":
            bodies.append(json.loads(request.content))
        return httpx.Response(200, json=TASK if "/tasks/" in request.url.path else MODEL)

    point_at(monkeypatch, answer)
    return bodies


@pytest.mark.parametrize(
    ("words", "source"),
    [
        (["s3://weights/mine", "--connection", "lake"], {"url": "s3://weights/mine", "connection": "lake"}),
        (["s3://weights/mine", "--gallery", "qwen3-8b"], {"url": "s3://weights/mine", "gallery": "qwen3-8b"}),
        (["file:///data/mine"], {"url": "file:///data/mine"}),
        (["s3://w/m", "--gguf-file", "q4.gguf"], {"url": "s3://w/m", "gguf_file": "q4.gguf"}),
        (["--path", "weights"], {"path": str(Path.cwd() / "weights")}),
        (["--path", "s3://weights/mine"], {"path": "s3://weights/mine"}),
    ],
)
def test_an_import_names_its_source(asked: list[dict[str, Any]], words: list[str], source: dict[str, str]) -> None:
    done = run("models", "import", "mine", *words, "--json")

    assert done.exit_code == 0, done.output
    assert [body["source"] for body in asked] == [source]
    assert json.loads(done.output)["name"] == "mine"
