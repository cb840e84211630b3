"""Two uploads become one clean, mixed and split dataset, through the public surface and with the real engines."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from finery.embedded import Options, house
from finery_kit.ports import free_port
from tests.flows.conftest import ended

HEADER = "conversation_id,human,assistant\n"
INDUSTRY = [
    f"{n},machine {n} shows the error E{n * 37},call 13812345678 or write to help{n}@works.cn" for n in range(1, 11)
]
GENERAL = [f"{n},what is {n} times {n * 13 % 101}?,it makes {n * (n * 13 % 101)}" for n in range(1, 61)]
STEPS: list[dict[str, Any]] = [
    {"step": "exact_duplicates"}, {"step": "personal"}, {"step": "mix", "weights": [1, 3]},
    {"step": "split", "validation": 0.25},
]  # fmt: skip


@pytest.fixture
async def real(tmp_path: Path) -> AsyncIterator[httpx.AsyncClient]:
    """A client of a house whose engines are the real ones."""
    async with house(Options(home=tmp_path / "home", port=free_port())) as ready:
        headers = {"authorization": f"Bearer {ready.api_key}"}
        async with httpx.AsyncClient(base_url=ready.url, headers=headers, timeout=30) as client:
            yield client


async def upload(api: httpx.AsyncClient, name: str, rows: list[str]) -> str:
    text = HEADER + "\n".join(rows) + "\n"
    answer = await api.post("/api/v1/datasets", files={"file": (name, text.encode())})
    assert answer.status_code == 201, answer.text
    return answer.json()["id"]


async def content(api: httpx.AsyncClient, dataset: str) -> bytes:
    answer = await api.get(f"/v1/files/file-{dataset.removeprefix('ds_')}/content")
    assert answer.status_code == 200, answer.text
    return answer.content


async def test_two_uploads_become_one_clean_mixed_and_split_dataset(real: httpx.AsyncClient) -> None:
    again = [f"{n + 100},{row.split(',', 1)[1].upper()}" for n, row in enumerate(INDUSTRY[:3])]
    industry, general = await asyncio.gather(
        upload(real, "industry.csv", [*INDUSTRY, *again]), upload(real, "general.csv", GENERAL)
    )
    wish = {"kind": "prepare", "datasets": [industry, general], "steps": STEPS, "output": "train"}
    answers = [await real.post("/api/v1/tasks", json={**wish, "output": name}) for name in ("train", "train-again")]
    tasks = [await ended(real, answer.json()["id"], within_s=90) for answer in answers]

    assert [task["state"] for task in tasks] == ["succeeded", "succeeded"], tasks[0]["error"]
    told = {step["step"]: step for step in tasks[0]["output"]["steps"]}
    assert (told["exact_duplicates"]["removed"], told["exact_duplicates"]["records_in"]) == (3, 73)
    assert told["personal"]["reasons"] == {"email": 10}
    assert told["mix"]["records_out"] == 40
    train = (await real.get("/api/v1/datasets/train")).json()
    aside = (await real.get("/api/v1/datasets/train-validation")).json()
    assert [(view["state"], view["records"]) for view in (train, aside)] == [("ready", 30), ("ready", 10)]
    assert [used["dataset"] for used in train["lineage"]["sources"]] == [industry, general]
    assert (await real.get("/api/v1/datasets/train-again")).json()["content_sha256"] == train["content_sha256"]

    written = await content(real, train["id"])
    assert (written[:4], len(written)) == (b"PAR1", train["size_bytes"])
    examples = (await real.get(f"/api/v1/tasks/{tasks[0]['id']}/artefact/out/examples.jsonl")).text
    assert "[EMAIL]" in examples
    assert "[PHONE]" in examples
    graph = (await real.get(f"/api/v1/datasets/{train['id']}/lineage")).json()
    assert {industry, general, tasks[0]["id"], train["id"]} == {node["id"] for node in graph["nodes"]}
