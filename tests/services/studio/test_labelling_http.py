"""Labelling over HTTP: who gets which record, what a verdict does, what comes out."""

from __future__ import annotations

import asyncio
import json
from datetime import timedelta
from typing import Any

import httpx
import pytest
from labelling_rig import dataset, pairs, person, talks, turn
from studio_rig import GALLERY_MODEL, Rig

from finery_contracts.access import Role
from finery_contracts.jobs import IngestSpec, JudgeOutput, JudgeSpec, Phase, TaskKind
from finery_contracts.labelling import Verdict
from finery_contracts.tasks import EndReason
from finery_contracts.work import AttemptEnd, Report
from finery_studio.labelling import handlers

PATH = "/api/v1/labellings"


async def labelling(studio: Rig, **said: Any) -> dict[str, Any]:
    source = said.pop("dataset", None) or await dataset(studio, "talks.jsonl", talks(7))
    async with studio.http() as http:
        answer = await http.post(PATH, json={"name": "review", "dataset": source, "mode": "like", **said})
    assert answer.status_code == 201, answer.text
    return answer.json()


async def take(http: httpx.AsyncClient, ref: str = "review") -> dict[str, Any] | None:
    answer = await http.post(f"{PATH}/{ref}/next")
    assert answer.status_code == 200, answer.text
    return answer.json()["item"]


async def say(http: httpx.AsyncClient, item: dict[str, Any], **said: Any) -> dict[str, Any]:
    answer = await http.post(f"{PATH}/{item['labelling']}/records/{item['record']}/verdict", json=said)
    assert answer.status_code == 200, answer.text
    return answer.json()


async def test_a_labeller_gets_each_record_once_and_the_last_verdict_finishes_it(studio: Rig) -> None:
    made = await labelling(studio)
    async with await person(studio, "mia") as mia:
        seen = []
        while (item := await take(mia)) is not None:
            assert item["prompt"] == [turn("user", f"question {item['record']}")]
            assert item["answers"] == [{"key": "a", "messages": [turn("assistant", f"answer {item['record']}")]}]
            assert (await take(mia))["record"] == item["record"]  # pyright: ignore[reportOptionalSubscript]
            assert (await say(mia, item, verdict="like", comment="clear"))["verdict"] == "like"
            seen.append(item["record"])
    assert sorted(seen) == list(range(7))
    assert await studio.said(made["id"]) == ["labelling.created", "labelling.finished"]


async def test_two_labellers_never_hold_one_place_and_overlap_where_two_verdicts_are_asked_for(studio: Rig) -> None:
    await labelling(studio, per_record=2)
    async with (
        await person(studio, "mia") as mia,
        await person(studio, "tom") as tom,
        await person(studio, "eva") as eva,
    ):
        first, second, third = await take(mia), await take(tom), await take(eva)
        assert first is not None
        assert second is not None
        assert third is not None
        assert first["record"] == second["record"] != third["record"]
        answers = await asyncio.gather(*(take(mia) for _ in range(20)))
        assert {item["record"] for item in answers if item} == {first["record"]}


async def test_a_record_that_is_not_judged_in_time_goes_to_somebody_else(studio: Rig) -> None:
    await labelling(studio, sample=1)
    async with await person(studio, "mia") as mia, await person(studio, "tom") as tom:
        item = await take(mia)
        assert item is not None
        assert await take(tom) is None
        later = studio.studio.database.now() + handlers.KEPT_FOR + timedelta(seconds=1)
        studio.studio.database._clock = lambda: later
        again = await take(tom)
        assert again is not None
        assert again["record"] == item["record"]
        await say(tom, again, verdict="dislike")
        await say(mia, item, verdict="like")  # late, but said: it counts, too
        found = (await mia.get(f"{PATH}/review/agreement")).json()
    assert (found["judged"], found["complete"], found["verdicts"]) == (1, 1, {"dislike": 1, "like": 1})


