"""Token counts: what the tokenizer and the template say, and what the trainer would cut."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from canonical_builders import canonical_file, chat, pair, text, turn

from finery_contracts.jobs import EngineJob, JobResult
from finery_contracts.preparing import CountSpec
from finery_dataset_ingest.engine import count


def counted(folder: Path, model: Path, records: list[dict[str, Any]], *, max_length: int = 64, holds: str = "messages"):
    folder.mkdir()
    path = canonical_file(folder / "records.parquet", records, holds=holds)
    spec = CountSpec(model=str(model), dataset=str(path), max_length=max_length)
    job = EngineJob(task_id="t", attempt=1, project_id="p", spec=spec)
    (folder / "job.json").write_text(job.model_dump_json())
    count.main([str(folder)])
    result = JobResult.model_validate_json((folder / "result.json").read_bytes())
    rows = pq.read_table(folder / "out" / "tokens.parquet").to_pylist() if result.output else []
    return result, rows


@pytest.fixture(scope="module")
def tokenizer(smollm2_tokenizer: Path) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(smollm2_tokenizer)


def test_counts_are_those_of_the_template_and_cuts_those_of_the_length(
    tmp_path: Path, smollm2_tokenizer: Path, tokenizer: Any
) -> None:
    records = [chat("word " * (7 * n), "An answer. " * (n % 5 + 1)) for n in range(30)]
    result, rows = counted(tmp_path / "job", smollm2_tokenizer, records)
    lengths = [len(tokenizer.apply_chat_template(r["messages"], tokenize=True, return_dict=False)) for r in records]
    assert [row["tokens"] for row in rows] == lengths
    assert [row["truncated"] for row in rows] == [length > 64 for length in lengths]
    output: Any = result.output
    cut = [min(length, 64) for length in lengths]
    assert (output.records, output.tokens, output.tokens_per_epoch) == (30, sum(lengths), sum(cut))
    assert (output.truncated_records, output.lost_tokens) == (sum(n > 64 for n in lengths), sum(lengths) - sum(cut))
    assert output.truncated_share == pytest.approx(output.truncated_records / 30)
    ranked = sorted(lengths)
    assert output.percentiles == {f"p{p}": ranked[math.ceil(30 * p / 100) - 1] for p in (50, 90, 95, 99)}
    assert output.longest == max(lengths)
    assert sum(bucket.records for bucket in output.histogram) == 30
    assert all(b.up_to_tokens & (b.up_to_tokens - 1) == 0 for b in output.histogram)


def test_only_answers_train_and_what_is_cut_off_does_not(
    tmp_path: Path, smollm2_tokenizer: Path, tokenizer: Any
) -> None:
    records = [chat("a", "Seven little words stand in this answer"), chat("word " * 100, "cut off")]
    silent = {
        "messages": [
            turn("user", "a"),
            turn("assistant", "said before", weight=0),
            turn("user", "b"),
            turn("assistant", "ok"),
        ]
    }
    result, rows = counted(tmp_path / "job", smollm2_tokenizer, [*records, silent])
    answers = ["Seven little words stand in this answer<|im_end|>", "", "ok<|im_end|>"]
    assert [row["trained_tokens"] for row in rows] == [len(tokenizer(said)["input_ids"]) for said in answers]
    output: Any = result.output
    assert (output.trained_tokens, output.untrained_records) == (sum(row["trained_tokens"] for row in rows), 1)


def test_a_preference_is_two_conversations_and_text_has_an_end(
    tmp_path: Path, smollm2_tokenizer: Path, tokenizer: Any
) -> None:
    _, rows = counted(tmp_path / "pairs", smollm2_tokenizer, [pair("q", "good one", "bad")], holds="preference")
    both = [[turn("user", "q"), turn("assistant", said)] for said in ("good one", "bad")]
    lengths = [len(tokenizer.apply_chat_template(side, tokenize=True, return_dict=False)) for side in both]
    assert rows[0]["tokens"] == sum(lengths)
    _, rows = counted(tmp_path / "texts", smollm2_tokenizer, [text("some plain words")], holds="text")
    assert rows[0]["tokens"] == len(tokenizer("some plain words")["input_ids"]) + 1


def test_a_record_that_the_template_refuses_is_counted_apart_and_says_why(
    tmp_path: Path, smollm2_tokenizer: Path
) -> None:
    tools = {**chat("a"), "tools": '[{"type": "function", "function": {"name": "f"}}]'}
    result, rows = counted(tmp_path / "job", smollm2_tokenizer, [chat("a"), tools, chat("b")])
    assert [row["refused"] is None for row in rows] == [True, False, True]
    assert rows[1]["refused"].startswith("template_without_tools: ")
    output: Any = result.output
    assert (output.records, output.refused_records) == (3, 1)
    assert output.warnings[0] == "1 records are refused by the chat template: template_without_tools."
