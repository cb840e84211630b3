"""Topics, subscriptions and deliveries from the command line: what is asked, what is shown, what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import httpx
import pytest
from typer.testing import CliRunner

import finery.client
from finery.cli.app import application
from finery.client import Finery

APP = application()
AT = "2026-11-21T08:00:00Z"
SUBSCRIPTION: dict[str, Any] = {
    "id": "sub_1", "project": "prj_1", "topic": "jobs", "kind": "webhook", "url": "https://a.example/", "events": [],
    "state": "pending", "version": 1, "created_at": AT, "secret": "whsec_x",
}  # fmt: skip
DELIVERY: dict[str, Any] = {
    "id": "dlv_1", "project": "prj_1", "subscription": "sub_1", "event": "evt_1", "state": "dead", "attempts": 1,
    "event_type": "io.finery.task.failed.v1", "last_status": 503, "last_error": "it answered 503",
}  # fmt: skip
ATTEMPT = {
    "number": 1, "at": AT, "duration_ms": 12.5, "request_headers": {"webhook-id": "evt_1"}, "status": 503,
    "answer_headers": {"Retry-After": "9"}, "answer_body": "not now", "error": None,
}  # fmt: skip
ANSWERS: dict[str, Any] = {
    "/api/v1/topics/jobs": {"id": "topic_1", "project": "prj_1", "name": "jobs", "description": "", "created_at": AT},
    "/api/v1/subscriptions": SUBSCRIPTION,
    "/api/v1/subscriptions/sub_1": SUBSCRIPTION,
    "/api/v1/subscriptions/sub_1/rotate": SUBSCRIPTION,
    "/api/v1/subscriptions/sub_1/enable": SUBSCRIPTION,
    "/api/v1/subscriptions/sub_1/backfill": SUBSCRIPTION,
    "/api/v1/subscriptions/sub_1/redeliver": {"count": 3},
    "/api/v1/subscriptions/sub_1/deliveries": {"data": [DELIVERY], "has_more": True, "next": "dlv_1"},
    "/api/v1/deliveries/dlv_1": {**DELIVERY, "size_bytes": 400, "log": [ATTEMPT]},
    "/api/v1/deliveries/dlv_1/redeliver": {**DELIVERY, "state": "waiting"},
}


@pytest.fixture
def heard(monkeypatch: pytest.MonkeyPatch) -> list[httpx.Request]:
    """What a tiny installation is asked."""
    requests = list[httpx.Request]()

    def answer(request: httpx.Request) -> httpx.Response:
        requests.append(request)
        return httpx.Response(200, json=ANSWERS[request.url.path])

    transport = httpx.MockTransport(answer)
    monkeypatch.setattr(finery.client, "Finery", lambda url, key: Finery(url, key, transport=transport))
    monkeypatch.setenv("FINERY_URL", "http://stub")
    monkeypatch.setenv("FINERY_API_KEY", "fk-stub")
    return requests


def run(*words: str) -> Any:
    return CliRunner().invoke(APP, list(words))


def asked(request: httpx.Request) -> tuple[str, str, Any]:
    return request.method, request.url.path, json.loads(request.content or b"null")


@pytest.mark.parametrize(
    ("words", "kind", "field", "address"),
    [
        (("https://a.example/",), "webhook", "url", "https://a.example/"),
        (("--webhook", "https://a.example/"), "webhook", "url", "https://a.example/"),
        (("--email", "ann@example.com"), "email", "email", "ann@example.com"),
        (("--channel", "ops"), "channel", "channel", "ops"),
    ],
)
def test_each_kind_of_address_is_subscribed(
    heard: list[httpx.Request], words: tuple[str, ...], kind: str, field: str, address: str
) -> None:
    done = run("subscriptions", "create", "jobs", *words, "--json")

    body = json.loads(heard[0].content)
    given = {name: body[name] for name in ("url", "email", "channel") if body[name]}
    assert done.exit_code == 0, done.output
    assert (body["topic"], body["kind"], given) == ("jobs", kind, {field: address})
    assert json.loads(done.stdout)["secret"] == "whsec_x"


def test_choices_of_a_subscription_are_told(heard: list[httpx.Request], tmp_path: Path) -> None:
    reads = tmp_path / "reads.json"
    reads.write_text('{"body": "{{ data.name }}", "subject": "{{ fact }}"}')
    done = run(
        "subscriptions", "create", "jobs", "--email", "ann@example.com", "--event", "task.*", "--event", "model.ready",
        "--filter", "kind=tune", "--filter", "kind=evaluate", "--filter", "metadata.team=a=b", "--ordered",
        "--template", str(reads), "--backfill-since", "2026-11-01", "--description", "for ann",
    )  # fmt: skip

    body = json.loads(heard[0].content)
    assert done.exit_code == 0, done.output
    assert body["events"] == ["task.*", "model.ready"]
    assert body["filter"] == {"kind": ["tune", "evaluate"], "metadata.team": ["a=b"]}
    assert (body["ordered"], body["backfill_since"]) == (True, "2026-11-01T00:00:00+00:00")
    assert body["template"] == {"body": "{{ data.name }}", "subject": "{{ fact }}", "format": "text"}
    assert body["description"] == "for ann"


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("subscriptions", "show", "sub_1"), ("GET", "/api/v1/subscriptions/sub_1", None)),
        (
            ("subscriptions", "rotate", "sub_1", "--overlap-s", "0"),
            ("POST", "/api/v1/subscriptions/sub_1/rotate", {"overlap_s": 0.0}),
        ),
        (("subscriptions", "enable", "sub_1"), ("POST", "/api/v1/subscriptions/sub_1/enable", None)),
        (
            ("subscriptions", "redeliver", "sub_1", "--since", "2026-11-01T01:00:00+01:00", "--state", "all"),
            (
                "POST",
                "/api/v1/subscriptions/sub_1/redeliver",
                {"since": "2026-11-01T01:00:00+01:00", "state": "all"},
            ),
        ),
        (
            ("subscriptions", "backfill", "sub_1", "--since", "2026-11-01"),
            ("POST", "/api/v1/subscriptions/sub_1/backfill", {"since": "2026-11-01T00:00:00+00:00"}),
        ),
        (("deliveries", "redeliver", "dlv_1"), ("POST", "/api/v1/deliveries/dlv_1/redeliver", None)),
        (("subscriptions", "delete", "sub_1"), ("DELETE", "/api/v1/subscriptions/sub_1", None)),
        (("topics", "delete", "jobs"), ("DELETE", "/api/v1/topics/jobs", None)),
    ],
)  # fmt: skip
def test_each_command_asks_for_what_it_says(
    heard: list[httpx.Request], words: tuple[str, ...], expected: tuple[str, str, Any]
) -> None:
    plain, told = run(*words), run(*words, "--json")

    assert (plain.exit_code, told.exit_code) == (0, 0), plain.output + told.output
    assert [asked(request) for request in heard] == [expected, expected]
    assert isinstance(json.loads(told.stdout), dict)


def test_the_delivery_log_shows_request_answer_and_time(heard: list[httpx.Request]) -> None:
    shown = run("deliveries", "show", "dlv_1").stdout
    assert all(text in shown for text in ("attempt 1", "webhook-id", "12.5", "503", "not now", "Retry-After"))
    assert json.loads(run("deliveries", "show", "dlv_1", "--json").stdout)["log"] == [ATTEMPT]


def test_a_page_of_deliveries_says_where_the_next_begins(heard: list[httpx.Request]) -> None:
    words = ("subscriptions", "deliveries", "sub_1", "--state", "dead", "--limit", "1", "--after", "dlv_2")
    shown = run(*words).stdout

    assert dict(heard[0].url.params) == {"state": "dead", "limit": "1", "after": "dlv_2"}
    assert "dlv_1" in shown
    assert "--after dlv_1" in shown


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("subscriptions", "create", "jobs"), "--webhook URL"),
        (("subscriptions", "create", "jobs", "https://a.example/", "--email", "a@b.example"), "once"),
        (("subscriptions", "create", "jobs", "--channel", "ops", "--filter", "kind"), "FIELD=VALUE"),
        (("subscriptions", "create", "jobs", "--channel", "ops", "--template", __file__), "no JSON"),
        (("subscriptions", "create", "jobs", "--channel", "ops", "--backfill-since", "x"), "--backfill-since x"),
        (("subscriptions", "redeliver", "sub_1", "--since", "yesterday"), "2026-11-21T08:00:00Z"),
        (("subscriptions", "redeliver", "sub_1", "--since", "999999w"), "2026-11-21T08:00:00Z"),
    ],
)  # fmt: skip
def test_a_wrong_command_says_how_to_say_it(heard: list[httpx.Request], words: tuple[str, ...], told: str) -> None:
    done = run(*words, "--json")

    error = json.loads(done.stderr)["error"]
    assert (done.exit_code, error["code"]) == (2, "command_invalid")
    assert told in error["message"]
    assert heard == []
