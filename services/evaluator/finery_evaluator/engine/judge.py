"""Has a model say which answers are good: ``python -m finery_evaluator.engine.judge JOB_DIR``, spec JudgeSpec.

A model that writes is asked and its two possible words are compared, a pair in both orders, because such judges favour
a place (Zheng et al. 2023, arXiv:2306.05685, section 3.3). A reward model scores. Nothing is generated or sampled, so
the same model says the same again. It refuses reward models with more than one score.
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
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import repeat
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from transformers import AutoModelForSequenceClassification, PreTrainedTokenizerBase

from finery_contracts.canonical import COLUMNS, Shown, shown
from finery_contracts.errors import DataInvalid, InvalidRequest, WeightsInvalid
from finery_contracts.jobs import JudgeOutput, JudgeSpec, Phase
from finery_contracts.labelling import LabelMode
from finery_ml.conversation import check_template
from finery_ml.job import JobFolder, Terminated, run, write_atomically
from finery_ml.loading import DTYPES, apply_adapter, choose_device, choose_precision, load_model, load_tokenizer

_QUESTIONS = {
    "like": "Is this a good answer? Reply with one word, yes or no.",
    "pair": "Which answer is better? Reply with one letter, A or B.",
}
_BATCH_ROWS = 256
_WORDS = {"like": ("yes", "no"), "pair": ("A", "B")}


@dataclass(frozen=True)
class Item:
    """One record that is to be judged."""

    record: int
    shown: Shown


@dataclass(frozen=True)
class Ask:
    """A text for the model. ``swapped``: the second answer stands first in it, or it is the second answer's own."""

    item: Item
    swapped: bool
    ids: list[int]


def main(argv: list[str] | None = None) -> int:
    """Run one job folder; returns the exit status."""
    return run(judge, argv)


def judge(work: JobFolder) -> JudgeOutput:
    """Load, ask, compare, save."""
    spec = work.job.spec
    if not isinstance(spec, JudgeSpec):
        raise InvalidRequest(f"This engine judges; it cannot {spec.kind}.", code="wrong_engine", param="kind")
    torch.set_num_threads(work.job.threads)
    work.progress(message="loading the model")
    items = list(read_items(spec))
    tokenizer = load_tokenizer(Path(spec.model))
    check_template(tokenizer)
    with work.span("load"):
        model, score = _reward_model(spec) if is_reward_model(Path(spec.model)) else _writer(spec, tokenizer)
    writes = not is_reward_model(Path(spec.model))
    asks = [ask for item in items for ask in _asks(item, spec, tokenizer, writes=writes)]
    room = getattr(model.config.get_text_config(), "max_position_embeddings", None) or sys.maxsize
    fit = [ask for ask in asks if len(ask.ids) <= room]
    with work.span("judge", records=len(items)):
        scores = _scores(work, spec, fit, model=model, filler=tokenizer.pad_token_id, score=score)
    return _save(work, spec, items, scores=scores, writes=writes)


def read_items(spec: JudgeSpec) -> Iterator[Item]:
    """The records, in the order of the file; raises DataInvalid ``canonical_file_unreadable``."""
    wanted, mode = set(spec.records), LabelMode(spec.mode)
    mine, theirs = _rows(Path(spec.dataset)), _rows(Path(spec.against)) if spec.against else repeat(None)
    for place, (row, other) in enumerate(zip(mine, theirs, strict=False)):
        if place in wanted:
            yield Item(place, shown(row, other, mode, place=place))


def _rows(path: Path) -> Iterator[dict[str, Any]]:
    try:
        with pq.ParquetFile(path) as file:
            columns = [name for name in COLUMNS if name in file.schema_arrow.names]
            for batch in file.iter_batches(_BATCH_ROWS, columns=columns):
                yield from batch.to_pylist()
    except (pa.ArrowException, OSError) as fault:
        raise DataInvalid(
            f"{path.name} cannot be read as canonical Parquet ({fault}); ingest the data set again.",
            code="canonical_file_unreadable", param=path.name,
        ) from fault  # fmt: skip


def is_reward_model(folder: Path) -> bool:
    """By the architecture that its config.json names."""
    try:
        named = json.loads((folder / "config.json").read_text()).get("architectures") or []
    except (OSError, ValueError, AttributeError):
        return False
    return any(str(name).endswith("ForSequenceClassification") for name in named)


def question(item: Item, spec: JudgeSpec, *, swapped: bool) -> str:
    """What a model that writes is asked."""
    said = "\n\n".join(f"{message['role']}: {message.get('content') or ''}" for message in item.shown.prompt)
    answers = ["\n\n".join(str(m.get("content") or "") for m in answer) for answer in item.shown.answers]
    if swapped:
        answers.reverse()
    names = ["Answer"] if spec.mode == "like" else ["Answer A", "Answer B"]
    parts = [spec.guidelines, f"Conversation:\n{said}", *(f"{n}:\n{a}" for n, a in zip(names, answers, strict=True))]
    return "\n\n".join([part for part in parts if part] + [_QUESTIONS[spec.mode]])


def _asks(item: Item, spec: JudgeSpec, tokenizer: PreTrainedTokenizerBase, *, writes: bool) -> Iterator[Ask]:
    for swapped in (False, True)[: len(item.shown.answers)]:
        if writes:
            messages = [{"role": "user", "content": question(item, spec, swapped=swapped)}]
        else:
            messages = [*item.shown.prompt, *item.shown.answers[swapped]]
        text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=writes)
        yield Ask(item, swapped, tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])


