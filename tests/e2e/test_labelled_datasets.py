"""What labellers say becomes datasets that ingest reads: preferences, likes and dislikes."""

from __future__ import annotations

import json
from pathlib import Path

from finery.client import Finery
from tests.bench.house import House


def answers(folder: Path, name: str, said: str) -> Path:
    talks = [[{"role": "user", "content": f"question {n}"}, {"role": "assistant", "content": f"{said} {n}"}]
             for n in range(6)]  # fmt: skip
    file = folder / name
    file.write_text("".join(json.dumps({"messages": talk}) + "\n" for talk in talks))
    return file


def test_two_models_answers_become_preferences_and_one_models_become_likes(up: House, tmp_path: Path) -> None:
    with Finery(up.ready["url"], up.ready["api_key"]) as finery:
        mine = finery.datasets.wait(finery.datasets.upload(answers(tmp_path, "kind.jsonl", "gladly")).id)
        theirs = finery.datasets.wait(finery.datasets.upload(answers(tmp_path, "curt.jsonl", "no")).id)
        finery.labellings.create("tone", mine.id, "pair", against=theirs.id)
        while (item := finery.labellings.next("tone")) is not None:
            better = next(c.key for c in item.answers if c.messages[0]["content"].startswith("gladly"))
            finery.labellings.judge(item, "tie" if item.record == 0 else better)
        made = finery.datasets.wait(finery.labellings.export("tone", "tone-preferences").id)

        assert (made.state, made.kind, made.records) == ("ready", "preference", 5)
        assert made.lineage is not None
        assert [used.dataset for used in made.lineage.sources] == [mine.id, theirs.id]
        for row in finery.datasets.records(made.id).data:
            number = row.messages[0]["content"].removeprefix("question ")
            said = [turn["content"] for turns in (row.chosen, row.rejected) for turn in turns or []]
            assert said == [f"gladly {number}", f"no {number}"]

        finery.labellings.create("polite", theirs.id, "like", sample=4)
        while (item := finery.labellings.next("polite")) is not None:
            finery.labellings.judge(item, "dislike")
        liked = finery.datasets.wait(finery.labellings.export("polite", "polite-or-not").id)
        assert (liked.state, liked.kind, liked.records) == ("ready", "feedback", 4)
        assert {row.label for row in finery.datasets.records(liked.id).data} == {False}