async def test_a_verdict_said_again_replaces_and_a_skip_gives_the_record_back(studio: Rig) -> None:
    made = await labelling(studio, sample=1)
    async with await person(studio, "mia") as mia, await person(studio, "tom") as tom:
        item = await take(mia)
        assert item is not None
        await say(mia, item, verdict="like")
        await say(mia, item, verdict="dislike")
        assert (await say(mia, item, skip=True, comment="cannot tell"))["skipped"]
        assert await take(mia) is None
        other = await take(tom)
        assert other is not None
        assert other["record"] == item["record"]
        await say(tom, other, verdict="like")
        said = (await tom.get(f"{PATH}/review/judgements")).json()["data"]
    assert [(one["labeller"], one["verdict"], one["skipped"]) for one in said] == [
        ("mia", None, True), ("tom", "like", False),
    ]  # fmt: skip
    assert (await studio.said(made["id"])).count("labelling.finished") == 1


async def test_pairs_are_shown_under_letters_and_kept_in_the_order_of_the_dataset(studio: Rig) -> None:
    source = await dataset(studio, "pairs.jsonl", pairs(8))
    await labelling(studio, dataset=source, mode="pair", seed=3)
    letters = set[str]()
    async with await person(studio, "mia") as mia:
        while (item := await take(mia)) is not None:
            good = next(c["key"] for c in item["answers"] if c["messages"][0]["content"].startswith("good"))
            assert [c["key"] for c in item["answers"]] == ["a", "b"]
            letters.add(good)
            assert (await say(mia, item, verdict=good))["verdict"] == good
        said = (await mia.get(f"{PATH}/review/judgements")).json()["data"]
    assert letters == {"a", "b"}
    assert [one["verdict"] for one in said] == [Verdict.FIRST] * 8


async def test_two_datasets_with_the_same_prompts_make_pairs_and_others_are_refused(studio: Rig) -> None:
    mine, theirs = await dataset(studio, "a", talks(4)), await dataset(studio, "b", talks(4, answer="other"))
    fewer = await dataset(studio, "c", talks(3))
    made = await labelling(studio, dataset=mine, against=theirs, mode="pair")
    assert made["records"] == 4
    async with studio.http() as http:
        item = await take(http)
        assert item is not None
        shown = {candidate["messages"][0]["content"].split()[0] for candidate in item["answers"]}
        assert shown == {"answer", "other"}
        wrong = await http.post(PATH, json={"name": "x", "dataset": mine, "against": fewer, "mode": "pair"})
        assert (wrong.status_code, wrong.json()["error"]["code"]) == (400, "dataset_kind_unfit")
        kind = await http.post(PATH, json={"name": "x", "dataset": mine, "mode": "pair"})
        assert (kind.status_code, kind.json()["error"]["code"]) == (400, "dataset_kind_unfit")
        assert len((await http.get(PATH)).json()["data"]) == 1


async def test_records_can_be_kept_for_somebody(studio: Rig) -> None:
    await labelling(studio)
    async with studio.http() as http, await person(studio, "mia") as mia, await person(studio, "tom") as tom:
        kept = (await http.post(f"{PATH}/review/assignments", json={"user": "mia", "records": 5})).json()
        assert len(kept["records"]) == 5
        assert (await take(tom))["record"] not in kept["records"]  # pyright: ignore[reportOptionalSubscript]
        for record in kept["records"]:
            item = await take(mia)
            assert item is not None
            assert item["record"] == record
            await say(mia, item, verdict="like")


@pytest.mark.parametrize(
    ("said", "status", "code"),
    [
        ({"verdict": "a"}, 400, "verdict_invalid"), ({}, 400, "verdict_invalid"),
        ({"verdict": "like", "more": 1}, 400, None), ({"text": "x"}, 400, "verdict_invalid"),
    ],
)  # fmt: skip
async def test_a_wrong_verdict_changes_nothing(
    studio: Rig, said: dict[str, Any], status: int, code: str | None
) -> None:
    await labelling(studio)
    async with studio.http() as http:
        item = await take(http)
        assert item is not None
        answer = await http.post(f"{PATH}/review/records/{item['record']}/verdict", json=said)
        assert answer.status_code == status
        assert code is None or answer.json()["error"]["code"] == code
        assert (await http.get(f"{PATH}/review/judgements")).json()["data"] == []


