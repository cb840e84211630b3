"""Two uploads become one clean, mixed and split dataset, through the public surface and with the real engines."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from finery.client import Finery
from finery_contracts.preparing import PrepareOutput
from tests.bench.house import House

HEADER = "conversation_id,human,assistant\n"
INDUSTRY = [
    f"{n},machine {n} shows the error E{n * 37},call 13812345678 or write to help{n}@works.cn" for n in range(1, 11)
]
GENERAL = [f"{n},what is {n} times {n * 13 % 101}?,it makes {n * (n * 13 % 101)}" for n in range(1, 61)]
STEPS: list[dict[str, Any]] = [
    {"step": "exact_duplicates"}, {"step": "personal"}, {"step": "mix", "weights": [1, 3]},
    {"step": "split", "validation": 0.25},
]  # fmt: skip


def upload(finery: Finery, folder: Path, name: str, rows: list[str]) -> str:
    file = folder / name
    file.write_text(HEADER + "\n".join(rows) + "\n", "utf-8")
    return finery.datasets.upload(file).id


def test_two_uploads_become_one_clean_mixed_and_split_dataset(up: House, tmp_path: Path) -> None:
    again = [f"{n + 100},{row.split(',', 1)[1].upper()}" for n, row in enumerate(INDUSTRY[:3])]
    with Finery(up.ready["url"], up.ready["api_key"]) as finery:
        industry = upload(finery, tmp_path, "industry.csv", [*INDUSTRY, *again])
        general = upload(finery, tmp_path, "general.csv", GENERAL)
        begun = [finery.datasets.prepare([industry, general], STEPS, output=name) for name in ("mixed", "mixed-again")]
        tasks = [finery.tasks.wait(task.id) for task in begun]

        assert [task.state for task in tasks] == ["succeeded", "succeeded"], tasks[0].error
        output = tasks[0].output
        assert isinstance(output, PrepareOutput)
        told = {step.step: step for step in output.steps}
        assert (told["exact_duplicates"].removed, told["exact_duplicates"].records_in) == (3, 73)
        assert told["personal"].reasons == {"email": 10}
        assert told["mix"].records_out == 40
        train, aside = finery.datasets.get("mixed"), finery.datasets.get("mixed-validation")
        assert [(view.state, view.records) for view in (train, aside)] == [("ready", 30), ("ready", 10)]
        assert train.lineage is not None
        assert [used.dataset for used in train.lineage.sources] == [industry, general]
        assert finery.datasets.get("mixed-again").content_sha256 == train.content_sha256

        page = finery.datasets.records(train.id, limit=30)
        shown = "\n".join(row.model_dump_json() for row in page.data)
        assert page.total == 30
        assert "[EMAIL]" in shown
        assert "@works.cn" not in shown
        graph = finery.datasets.lineage(train.id)
        ingests = {finery.datasets.get(source).task for source in (industry, general)}
        assert {industry, general, tasks[0].id, train.id} | ingests == {node.id for node in graph.nodes}
