"""The evaluation engine: on a tiny random model for its manners, on SmolLM2 for whether tuning is seen."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from finery_contracts.jobs import EvaluateOutput, EvaluateSpec, JobResult, TuneSpec
from finery_contracts.tuning import TuneParameters
from finery_evaluator.engine.answers import Question, generate, main
from finery_ml.loading import load_model, load_tokenizer
from finery_trainer.engine.sft import main as tune

MakeParquet = Callable[..., Path]
MakeJob = Callable[..., Path]
ResultOf = Callable[[Path], JobResult]
ProgressOf = Callable[[Path], list[dict[str, Any]]]


def asked(text: str, answer: str) -> dict[str, Any]:
    """One question and what is expected."""
    return {"messages": [{"role": "user", "content": text}, {"role": "assistant", "content": answer}]}


def samples_of(folder: Path) -> list[dict[str, Any]]:
    """out/samples.jsonl."""
    return [json.loads(line) for line in (folder / "out" / "samples.jsonl").read_text().splitlines()]


def test_every_sample_is_kept_in_the_order_of_the_set_with_its_prompt(
    tiny_model: Path, canonical: MakeParquet, engine_job: MakeJob, result_of: ResultOf, progress_of: ProgressOf
) -> None:
    # given three to answer, one without an answer, one longer than the model takes
    records = [asked("word " * n, "yes") for n in (3, 9, 1)]
    records += [{"messages": [{"role": "user", "content": "?"}]}, asked("word " * 600, "no")]
    spec = EvaluateSpec(model=str(tiny_model), dataset=str(canonical(records)), max_tokens=4, batch_size=2)
    folder = engine_job(spec)
    # when
    assert main([str(folder)]) == 0
    # then
    output = result_of(folder).output
    assert isinstance(output, EvaluateOutput)
    assert (output.samples, output.metrics["skipped_without_answer"], output.metrics["skipped_too_long"]) == (3, 1, 1)
    samples = samples_of(folder)
    assert [(sample["index"], sample["line"], sample["expected"]) for sample in samples] == [
        (0, 1, "yes"), (1, 2, "yes"), (2, 3, "yes"),
    ]  # fmt: skip
    assert samples[2]["prompt"] == [{"role": "user", "content": "word "}]
    assert output.metrics["accuracy"] == sum(sample["correct"] for sample in samples) / 3
    lines = progress_of(folder)
    assert [line["step"] for line in lines if line.get("step")] == [2, 3]
    assert lines[-1]["total"] == 3


def test_only_the_last_answer_is_asked_for(tiny_model: Path, canonical: MakeParquet, engine_job: MakeJob) -> None:
    messages = [*asked("One?", "1")["messages"], *asked("Two?", "2")["messages"], {"role": "user", "content": "bye"}]
    folder = engine_job(EvaluateSpec(model=str(tiny_model), dataset=str(canonical([{"messages": messages}]))))
    assert main([str(folder)]) == 0
    [sample] = samples_of(folder)
    assert [message["content"] for message in sample["prompt"]] == ["One?", "1", "Two?"]
    assert sample["expected"] == "2"


def test_a_set_without_any_expected_answer_is_refused(
    tiny_model: Path, canonical: MakeParquet, engine_job: MakeJob, result_of: ResultOf
) -> None:
    records = [{"messages": [{"role": "user", "content": "?"}]}]
    folder = engine_job(EvaluateSpec(model=str(tiny_model), dataset=str(canonical(records))))
    assert main([str(folder)]) == 2
    error = result_of(folder).error
    assert error is not None
    assert (error.code, error.param) == ("nothing_to_evaluate", "dataset")


def test_an_answer_does_not_hang_on_the_batch_it_is_in(smollm2: Path) -> None:
    # given two prompts of unlike length
    tokenizer = load_tokenizer(smollm2)
    model = load_model(smollm2, dtype=torch.float32, device=torch.device("cpu"))
    texts = ["The capital of France is", "One, two, three, four, five, six, seven, eight, nine, ten, eleven,"]
    questions = [
        Question(index=place, line=place, prompt=[], prompt_ids=tokenizer(text)["input_ids"], expected="")
        for place, text in enumerate(texts)
    ]
    config = model.generation_config
    config.max_new_tokens, config.do_sample, config.eos_token_id, config.pad_token_id = 8, False, [2], 2
    # when
    together = generate(model, questions, config=config)
    alone = [generate(model, [question], config=config)[0] for question in questions]
    # then
    assert together == alone
    assert "Paris" in tokenizer.decode(together[0])


@pytest.mark.engine
def test_smollm2_learns_labels_it_could_not_know_and_the_evaluation_sees_it(
    smollm2: Path, canonical: MakeParquet, engine_job: MakeJob, result_of: ResultOf
) -> None:
    # given
    labels = {"Where is my parcel?": "track_order", "I want my money back.": "refund_status",
              "My card was declined.": "payment_failed", "The cup came broken.": "damaged_item"}  # fmt: skip
    data = canonical([asked(text, label) for text, label in labels.items()] * 2)
    parameters = TuneParameters(epochs=None, iterations=12, learning_rate=2e-3, batch_size=4)
    tuning = engine_job(TuneSpec(model=str(smollm2), train=str(data), parameters=parameters))
    before = engine_job(EvaluateSpec(model=str(smollm2), dataset=str(data), max_tokens=8))
    after = engine_job(
        EvaluateSpec(model=str(smollm2), adapter=str(tuning / "out" / "adapter"), dataset=str(data), max_tokens=8)
    )
    # when
    assert [main([str(before)]), tune([str(tuning)]), main([str(after)])] == [0, 0, 0]
    # then
    assert result_of(before).output.metrics["accuracy"] == 0.0
    output = result_of(after).output
    assert (output.metrics["accuracy"], output.metrics["macro_f1"]) == (1.0, 1.0)
    assert [(score.label, score.support) for score in output.per_class] == [
        (label, 2) for label in sorted(labels.values())
    ]
