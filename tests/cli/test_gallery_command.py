"""``finery gallery`` on a stub: what is asked of the installation, and what people and programs see."""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest
from test_commands import point_at, run

from finery.client import Finery

ENTRY: dict[str, Any] = {
    "id": "Mini-1B", "family": "Mini", "title": "Mini 1B", "uses": ["dialogue"], "languages": ["zh"],
    "licence": {"spdx": None, "name": "Mini Licence", "acceptance": True}, "parameters": 1_200_000_000,
    "max_length": 4096, "supports": {"tune": ["lora"], "compress": {"awq-w4a16": [40, 40]}, "deploy": ["none", "awq"]},
    "published_config": {"hidden_size": 64},
}  # fmt: skip


class Installation:
    """Answers with one entry, and remembers what it was asked."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    def __call__(self, request: httpx.Request) -> httpx.Response:
        self.asked.append(str(request.url).removeprefix("http://stub"))
        page = {"data": [ENTRY], "has_more": False, "next": None}
        return httpx.Response(200, json=ENTRY if request.url.path.endswith("Mini-1B") else page)


@pytest.fixture
def installation(monkeypatch: pytest.MonkeyPatch) -> Installation:
    there = Installation()
    monkeypatch.setenv("COLUMNS", "200")
    point_at(monkeypatch, there)
    return there


def test_the_list_asks_for_what_was_named_and_shows_what_each_is_for(installation: Installation) -> None:
    shown = run("gallery", "list", "--language", "zh", "--supports", "tune", "--search", "mini")

    assert shown.exit_code == 0, shown.output
    assert installation.asked == ["/api/v1/gallery?language=zh&supports=tune&search=mini"]
    (row,) = [line for line in shown.stdout.splitlines() if "Mini-1B" in line]
    cells = [cell.strip() for cell in row.strip("│").split("│")]
    assert cells == ["Mini-1B", "1.2 B", "lora", "awq-w4a16", "as it is, awq", "Mini Licence *", "your own"]


def test_under_json_an_entry_is_one_object(installation: Installation) -> None:
    listed, one = run("gallery", "list", "--json"), run("gallery", "show", "Mini-1B", "--json")

    assert [json.loads(line)["id"] for line in listed.stdout.splitlines()] == ["Mini-1B"]
    told = json.loads(one.stdout)
    assert (told["published_config"], told["supports"]["compress"]) == ({"hidden_size": 64}, {"awq-w4a16": [40, 40]})
    assert installation.asked == ["/api/v1/gallery", "/api/v1/gallery/Mini-1B"]


def test_the_client_gives_typed_entries() -> None:
    with Finery("http://stub", "fk-stub", transport=httpx.MockTransport(Installation())) as finery:
        (entry,) = finery.gallery.list(family="Mini").data

    assert (entry.id, entry.supports.compress["awq-w4a16"], entry.licence.acceptance) == ("Mini-1B", (40, 40), True)
