"""Answers every record and compares: ``python -m finery_evaluator.engine.answers JOB_DIR``, spec EvaluateSpec.

The prompt is everything before a record's last assistant message, that message is what is expected. Answers are
greedy, so the same model gives the same figures. It refuses sets in which no record expects an answer.
"""

from __future__ import annotations

import os

# Read by libgomp, CUDA and the Hugging Face libraries when they are imported; a caller's own values stay.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "0")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")

import json
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase

from finery_contracts.errors import DataInvalid, InvalidRequest
from finery_contracts.jobs import EvaluateOutput, EvaluateSpec, Phase
from finery_evaluator.engine.scores import Answer, class_scores, metrics_of
from finery_ml.conversation import check_template, prompt_text
from finery_ml.job import JobFolder, Terminated, run, write_atomically
from finery_ml.loading import DTYPES, apply_adapter, choose_device, choose_precision, load_model, load_tokenizer
from finery_ml.records import Conversation, read_conversations


@dataclass(frozen=True, slots=True)
class Question:
    """One record to answer; ``index`` is its place among all records of the set, from 0."""

    index: int
    line: int
    prompt: list[dict[str, Any]]
    prompt_ids: list[int]
    expected: str


@dataclass(frozen=True)
class Questions:
    """What is asked, and what cannot be: records without an expected answer, prompts longer than the model takes."""

    asked: Sequence[Question]
    without_answer: int
    too_long: int


def main(argv: list[str] | None = None) -> int:
    """Run one job folder; returns the exit status."""
    return run(evaluate, argv)


def evaluate(work: JobFolder) -> EvaluateOutput:
    """Load, ask, compare, save."""
    spec = work.job.spec
    if not isinstance(spec, EvaluateSpec):
        raise InvalidRequest(f"This engine evaluates; it cannot {spec.kind}.", code="wrong_engine", param="kind")
    torch.set_num_threads(work.job.threads)
    work.progress(message="loading the model")
    with work.span("load"):
        tokenizer = load_tokenizer(Path(spec.model))
        check_template(tokenizer)
        model = load(spec)
    with work.span("tokenize") as facts:
        questions = read_questions(work, spec, tokenizer, room=room_of(model, spec))
        facts.update(samples=len(questions.asked), skipped=questions.without_answer + questions.too_long)
    with work.span("generate") as facts:
        started, generated = time.monotonic(), 0
        answers: dict[int, Answer] = {}
        for question, text, tokens in ask(work, spec, model=model, tokenizer=tokenizer, questions=questions.asked):
            answers[question.index] = Answer(expected=question.expected, answer=text)
            generated += tokens
        took_s = time.monotonic() - started
        facts.update(tokens=generated)
    with work.span("save"):
        save_samples(work.out / "samples.jsonl", questions.asked, answers=answers, metric=spec.metric)
    return EvaluateOutput(
        metrics={
            **metrics_of(list(answers.values())),
            "tokens_per_s": generated / max(took_s, 1e-9),
            "skipped_without_answer": float(questions.without_answer),
            "skipped_too_long": float(questions.too_long),
        },
        per_class=class_scores(list(answers.values())),
        samples=len(answers),
    )


def load(spec: EvaluateSpec) -> PreTrainedModel:
    """The model with its adapter merged into the weights, ready to answer."""
    device = choose_device()
    model = load_model(Path(spec.model), dtype=DTYPES[choose_precision("auto", device)], device=device)
    if spec.adapter:
        model = apply_adapter(model, Path(spec.adapter), trainable=False).merge_and_unload()
    return model.eval()


def room_of(model: PreTrainedModel, spec: EvaluateSpec) -> int | None:
    """Tokens a prompt may have so that the answer still fits; None when the model states no limit."""
    longest = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    return None if longest is None else longest - spec.max_tokens