Score = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
"""Ids and mask (rows, longest), padded on the left → a figure a row."""


def _writer(spec: JudgeSpec, tokenizer: PreTrainedTokenizerBase) -> tuple[Any, Score]:
    """A figure is the log-odds of the first word against the second one."""
    device = choose_device()
    model: Any = load_model(Path(spec.model), dtype=DTYPES[choose_precision("auto", device)], device=device)
    if spec.adapter:
        model = apply_adapter(model, Path(spec.adapter), trainable=False).merge_and_unload()
    first, second = (_first_tokens(tokenizer, word) for word in _WORDS[spec.mode])
    if set(first) & set(second):
        raise WeightsInvalid(
            f"The model's tokenizer writes {' and '.join(_WORDS[spec.mode])} with the same first token, so its choice "
            "cannot be read; take another judge.",
            code="judge_unfit", param="model",
        )  # fmt: skip

    def score(ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        places = (mask.cumsum(-1) - 1).clamp(min=0)
        logits = model(input_ids=ids, attention_mask=mask, position_ids=places, logits_to_keep=1).logits[:, -1].float()
        return logits[:, first].logsumexp(-1) - logits[:, second].logsumexp(-1)

    return model.eval(), score


def _reward_model(spec: JudgeSpec) -> tuple[Any, Score]:
    """A figure is the model's own score."""
    device = choose_device()
    dtype = DTYPES[choose_precision("auto", device)]
    model: Any = AutoModelForSequenceClassification.from_pretrained(
        spec.model, dtype=dtype, local_files_only=True, trust_remote_code=False, use_safetensors=True
    ).to(device)
    if model.config.num_labels != 1:
        raise WeightsInvalid(
            f"The model gives {model.config.num_labels} scores; a reward model gives one.", code="judge_unfit",
            param="model",
        )  # fmt: skip
    if spec.adapter:
        model = apply_adapter(model, Path(spec.adapter), trainable=False).merge_and_unload()

    def score(ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        return model(input_ids=ids, attention_mask=mask).logits[:, 0].float()

    return model.eval(), score


def _first_tokens(tokenizer: PreTrainedTokenizerBase, word: str) -> list[int]:
    """The tokens that may begin the word: as it is, with a space, with a capital."""
    forms = {form for text in (word, word.capitalize()) for form in (text, f" {text}")}
    return sorted({tokenizer(form, add_special_tokens=False)["input_ids"][0] for form in forms})


@torch.inference_mode()
def _scores(
    work: JobFolder, spec: JudgeSpec, asks: Sequence[Ask], *, model: Any, filler: int, score: Score
) -> dict[tuple[int, bool], float]:
    """By record and order, in batches of like length, the longest first."""
    model.config.pad_token_id = filler
    work.progress(phase=Phase.RUNNING, total=len(asks))
    by_length, found, started = (
        sorted(asks, key=lambda ask: -len(ask.ids)),
        dict[tuple[int, bool], float](),
        time.monotonic(),
    )
    for at in range(0, len(by_length), spec.batch_size):
        if work.stop_requested.is_set():
            raise Terminated
        batch = by_length[at : at + spec.batch_size]
        longest = len(batch[0].ids)
        ids = torch.tensor([[filler] * (longest - len(ask.ids)) + ask.ids for ask in batch])
        mask = torch.tensor([[0] * (longest - len(ask.ids)) + [1] * len(ask.ids) for ask in batch])
        values = score(ids.to(model.device), mask.to(model.device)).tolist()
        found |= {(ask.item.record, ask.swapped): value for ask, value in zip(batch, values, strict=True)}
        done = at + len(batch)
        each_s = (time.monotonic() - started) / done
        work.progress(step=done, total=len(asks), eta_s=each_s * (len(asks) - done))
    return found


def _save(
    work: JobFolder, spec: JudgeSpec, items: Sequence[Item], *, scores: dict[tuple[int, bool], float], writes: bool
) -> JudgeOutput:
    verdicts: dict[str, list[int]] = {name: [] for name in _verdicts_of(spec)}
    lines = []
    for item in items:
        figures = [scores.get((item.record, swapped)) for swapped in (False, True)[: len(item.shown.answers)]]
        if any(figure is None for figure in figures):
            continue
        share = _share([figure for figure in figures if figure is not None], writes=writes)
        verdict = _verdict(spec, share)
        verdicts[verdict].append(item.record)
        lines.append(json.dumps({"record": item.record, "verdict": verdict, "share": round(share, 6)}))
    write_atomically(work.out / "verdicts.jsonl", "".join(f"{line}\n" for line in lines))
    return JudgeOutput(verdicts=verdicts, too_long=len(items) - len(lines))


def _share(figures: Sequence[float], *, writes: bool) -> float:
    """How far it is for the first answer, 0 to 1: sigmoid of the log-odds, or of the difference of two rewards."""
    shares = torch.tensor(figures).sigmoid().tolist()
    if len(figures) == 1:
        return shares[0]
    if writes:
        return (shares[0] + 1 - shares[1]) / 2
    return torch.tensor(figures[0] - figures[1]).sigmoid().item()


def _verdicts_of(spec: JudgeSpec) -> tuple[str, ...]:
    return ("like", "dislike") if spec.mode == "like" else ("first", "second", "tie")


def _verdict(spec: JudgeSpec, share: float) -> str:
    if spec.mode == "like":
        return "like" if share > 0.5 else "dislike"
    if abs(share - 0.5) <= spec.margin:
        return "tie"
    return "first" if share > 0.5 else "second"


if __name__ == "__main__":
    sys.exit(main())
