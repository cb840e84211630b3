"""Texts that no database keeps, times that are none, misspelt wishes: each is a 400. And what a link lets its holder do
is told to nobody else, traces included."""

from __future__ import annotations

import asyncio
from pathlib import Path

import httpx

NUL, HALF = "\\u0000", "\\ud800"
JSON = {"content-type": "application/json"}
POSTS = (
    ("/api/v1/topics", '{"name": "a", "description": "TEXT"}'),
    ("/api/v1/subscriptions", '{"topic": "all", "url": "https://a.example/", "filter": {"name": "TEXT"}}'),
    ("/api/v1/keys", '{"description": "TEXT"}'),
    ("/api/v1/tasks", '{"kind": "validate", "model": "m", "metadata": {"a": "TEXT"}}'),
)
PATHS = ("/api/v1/topics?after=%00", "/api/v1/tasks/%00", "/api/v1/events?noun=%00", "/v1/models/%00", "/confirm/%00")
MISSPELT = (
    ("/api/v1/subscriptions/sub_1/rotate", {"overlap": 0}),
    ("/api/v1/subscriptions/sub_1/redeliver", {"since": "2026-01-01T00:00:00Z", "states": "all"}),
    ("/api/v1/subscriptions/sub_1/backfill", {"since": "0001-01-01T00:00:00+23:59"}),
)
TRACEPARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


async def test_what_cannot_be_kept_or_meant_is_a_400(api: httpx.AsyncClient) -> None:
    answers = [await api.get(path) for path in PATHS]
    for path, body in POSTS:
        answers += [await api.post(path, content=body.replace("TEXT", bad), headers=JSON) for bad in (NUL, HALF)]
    answers += [await api.post(path, json=body) for path, body in MISSPELT]
    answers.append(await api.post("/api/v1/datasets", files={"file": ("a.jsonl", b"{}")}, data={"name": "a\0b"}))

    assert [(answer.request.url.path, answer.text) for answer in answers if answer.status_code != 400] == []


async def test_the_token_of_a_link_is_in_no_trace_and_no_log(api: httpx.AsyncClient) -> None:
    home = Path(api.ready.home)  # type: ignore[attr-defined]
    for link in ("confirm", "unsubscribe"):
        for method in ("GET", "POST"):
            await api.request(method, f"/{link}/opensesame", headers={"traceparent": TRACEPARENT})

    async with asyncio.timeout(15):  # each service writes its spans in batches
        while "POST /unsubscribe/" not in (spans := (home / "spans.jsonl").read_text()):
            await asyncio.sleep(0.1)
    logs = [path.read_text() for path in home.glob("*.log")]
    assert "opensesame" not in spans
    assert not any("opensesame" in text for text in logs)