async def test_who_was_not_given_a_record_is_no_labeller_or_may_only_read_says_nothing(studio: Rig) -> None:
    await labelling(studio, labellers=["mia"])
    async with await person(studio, "mia") as mia, await person(studio, "tom") as tom:
        not_hers = await mia.post(f"{PATH}/review/records/0/verdict", json={"verdict": "like"})
        assert (not_hers.status_code, not_hers.json()["error"]["code"]) == (409, "not_assigned")
        stranger = await tom.post(f"{PATH}/review/next")
        assert (stranger.status_code, stranger.json()["error"]["code"]) == (403, "not_a_labeller")
    async with await person(studio, "sam", Role.READ) as sam:
        assert (await sam.post(f"{PATH}/review/next")).status_code == 403
        assert (await sam.get(f"{PATH}/review/agreement")).status_code == 200


async def test_a_closed_one_takes_nothing_more_and_a_deleted_one_is_gone(studio: Rig) -> None:
    made = await labelling(studio)
    async with studio.http() as http:
        item = await take(http)
        assert (await http.post(f"{PATH}/review/close")).json()["state"] == "closed"
        assert item is not None
        late = await http.post(f"{PATH}/review/records/{item['record']}/verdict", json={"verdict": "like"})
        assert (late.status_code, late.json()["error"]["code"]) == (409, "labelling_closed")
        assert (await http.delete(f"{PATH}/review")).json()["error"]["code"] == "confirm_missing"
        assert (await http.delete(f"{PATH}/review", params={"confirm": "DELETE"})).status_code == 200
        assert (await http.get(f"{PATH}/review")).status_code == 404
    assert await studio.said(made["id"]) == ["labelling.created", "labelling.closed", "labelling.deleted"]


async def test_a_dataset_stays_while_it_is_labelled(studio: Rig) -> None:
    made = await labelling(studio)
    async with studio.http() as http:
        kept = await http.delete(f"/api/v1/datasets/{made['dataset']}", params={"confirm": "DELETE"})
        assert (kept.status_code, kept.json()["error"]["details"]) == (409, [{"labelling": "review"}])
        await http.post(f"{PATH}/review/close")
        gone = await http.delete(f"/api/v1/datasets/{made['dataset']}", params={"confirm": "DELETE"})
        assert gone.status_code == 200
        late = await http.post(f"{PATH}/review/export", json={"name": "late"})
        assert (late.status_code, late.json()["error"]["code"]) == (409, "dataset_deleted")
        assert (await http.get(f"{PATH}/review/agreement")).status_code == 200


async def test_records_of_a_withdrawn_dataset_are_handed_to_nobody(studio: Rig) -> None:
    made = await labelling(studio)
    async with studio.http() as http:
        assert await take(http) is not None
        await http.post(f"/api/v1/datasets/{made['dataset']}/withdraw", json={"reason": "no consent"})
        wish = {"kind": "judge", "labelling": "review", "model": GALLERY_MODEL}
        refused = [
            await http.post(f"{PATH}/review/next"),
            await http.post(f"{PATH}/review/assignments", json={"user": "mia"}),
            await http.post(f"{PATH}/review/export", json={"name": "late"}),
            await http.post("/api/v1/tasks", json=wish),
        ]
        assert {answer.json()["error"]["code"] for answer in refused} == {"dataset_withdrawn"}
        unnamed = (await http.post(f"{PATH}/review/export", json={"name": ""})).json()["error"]
        assert (unnamed["code"], unnamed["param"]) == ("invalid_request", "name")


async def test_written_answers_become_a_dataset_of_messages(studio: Rig) -> None:
    source = (await labelling(studio, mode="write", sample=2))["dataset"]
    async with studio.http() as http:
        nothing = await http.post(f"{PATH}/review/export", json={"name": "answers"})
        assert (nothing.status_code, nothing.json()["error"]["code"]) == (409, "nothing_decided")
        while (item := await take(http)) is not None:
            assert item["answers"] == []
            await say(http, item, text=f"written {item['record']}")
        made = (await http.post(f"{PATH}/review/export", json={"name": "answers"})).json()
        content = await http.get(f"/v1/files/file-{made['id'].split('_')[1]}/content")
        graph = (await http.get(f"/api/v1/datasets/{made['id']}/lineage")).json()
    assert {"source": source, "target": made["id"], "role": "source"} in graph["edges"]
    lines = [json.loads(line)["messages"] for line in content.text.splitlines()]
    assert len(lines) == 2
    for messages in lines:
        number = messages[0]["content"].removeprefix("question ")
        assert messages == [turn("user", f"question {number}"), turn("assistant", f"written {number}")]