def read_questions(
    work: JobFolder, spec: EvaluateSpec, tokenizer: PreTrainedTokenizerBase, *, room: int | None
) -> Questions:
    """Every record that can be asked, in the set's order; raises DataInvalid ``nothing_to_evaluate``."""
    asked: list[Question] = []
    index = without_answer = too_long = 0
    for conversations in read_conversations(Path(spec.dataset)):
        if work.stop_requested.is_set():
            raise Terminated
        for conversation in conversations:
            question = _question_of(conversation, tokenizer, index=index)
            index += 1
            if question is None:
                without_answer += 1
            elif room is not None and len(question.prompt_ids) > room:
                too_long += 1
            else:
                asked.append(question)
    if not asked:
        raise DataInvalid(
            f"None of the {index} records can be evaluated: {without_answer} have no assistant's text after a prompt, "
            f"{too_long} are longer than the model takes. Add the expected answer as the last assistant message.",
            code="nothing_to_evaluate",
            param="dataset",
        )
    return Questions(asked, without_answer, too_long)


def ask(
    work: JobFolder,
    spec: EvaluateSpec,
    *,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    questions: Sequence[Question],
) -> Iterator[tuple[Question, str, int]]:
    """Question, answer and its length in tokens, in batches of like length, the longest first."""
    config = model.generation_config = GenerationConfig(
        max_new_tokens=spec.max_tokens,
        do_sample=False,
        eos_token_id=stop_tokens(model, tokenizer),
        pad_token_id=tokenizer.pad_token_id,
    )
    work.progress(phase=Phase.RUNNING, total=len(questions))
    by_length = sorted(questions, key=lambda question: -len(question.prompt_ids))
    started = time.monotonic()
    for at in range(0, len(by_length), spec.batch_size):
        if work.stop_requested.is_set():
            raise Terminated
        batch = by_length[at : at + spec.batch_size]
        for question, ids in zip(batch, generate(model, batch, config=config), strict=True):
            yield (
                question,
                tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False),
                len(ids),
            )
        done = at + len(batch)
        each_s = (time.monotonic() - started) / done
        work.progress(step=done, total=len(questions), eta_s=each_s * (len(questions) - done))


@torch.inference_mode()
def generate(model: PreTrainedModel, batch: Sequence[Question], *, config: GenerationConfig) -> list[list[int]]:
    """The new tokens of each question, up to and with its stop token."""
    longest = max(len(question.prompt_ids) for question in batch)
    padding = [longest - len(question.prompt_ids) for question in batch]
    filler = config.pad_token_id
    ids = torch.tensor([[filler] * pad + question.prompt_ids for pad, question in zip(padding, batch, strict=True)])
    mask = torch.tensor([[0] * pad + [1] * (longest - pad) for pad in padding])
    made = model.generate(input_ids=ids.to(model.device), attention_mask=mask.to(model.device))
    return [_until_stop(row, config.eos_token_id) for row in made[:, longest:].tolist()]


def stop_tokens(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Every token that ends an answer: the tokenizer's, and those of the model's own generation settings."""
    own = model.generation_config.eos_token_id if model.generation_config else None
    listed = own if isinstance(own, list) else [own]
    return sorted({token for token in (*listed, tokenizer.eos_token_id) if token is not None})


def save_samples(path: Path, questions: Sequence[Question], *, answers: dict[int, Answer], metric: str) -> None:
    """Write samples.jsonl in the set's order; ``correct`` goes by the metric that was asked for."""
    lines = []
    for question in questions:
        answer = answers[question.index]
        sample = {
            "index": question.index,
            "line": question.line,
            "prompt": question.prompt,
            "expected": question.expected,
            "answer": answer.answer,
            "correct": answer.exact if metric == "exact_match" else answer.accurate,
        }
        lines.append(json.dumps(sample, ensure_ascii=False))
    write_atomically(path, "\n".join(lines) + "\n")


def _question_of(conversation: Conversation, tokenizer: PreTrainedTokenizerBase, *, index: int) -> Question | None:
    turns = [turn for turn, message in enumerate(conversation.messages) if message.role == "assistant"]
    last = turns[-1] if turns else 0
    if last == 0 or not conversation.messages[last].content.strip():
        return None
    text = prompt_text(conversation, tokenizer, turns=last)
    return Question(
        index=index,
        line=conversation.line,
        prompt=[message.for_template() for message in conversation.messages[:last]],
        prompt_ids=tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"],
        expected=conversation.messages[last].content,
    )


def _until_stop(ids: list[int], stops: list[int]) -> list[int]:
    ends = [position for position, token in enumerate(ids) if token in stops]
    return ids[: ends[0] + 1] if ends else ids


if __name__ == "__main__":
    sys.exit(main())
