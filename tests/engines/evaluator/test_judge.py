"""The judging engine: its verdicts against figures computed by hand, its manners, both kinds of judges."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForSequenceClassification

from finery_contracts.canonical import Shown
from finery_contracts.jobs import JobResult, JudgeOutput, JudgeSpec
from finery_evaluator.engine.judge import Item, main, question

MakeJob = Callable[..., Path]
ResultOf = Callable[[Path], JobResult]


def turn(role: str, content: str) -> dict[str, str]:
    return {"role": role, "content": content}


def items(folder: Path, *answers: tuple[str, ...]) -> dict[str, Any]:
    """What names the records of a file: each tuple holds the answers to one question; ten more lie before them."""
    rows = [_row(f"question {n}", texts) for n, texts in enumerate(answers)]
    path = folder / "records.parquet"
    pq.write_table(pa.Table.from_pylist(rows[:1] * 10 + rows), path, row_group_size=4)
    return {"dataset": str(path), "records": list(range(10, 10 + len(rows)))}


def _row(asked: str, texts: tuple[str, ...]) -> dict[str, Any]:
    turns = [turn("assistant", text) for text in texts]
    both = {"chosen": turns[:1], "rejected": turns[1:]} if len(turns) > 1 else {"chosen": None, "rejected": None}
    return {"messages": [turn("user", asked), *(() if len(turns) > 1 else turns)], **both}


def verdicts_of(folder: Path) -> dict[int, dict[str, Any]]:
    lines = (folder / "out" / "verdicts.jsonl").read_text().splitlines()
    return {line["record"]: line for line in map(json.loads, lines)}


def test_a_pair_is_asked_in_both_orders_and_the_share_is_that_of_the_models_own_logits(
    tiny_model: Path, tmp_path: Path, engine_job: MakeJob, result_of: ResultOf
) -> None:
    texts = [("red", "blue and green"), ("one two three", "four")]
    spec = JudgeSpec(
        model=str(tiny_model), **items(tmp_path, *texts), mode="pair", guidelines="Be brief.", margin=0,
        batch_size=3,
    )  # fmt: skip
    folder = engine_job(spec)

    assert main([str(folder)]) == 0

    model = AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    said = verdicts_of(folder)
    for n, pair in enumerate(texts):
        shares = []
        for order in (pair, tuple(reversed(pair))):
            asked = (
                f"Be brief.\n\nConversation:\nuser: question {n}\n\nAnswer A:\n{order[0]}\n\nAnswer B:\n{order[1]}\n\n"
                "Which answer is better? Reply with one letter, A or B."
            )
            ids = tokenizer.apply_chat_template(
                [turn("user", asked)], add_generation_prompt=True, return_tensors="pt", return_dict=True
            )["input_ids"]
            odds = model(ids).logits[0, -1].detach().float().exp()
            a, b = (sum(float(odds[tokenizer.encode(form)[0]]) for form in (w, f" {w}")) for w in "AB")
            shares.append(a / (a + b))
        expected = (shares[0] + 1 - shares[1]) / 2
        assert said[10 + n]["share"] == pytest.approx(expected, abs=2e-2)  # the engine may compute in bf16
        assert said[10 + n]["verdict"] == ("first" if said[10 + n]["share"] > 0.5 else "second")
    output = result_of(folder).output
    assert isinstance(output, JudgeOutput)
    assert sorted(output.verdicts["first"] + output.verdicts["second"]) == [10, 11]


def test_answers_that_are_alike_are_a_tie_and_the_batch_changes_nothing(
    tiny_model: Path, tmp_path: Path, engine_job: MakeJob
) -> None:
    path = items(tmp_path, ("same", "same"), ("x", "a much longer answer than the other one"), ("same", "same"))
    shares = []
    for batch_size in (1, 6):
        folder = engine_job(JudgeSpec(model=str(tiny_model), **path, mode="pair", batch_size=batch_size))
        assert main([str(folder)]) == 0
        said = verdicts_of(folder)
        assert [said[record]["verdict"] for record in (10, 12)] == ["tie", "tie"]
        told = [json.loads(line) for line in (folder / "progress.jsonl").read_text().splitlines()]
        assert [line["eta_s"] >= 0 for line in told if line.get("eta_s") is not None] == [True] * (6 // batch_size)
        shares.append([said[record]["share"] for record in (10, 11, 12)])
    assert shares[0] == pytest.approx(shares[1], abs=1e-2)


def test_what_the_model_cannot_take_gets_no_verdict_and_is_counted(
    tiny_model: Path, tmp_path: Path, engine_job: MakeJob, result_of: ResultOf
) -> None:
    path = items(tmp_path, ("short",), ("word " * 600,))
    folder = engine_job(JudgeSpec(model=str(tiny_model), **path, mode="like"))
    assert main([str(folder)]) == 0
    output = result_of(folder).output
    assert isinstance(output, JudgeOutput)
    assert output.too_long == 1
    assert output.verdicts["like"] + output.verdicts["dislike"] == [10]


def reward_model(folder: Path, tokenizer: Path, *, scores: int = 1) -> Path:
    torch.manual_seed(1)
    config = LlamaConfig(
        vocab_size=49152, hidden_size=32, intermediate_size=64, num_hidden_layers=1, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=512, num_labels=scores, pad_token_id=2,
    )  # fmt: skip
    LlamaForSequenceClassification(config).save_pretrained(folder)
    shutil.copytree(tokenizer, folder, dirs_exist_ok=True)
    return folder


def test_a_reward_model_prefers_what_it_scores_higher(
    smollm2_tokenizer: Path, tmp_path: Path, engine_job: MakeJob
) -> None:
    model_folder = reward_model(tmp_path / "reward", smollm2_tokenizer)
    texts = [("red", "blue and green"), ("one two three", "four"), ("alike", "alike")]
    path = items(tmp_path, *texts)
    folder = engine_job(JudgeSpec(model=str(model_folder), **path, mode="pair", margin=0))

    assert main([str(folder)]) == 0

    model = LlamaForSequenceClassification.from_pretrained(model_folder, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(model_folder)
    said = verdicts_of(folder)
    assert said[12]["verdict"] == "tie"
    for n, pair in enumerate(texts[:2]):
        first, second = (
            model(tokenizer.apply_chat_template(
                [turn("user", f"question {n}"), turn("assistant", text)], return_tensors="pt", return_dict=True,
            )["input_ids"]).logits.item()
            for text in pair
        )  # fmt: skip
        assert said[10 + n]["share"] == pytest.approx(1 / (1 + math.exp(second - first)), abs=2e-2)


@pytest.mark.parametrize("damage", ["scores", "file", "answers"])
def test_what_cannot_judge_or_be_judged_is_refused(
    smollm2_tokenizer: Path, tmp_path: Path, engine_job: MakeJob, result_of: ResultOf, damage: str
) -> None:
    model = reward_model(tmp_path / "reward", smollm2_tokenizer, scores=2 if damage == "scores" else 1)
    path = items(tmp_path, ("one",) if damage == "answers" else ("one", "two"))
    if damage == "file":
        Path(path["dataset"]).write_text("{")
    folder = engine_job(JudgeSpec(model=str(model), **path, mode="pair"))
    assert main([str(folder)]) == 2
    error = result_of(folder).error
    assert error is not None
    codes = {"scores": "judge_unfit", "file": "canonical_file_unreadable", "answers": "dataset_kind_unfit"}
    assert error.code == codes[damage]


def test_a_question_holds_the_guidelines_the_talk_and_the_answers_in_their_order() -> None:
    answers = ([turn("assistant", "one")], [turn("assistant", "two")])
    item = Item(1, Shown([turn("system", "S"), turn("user", "U")], answers, []))
    text = question(item, JudgeSpec(model="m", dataset="d", records=[1], mode="pair", guidelines="G"), swapped=True)
    assert [text.index(part) for part in ("G", "system: S", "user: U", "A:\ntwo", "B:\none", "A or B")] == sorted(
        text.index(part) for part in ("G", "system: S", "user: U", "A:\ntwo", "B:\none", "A or B")
    )
