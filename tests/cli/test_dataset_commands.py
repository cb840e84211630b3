"""Commands that prepare and count datasets: what they ask the installation for, and what they show of its answer."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.cli.test_commands import AT, point_at, run

OUTPUT: dict[str, Any] = {
    "kind": "prepare", "holds": "messages", "records": 70, "validation_records": 10, "size_bytes": 9,
    "content_sha256": "d" * 64, "seed": 42, "warnings": ["There are 70 samples."],
    "steps": [
        {
            "step": "near_duplicates", "parameters": {"threshold": 0.8}, "records_in": 100, "records_out": 80,
            "removed": 20, "reasons": {"near_duplicate": 20}, "notes": ["noted"],
        }
    ],
}  # fmt: skip
COUNTED: dict[str, Any] = {
    "kind": "count", "records": 3, "tokens": 90, "tokens_per_epoch": 80, "trained_tokens": 40, "max_length": 32,
    "truncated_records": 1, "truncated_share": 0.33, "lost_tokens": 10,
    "histogram": [{"up_to_tokens": 32, "records": 2}, {"up_to_tokens": 64, "records": 1}],
}  # fmt: skip


class Installation:
    """Keeps what it was asked for; every task has succeeded when it is looked at."""

    def __init__(self) -> None:
        self.asked: list[dict[str, Any]] = []

    def __call__(self, request: httpx.Request) -> httpx.Response:
        if request.url.path.endswith("/lineage"):
            nodes = [{"id": "ds_1", "noun": "dataset", "name": "raw", "state": "ready"}]
            nodes += [{"id": "ds_2", "noun": "dataset", "name": "clean", "state": "ready"}]
            edges = [{"source": "ds_1", "target": "ds_2", "role": "source"}]
            return httpx.Response(200, json={"of": "ds_2", "nodes": nodes, "edges": edges, "complete": False})
        if request.url.path.endswith("/tokens"):
            assert dict(request.url.params) == {"offset": "2", "limit": "20"}
            rows = [{"line": 3, "tokens": 40, "trained_tokens": 20, "truncated": True}]
            return httpx.Response(200, json={"task": "task_1", "offset": 2, "total": 3, "next": None, "data": rows})
        if request.url.path.endswith("/estimates"):
            self.asked.append(json.loads(request.content))
            priced = {"hours": "0.5", "amount": "0.06", "seconds": 1800}
            price = {"flavour": "cpu", "instances": 1, "per_hour": "0.12", "currency": "USD"}
            price |= dict.fromkeys(("low", "expected", "high"), priced)
            duration = {"seconds": 1800, "low_s": 1800, "high_s": 1800, "tokens": 180, "basis": "counted tokens"}
            return httpx.Response(200, json={"duration": duration, "price": price})
        if request.method == "POST":
            self.asked.append(json.loads(request.content))
        kind = self.asked[-1]["kind"]
        output = OUTPUT if kind == "prepare" else COUNTED
        task = {"id": "task_1", "project": "prj_1", "kind": kind, "name": "n", "state": "succeeded", "version": 3}
        return httpx.Response(200, json={**task, "created_by": "ann", "created_at": AT, "output": output})


@pytest.fixture
def house(monkeypatch: pytest.MonkeyPatch) -> Installation:
    installation = Installation()
    point_at(monkeypatch, installation)
    return installation


def test_a_mixture_is_asked_for_by_its_ratio(house: Installation) -> None:
    done = run("datasets", "mix", "industry", "general", "--ratio", "1:3", "--repeat", "--output", "train")
    assert done.exit_code == 0, done.output
    assert house.asked == [
        {
            "kind": "prepare", "datasets": ["industry", "general"], "seed": 42, "output": "train",
            "steps": [{"step": "mix", "weights": [1.0, 3.0], "when_short": "repeat", "records": None}],
        }
    ]  # fmt: skip
    wrong = run("datasets", "mix", "industry", "--ratio", "1:3")
    assert (wrong.exit_code, len(house.asked)) == (2, 1)


def test_cleansing_is_the_usual_chain_and_what_the_options_add(house: Installation) -> None:
    run("datasets", "clean", "raw", "--near", "0", "--personal", "keep")
    assert [step["step"] for step in house.asked[0]["steps"]] == ["missing", "quality", "blocked", "exact_duplicates"]
    run("datasets", "clean", "raw", "--language", "zh", "--min", "5", "--against", "exam", "--personal", "drop")
    steps = {step.pop("step"): step for step in house.asked[1]["steps"]}
    assert list(steps) == [
        "missing", "quality", "length", "language", "blocked", "exact_duplicates", "near_duplicates", "contamination",
        "personal",
    ]  # fmt: skip
    assert (steps["language"], steps["contamination"]) == ({"keep": ["zh"]}, {"against": ["exam"]})
    assert (steps["personal"], steps["near_duplicates"]) == ({"action": "drop"}, {"threshold": 0.8})
    run("datasets", "clean", "raw", "--on", "ray")
    assert [asked.get("on") for asked in house.asked] == [None, None, "ray"]


def test_what_was_done_is_a_table_or_the_whole_task_as_json(house: Installation) -> None:
    shown = run("datasets", "split", "train", "--validation", "0.2", "--stratify", "answer")
    assert house.asked[0]["steps"] == [{"step": "split", "validation": 0.2, "stratify": "answer"}]
    for word in ("near_duplicates", "100", "80", "near_duplicate 20", "noted", "70 records, 10 for validation"):
        assert word in shown.output
    told = json.loads(run("datasets", "split", "train", "--json").stdout)
    assert told["output"]["steps"][0]["reasons"] == {"near_duplicate": 20}


def test_a_recipe_is_yaml_or_json_and_nothing_else(house: Installation, tmp_path: Path) -> None:
    recipe = tmp_path / "clean.yaml"
    recipe.write_text("seed: 7\nsteps:\n  - {step: language, keep: [zh]}\n  - step: shuffle\n")
    run("datasets", "prepare", "a", "b", "--recipe", str(recipe), "--output", "train")
    assert house.asked[0] == {
        "kind": "prepare", "datasets": ["a", "b"], "seed": 7, "output": "train",
        "steps": [{"step": "language", "keep": ["zh"]}, {"step": "shuffle"}],
    }  # fmt: skip
    recipe.write_text('[{"step": "shuffle"}]')
    run("datasets", "prepare", "a", "--recipe", str(recipe))
    assert house.asked[1]["steps"] == [{"step": "shuffle"}]
    for nonsense in ("just words", "{unclosed"):
        recipe.write_text(nonsense)
        assert run("datasets", "prepare", "a", "--recipe", str(recipe)).exit_code == 2
    assert len(house.asked) == 2


def test_token_counts_are_shown_with_their_histogram(house: Installation) -> None:
    shown = run("datasets", "count", "train", "--model", "tiny", "--max-length", "32")
    assert house.asked == [{"kind": "count", "dataset": "train", "model": "tiny", "max_length": 32}]
    for word in ("tokens_per_epoch", "80", "truncated_share", "0.33", "up to tokens", "64"):
        assert word in shown.output


def test_tokens_of_each_record_and_what_a_count_would_cost_are_shown(house: Installation) -> None:
    told = run("datasets", "tokens", "task_1", "--offset", "2", "--json")
    assert json.loads(told.stdout) == {
        "line": 3, "tokens": 40, "trained_tokens": 20, "truncated": True, "refused": None,
    }  # fmt: skip
    shown = run("estimate", "--count", "task_1", "--epochs", "3", "--throughput", "500")
    assert "0.06" in shown.output, shown.output
    (asked,) = house.asked
    assert (asked["count"], asked["epochs"], asked["throughput"], asked.get("tokens")) == ("task_1", 3, 500.0, None)


def test_lineage_is_a_list_of_things_and_arrows_between_them(house: Installation) -> None:
    for noun in ("datasets", "models"):
        shown = run(noun, "lineage", "clean")
        assert "dataset raw → dataset clean (source)" in shown.output
        assert "there is more than this" in shown.output
        assert json.loads(run(noun, "lineage", "clean", "--json").stdout)["edges"][0]["target"] == "ds_2"