async def test_a_judge_says_its_part_beside_people_and_takes_nobodys_place(studio: Rig) -> None:
    made = await labelling(studio, sample=4, per_record=1)
    async with studio.http() as http:
        wish = {"kind": "judge", "labelling": "review", "model": GALLERY_MODEL, "records": 3}
        task = (await http.post("/api/v1/tasks", json=wish)).json()
        assert task["state"] == "created"  # the model is on its way
        await studio.work(TaskKind.IMPORT, TaskKind.VALIDATE)
        claim = await studio.claim(TaskKind.JUDGE)
        assert claim is not None
        assert isinstance(claim.spec, JudgeSpec)
        places = claim.spec.records
        assert len(places) == 3
        assert (claim.spec.mode, claim.spec.margin) == ("like", 0.05)
        output = JudgeOutput(verdicts={"like": places[:2], "dislike": places[2:]})
        report = Report(
            task_id=claim.task_id, attempt=claim.attempt, project=claim.project, worker="w", seq=1,
            phase=Phase.RUNNING, running_s=1, end=AttemptEnd(reason=EndReason.SUCCEEDED, output=output),
        )  # fmt: skip
        for _ in range(2):  # a report may come twice
            await studio.write(lambda tx: studio.studio.tasks.on_report(tx, report))
        found = (await http.get(f"{PATH}/review/agreement")).json()
        assert (found["judged"], found["complete"], found["verdicts"]) == (3, 0, {"dislike": 1, "like": 2})
        item = await take(http)
        assert item is not None
        rest = (await http.post("/api/v1/tasks", json={**wish, "name": "the rest"})).json()
        left = await studio.claim(TaskKind.JUDGE)
        assert left is not None
        assert left.task_id == rest["id"]
        assert isinstance(left.spec, JudgeSpec)
        assert not set(left.spec.records) & set(places)
    assert made["records"] == 4


async def test_a_judge_is_refused_where_there_is_nothing_for_it(studio: Rig) -> None:
    await labelling(studio, mode="write")
    async with studio.http() as http:
        wish = {"kind": "judge", "labelling": "review", "model": GALLERY_MODEL}
        written = await http.post("/api/v1/tasks", json=wish)
        assert (written.status_code, written.json()["error"]["code"]) == (400, "not_supported")
        await http.post(f"{PATH}/review/close")
        closed = await http.post("/api/v1/tasks", json=wish)
        assert (closed.status_code, closed.json()["error"]["code"]) == (409, "labelling_closed")
        missing = await http.post("/api/v1/tasks", json={**wish, "labelling": "other"})
        assert (missing.status_code, missing.json()["error"]["code"]) == (404, "labelling_not_found")


@pytest.mark.parametrize("mode", ["like", "pair"])
async def test_a_majority_becomes_a_dataset_and_split_votes_are_left_out(studio: Rig, mode: str) -> None:
    source = await dataset(studio, mode, pairs(3) if mode == "pair" else talks(3))
    await labelling(studio, dataset=source, mode=mode, per_record=2)
    async with await person(studio, "mia") as mia, await person(studio, "tom") as tom:
        for labeller in (mia, tom):
            while (item := await take(labeller)) is not None:
                good = next((c["key"] for c in item["answers"] if "good" in c["messages"][0]["content"]), "a")
                other = {"a": "b", "b": "a"}[good]
                agrees = item["record"] != 0 or labeller is mia
                said = {"pair": good if agrees else other, "like": "like" if agrees else "dislike"}[mode]
                await say(labeller, item, verdict=said)
        made = (await mia.post(f"{PATH}/review/export", json={"name": "decided", "minimum": 2})).json()
        content = await mia.get(f"/v1/files/file-{made['id'].split('_')[1]}/content")
    claim = await studio.claim(TaskKind.INGEST)
    assert claim is not None
    assert isinstance(claim.spec, IngestSpec)
    assert claim.spec.format == {"pair": "preference", "like": "feedback"}[mode]
    answers = {
        "pair": lambda n: {"chosen": [turn("assistant", f"good {n}")], "rejected": [turn("assistant", f"bad {n}")]},
        "like": lambda n: {"completion": [turn("assistant", f"answer {n}")], "label": True},
    }[mode]
    assert [json.loads(line) for line in content.text.splitlines()] == [
        {"prompt": [turn("user", f"question {n}")], **answers(n)} for n in (1, 2)
    ]
