"""How errors leave the command line: never as a traceback, always with code and status, and never as markup."""

from __future__ import annotations

import json
from pathlib import Path

import httpx
import openai
import pytest
import typer
from test_commands import TASK, answer, point_at, run

from finery.cli.app import main
from finery.cli.command import errors_shown
from finery.completions import faults_translated
from finery.errors import NotFound
from finery_kit.ports import free_port


@pytest.mark.parametrize("text", ["[/a].csv", "[bold]", "[red]x[/"])
def test_what_others_wrote_is_shown_as_it_is(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    error = {"message": f"no {text} here", "param": text, "code": "nope", "details": [{"reason": text}]}
    point_at(monkeypatch, lambda _: httpx.Response(404, json={"error": error}))
    assert f"no {text} here" in run("datasets", "show", "x").stderr

    task = {**TASK, "name": text, "why_waiting": text}
    point_at(monkeypatch, lambda _: httpx.Response(200, json=task))
    assert text in run("tasks", "show", "task_1").stdout
    assert run("tasks", "watch", "task_1").exit_code == 0


def test_a_value_that_no_deployment_may_have_is_named_before_anything_is_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    point_at(monkeypatch, answer)

    done = run("deployments", "create", "a", "--model", "m", "--qps", "0", "--json")

    assert done.exit_code == 2
    assert json.loads(done.stderr)["error"]["details"][0]["field"] == "qps"


def test_a_call_that_is_refused_keeps_its_code() -> None:
    body = {"message": "no such model", "code": "model_not_found", "param": "model"}
    response = httpx.Response(404, request=httpx.Request("POST", "http://stub"))

    with pytest.raises(NotFound) as told, faults_translated():
        raise openai.NotFoundError("no such model", response=response, body=body)

    assert (told.value.code, told.value.param, told.value.status) == ("model_not_found", "model", 404)


@pytest.mark.parametrize("words", [("tasks", "list"), ("chat", "m", "hi")])
def test_nobody_listening_is_said_with_status_1(words: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FINERY_API_KEY", "fk-stub")
    monkeypatch.setenv("FINERY_URL", f"http://127.0.0.1:{free_port()}")

    done = run(*words, "--json")

    assert done.exit_code == 1, done.output
    assert json.loads(done.stderr)["error"]["code"] == "connection_failed"


def test_a_timeout_is_no_unreadable_file(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(typer.Exit) as left, errors_shown(as_json=True):
        raise TimeoutError("deployment d is deploying after 1 s")

    assert left.value.exit_code == 1
    assert json.loads(capsys.readouterr().err)["error"]["code"] == "timeout"


def test_a_connection_file_of_something_else_is_named(tmp_path: Path) -> None:
    (tmp_path / "connection.json").write_text("not ours")

    done = run("tasks", "list", "--home", str(tmp_path), "--json")

    assert done.exit_code == 2
    assert "connection.json" in json.loads(done.stderr)["error"]["message"]


@pytest.mark.parametrize("words", [("tasks", "list", "--bogus"), ("up", "--log-level", "loud"), ("up", "--port", "0")])
def test_a_mistyped_command_is_json_too_when_json_is_asked_for(
    words: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*words, "--json"]) == 2
    assert json.loads(capsys.readouterr().err)["error"]["code"] == "command_invalid"
