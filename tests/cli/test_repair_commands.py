"""finery models repairs, repair: the diff as people see it, the question, and what the installation is asked for."""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest

from tests.cli.test_commands import AT, point_at, run

DIFF = '--- a/generation_config.json\n+++ b/generation_config.json\n@@ -1 +1,2 @@\n-{"top_p": 1\n+{"do_sample": true\n'
REPAIR: dict[str, Any] = {
    "id": "generation_do_sample", "file": "generation_config.json", "reason": "sampling would not happen",
    "diff": DIFF, "sha256_before": "a" * 64, "sha256_after": "b" * 64, "applied": False, "allowed": None,
    "versions": [],
}  # fmt: skip
MODEL: dict[str, Any] = {
    "id": "mdl_2", "project": "prj_1", "name": "mine", "number": 2, "state": "ready", "version": 3,
    "created_by": "ann", "created_at": AT, "tasks": ["task_1"],
}  # fmt: skip
TASK: dict[str, Any] = {
    "id": "task_1", "project": "prj_1", "kind": "import", "name": "n", "state": "succeeded", "version": 6,
    "created_by": "ann", "created_at": AT,
}  # fmt: skip


class Installation:
    """Proposes one repair, and keeps what it was asked for."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, dict[str, Any]]] = []
        self.repair = dict(REPAIR)

    def __call__(self, request: httpx.Request) -> httpx.Response:
        if request.method == "POST":
            self.asked.append((request.url.path, json.loads(request.content)))
            return httpx.Response(201, json=MODEL)
        if request.url.path.endswith("/repairs"):
            return httpx.Response(200, json={"model": "mdl_1", "state": "invalid", "data": [self.repair]})
        return httpx.Response(200, json=TASK if "tasks" in request.url.path else MODEL)


@pytest.fixture
def house(monkeypatch: pytest.MonkeyPatch) -> Installation:
    installation = Installation()
    point_at(monkeypatch, installation)
    return installation


def test_repairs_are_shown_as_diffs(house: Installation) -> None:
    shown = run("models", "repairs", "mine")
    assert shown.exit_code == 0, shown.output
    assert "generation_do_sample (proposed)" in shown.output
    for line in DIFF.splitlines():
        assert line in shown.output.splitlines()
    told = run("models", "repairs", "mine", "--json")
    assert [json.loads(line) for line in told.stdout.splitlines()] == [house.repair]


def test_a_diff_can_do_nothing_to_the_terminal_and_hides_nothing(house: Installation) -> None:
    house.repair |= {"diff": "+a\x1b[2J\u202eb\n", "file": "modeling_qwen.py", "allowed": False}
    shown = run("models", "repairs", "mine").output
    assert "+a\\x1b[2J\\u202eb" in shown
    assert "\x1b" not in shown
    assert "an operator must allow" in shown


def test_a_consent_without_anybody_to_ask_needs_yes(house: Installation) -> None:
    refused = run("models", "repair", "mine", "generation_do_sample")
    assert (refused.exit_code, house.asked) == (2, [])

    done = run("models", "repair", "mine", "generation_do_sample", "--yes", "--json")

    assert done.exit_code == 0, done.output
    assert house.asked == [("/api/v1/models/mine/repairs", {"apply": ["generation_do_sample"]})]
    assert json.loads(done.stdout)["number"] == 2


@pytest.mark.parametrize(("answer", "asked"), [("y\n", 1), ("n\n", 0), ("", 0)])
def test_whoever_sits_there_sees_the_diff_and_is_asked(
    house: Installation, monkeypatch: pytest.MonkeyPatch, answer: str, asked: int
) -> None:
    monkeypatch.setattr("finery.cli.repairs.somebody_is_there", lambda: True)

    done = run("models", "repair", "mine", "generation_do_sample", said=answer)

    assert '+{"do_sample": true' in done.output
    assert "Make a copy of mine" in done.output
    assert len(house.asked) == asked
    assert (done.exit_code == 0) == bool(asked)


def test_a_consent_can_be_given_with_the_import(house: Installation) -> None:
    done = run("models", "import", "mine", "--gallery", "glm-4-9b", "--repair", "chatglm_padding_side", "--json")
    assert done.exit_code == 0, done.output
    assert house.asked[0][1]["apply_repairs"] == ["chatglm_padding_side"]
