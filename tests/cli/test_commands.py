"""The command line on a stub: shapes under ``--json``, errors with code and status, help with an example."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import httpx
import pytest
from typer.main import get_command
from typer.testing import CliRunner

import finery.client
from finery.cli import datasets
from finery.cli.app import application
from finery.client import Finery
from finery_contracts.datasets import DataFormat

APP = application()
AT = "2026-11-21T08:00:00Z"
TASK: dict[str, Any] = {
    "id": "task_1", "project": "prj_1", "kind": "tune", "name": "tune-it", "state": "succeeded", "version": 6,
    "created_by": "ann", "created_at": AT, "progress": {"step": 3, "total": 3, "metrics": {"loss": 0.5}},
}  # fmt: skip
PAGE = {"has_more": False, "next": None}


LINE = {
    "id": "line_1", "project": "prj_1", "key": "k", "noun": "task", "noun_id": "task_1", "description": "d",
    "quantity": "1E-9", "unit": "hour", "unit_price": "600", "amount": "6E-7", "currency": "USD", "started_at": AT,
    "created_at": AT, "event": "evt_1",
}  # fmt: skip


def answer(request: httpx.Request) -> httpx.Response:
    """What a tiny installation would say."""
    path = request.url.path
    said: dict[str, Any] = {
        "/api/v1/tasks": {"data": [TASK], **PAGE},
        "/api/v1/tasks/task_1": TASK,
        "/api/v1/tasks/task_1/metrics": {
            "data": [
                {"seq": n, "at": AT, "attempt": 1, "step": n, "total": 3, "values": {"loss": 3.0 / n}}
                for n in (1, 2, 3)
            ],
            **PAGE,
        },
        "/api/v1/tasks/task_1/logs": {"data": [{"seq": 1, "at": AT, "attempt": 1, "text": "lm loss: 0.5"}], **PAGE},
        "/api/v1/keys": {"data": [], **PAGE},
        "/api/v1/cost/task_1": {"amount": "7E-7", "currency": "USD", "charged": "6E-7", "running": "1E-7"},
        "/api/v1/bill/lines": {"data": [LINE], **PAGE},
        "/api/v1/bill": {"currency": "USD", "total": "0.5", "rows": [], "has_more": False},
        "/api/v1/events": {"data": [], "has_more": False, "next": 0},
        "/api/v1/deployments/support/events": {
            "data": [
                {
                    "seq": 7,
                    "event": {
                        "type": "io.finery.deployment.running.v1",
                        "subject": "deployment/dep_1",
                        "time": AT,
                        "data": {"state": "running"},
                    },
                }
            ],
            "has_more": True,
            "next": 7,
        },
    }
    if path in said:
        return httpx.Response(200, json=said[path])
    details = [{"line": 17, "code": "not_json", "reason": "broken", "remedy": "mend it"}]
    error = {"message": "there is none", "type": "invalid_request_error", "param": "id", "code": "task_not_found"}
    return httpx.Response(404, json={"error": {**error, "details": details}})


def point_at(monkeypatch: pytest.MonkeyPatch, said: Callable[[httpx.Request], httpx.Response]) -> None:
    """Commands talk to ``said``."""
    transport = httpx.MockTransport(said)
    monkeypatch.setattr(finery.client, "Finery", lambda url, key: Finery(url, key, transport=transport))
    monkeypatch.setenv("FINERY_URL", "http://stub")
    monkeypatch.setenv("FINERY_API_KEY", "fk-stub")


@pytest.fixture
def stub(monkeypatch: pytest.MonkeyPatch) -> None:
    """Commands talk to ``answer``."""
    point_at(monkeypatch, answer)


def run(*words: str, said: str | None = None) -> Any:
    return CliRunner().invoke(APP, list(words), input=said)


def commands(group: Any, *above: str) -> list[tuple[str, ...]]:
    """Every command there is, as its words."""
    if not hasattr(group, "commands"):
        return [above]
    return [words for name, below in group.commands.items() for words in commands(below, *above, name)]


@pytest.mark.parametrize(
    "words",
    [
        ("tasks", "list"), ("tasks", "show", "task_1"), ("tasks", "watch", "task_1"), ("tasks", "metrics", "task_1"),
        ("logs", "task_1"), ("bill",), ("bill", "cost", "task_1"), ("deployments", "events", "support"),
    ],
)  # fmt: skip
def test_json_is_one_object_or_one_line_an_item(stub: None, words: tuple[str, ...]) -> None:
    done = run(*words, "--json")

    assert done.exit_code == 0, done.output
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert lines
    assert all(isinstance(line, dict) for line in lines)


@pytest.mark.parametrize("words", [("keys", "list"), ("events",)])
def test_an_empty_list_prints_nothing_under_json(stub: None, words: tuple[str, ...]) -> None:
    done = run(*words, "--json")
    assert (done.exit_code, done.stdout) == (0, "")


def test_an_id_is_shown_whole_on_a_narrow_screen(monkeypatch: pytest.MonkeyPatch) -> None:
    task = {**TASK, "id": "task_01m7yf4qjet0dz1nkcadyz9kxt"}
    point_at(monkeypatch, lambda _: httpx.Response(200, json={"data": [task], **PAGE}))
    monkeypatch.setenv("COLUMNS", "60")

    assert task["id"] in run("tasks", "list").stdout


def test_people_see_a_table_and_a_curve(stub: None) -> None:
    assert "tune-it" in run("tasks", "list").stdout
    assert "loss: 3 at step 1 → 1 at step 3" in run("tasks", "metrics", "task_1").stdout


def test_a_deployments_past_is_shown_with_the_place_where_it_goes_on(stub: None) -> None:
    done = run("deployments", "events", "support")
    assert "running" in done.stdout
    assert "--after 7" in done.stdout + done.stderr


def test_the_smallest_amounts_are_shown_without_an_exponent(stub: None) -> None:
    assert "0.0000007 USD: 0.0000006 charged, 0.0000001 for what runs now" in run("bill", "cost", "task_1").stdout
    assert "0.0000006" in run("bill", "lines").stdout


def test_an_error_of_the_installation_leaves_with_status_1_and_its_code(stub: None) -> None:
    shown = run("tasks", "show", "task_9")
    plain = run("tasks", "show", "task_9", "--json")

    assert shown.exit_code == plain.exit_code == 1
    assert "task_not_found" in shown.stderr
    assert "mend it" in shown.stderr
    assert json.loads(plain.stderr)["error"]["details"][0]["line"] == 17


def test_without_an_installation_the_command_says_how_to_name_one(tmp_path: Path) -> None:
    done = run("tasks", "list", "--home", str(tmp_path))
    assert done.exit_code == 2
    assert "finery up" in done.stderr


@pytest.mark.parametrize(
    "words",
    [
        ("tasks", "delete", "task_1"),
        ("tasks", "submit", "--file", "/nowhere.json"),
        ("run", "nothing"),
        ("up", "--allow-webhook-network", "nonsense"),
        ("tasks", "list", "--limit", "0"),
        ("nonsense",),
    ],
)
def test_a_wrong_command_leaves_with_status_2(stub: None, words: tuple[str, ...]) -> None:
    assert run(*words).exit_code == 2


@pytest.mark.parametrize("words", commands(get_command(APP)), ids=" ".join)
def test_help_has_a_sentence_and_an_example(words: tuple[str, ...]) -> None:
    done = run(*words, "--help")
    assert done.exit_code == 0
    assert "Example:" in done.stdout
    if words[0] not in ("run", "bus-init", "bus-config", "engines"):
        assert "--json" in done.stdout


def test_help_imports_neither_the_client_nor_the_services() -> None:
    heavy = {"asyncio", "fastapi", "httpx", "nats", "openai", "pydantic"}
    program = "import sys; from finery.cli.app import application; application(); print(*sys.modules)"

    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)

    assert heavy & set(done.stdout.split()) == set()


def test_every_word_of_the_issue_is_a_command() -> None:
    help_text = run("--help").stdout
    for word in ("up", "demo", "tasks", "models", "datasets", "deployments", "events", "logs", "chat", "keys"):
        assert word in help_text


def test_upload_offers_every_format_there_is() -> None:
    assert get_args(datasets.Format) == get_args(DataFormat)
