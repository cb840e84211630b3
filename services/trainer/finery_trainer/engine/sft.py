"""Supervised fine-tuning with LoRA: ``python -m finery_trainer.engine.sft JOB_DIR``, spec TuneSpec.

Reads canonical Parquet, trains on the assistant's answers alone, leaves a PEFT adapter in out/adapter/. It refuses
data without a single token to train on and a loss that is not a number.
"""

from __future__ import annotations

import os

# Read by libgomp, CUDA and the Hugging Face libraries when they are imported; a caller's own values stay.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "0")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")

import inspect
import random
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import PreTrainedModel, PreTrainedTokenizerBase, set_seed

from finery_contracts.errors import DataInvalid, InvalidRequest
from finery_contracts.jobs import TuneOutput, TuneSpec
from finery_contracts.tuning import TuneParameters
from finery_ml.checkpoints import verify_checkpoint
from finery_ml.conversation import Sample, check_template, encode
from finery_ml.job import JobFolder, Terminated, run
from finery_ml.loading import DTYPES, apply_adapter, choose_device, choose_precision, load_model, load_tokenizer
from finery_ml.records import read_conversations
from finery_trainer.engine.reporting import Interrupted, Reporter
from finery_trainer.engine.tuner import (
    STAGING,
    Tuner,
    arguments_of,
    build_tuner,
    loss_not_finite,
    rows_of,
    steps_per_epoch,
)

_EAGER_UP_TO = 256
"""Tokens. On a processor, up to this length plain attention makes a step a fifth faster than the fused kernel."""
_LAST_POINTS = 10


@dataclass(frozen=True)
class Data:
    """What is trained on and validated with; ``left_out`` counts samples without a token to train on."""

    train: Sequence[Sample]
    validation: Sequence[Sample]
    truncated: int
    left_out: int

    @property
    def longest(self) -> int:
        """Tokens of the longest sample."""
        return max(len(sample.input_ids) for sample in (*self.train, *self.validation))


def main(argv: list[str] | None = None) -> int:
    """Run one job folder; returns the exit status."""
    return run(tune, argv)


def tune(work: JobFolder) -> TuneOutput:
    """Load, prepare, train, save."""
    spec = work.job.spec
    if not isinstance(spec, TuneSpec):
        raise InvalidRequest(f"This engine tunes; it cannot {spec.kind}.", code="wrong_engine", param="kind")
    torch.set_num_threads(work.job.threads)
    work.progress(message="reading the data")
    with work.span("tokenize") as facts:
        tokenizer = load_tokenizer(Path(spec.model))
        check_template(tokenizer)
        data = prepare(work, spec, tokenizer)
        facts.update(samples=len(data.train), validation_samples=len(data.validation), truncated=data.truncated)
    work.progress(message=f"{len(data.train)} samples to train on, {data.left_out} left out; loading the model")
    device = choose_device()
    precision = choose_precision(spec.parameters.precision, device)
    with work.span("load", device=device.type, precision=precision):
        attention = "eager" if device.type == "cpu" and data.longest <= _EAGER_UP_TO else "sdpa"
        base = load_model(Path(spec.model), dtype=DTYPES[precision], device=device, attention=attention)
        model = with_adapter(base, spec)
    with work.span("train") as facts:
        output = train(work, spec.parameters, model=model, tokenizer=tokenizer, data=data, precision=precision)
        facts.update(steps=output.steps, tokens=output.trained_tokens)
    with work.span("save"):
        save_adapter(model, work.out / "adapter", step=output.steps)
    if work.stop_requested.is_set():
        raise Terminated(output)
    return output


def prepare(work: JobFolder, spec: TuneSpec, tokenizer: PreTrainedTokenizerBase) -> Data:
    """Both sets as tokens; without a validation set, a seeded share of the training set when one is asked for.

    Raises DataInvalid ``nothing_to_train`` when no sample has a token that trains.
    """
    parameters = spec.parameters
    train = read_samples(work, Path(spec.train), tokenizer, parameters=parameters, limit=parameters.max_samples)
    held = read_samples(work, Path(spec.validation), tokenizer, parameters=parameters) if spec.validation else []
    every = (*train, *held)
    kept, held = [sample for sample in train if sample.trains], [sample for sample in held if sample.trains]
    for name, usable, wanted in (("train", kept, True), ("validation", held, spec.validation is not None)):
        if wanted and not usable:
            raise DataInvalid(
                f"No record of the {name} set leaves a token to train on: each lacks an assistant's answer, gives it "
                f"weight 0, or has it beyond max_length ({parameters.max_length} tokens). Add answers, or raise "
                "max_length.",
                code="nothing_to_train",
                param=name,
            )
    if not held and parameters.validation_ratio > 0 and len(kept) > 1:
        kept, held = split(kept, ratio=parameters.validation_ratio, seed=parameters.seed)
    return Data(
        train=kept,
        validation=sorted(held, key=lambda sample: len(sample.input_ids)),
        truncated=sum(sample.truncated for sample in every),
        left_out=sum(not sample.trains for sample in every),
    )


def read_samples(
    work: JobFolder,
    path: Path,
    tokenizer: PreTrainedTokenizerBase,
    *,
    parameters: TuneParameters,
    limit: int | None = None,
) -> list[Sample]:
    """The samples of one file, in its order; leaves between batches when a stop was requested."""
    samples: list[Sample] = []
    for conversations in read_conversations(path, limit=limit):
        if work.stop_requested.is_set():
            raise Terminated
        samples += encode(conversations, tokenizer, max_length=parameters.max_length)
    return samples


def split(samples: Sequence[Sample], *, ratio: float, seed: int) -> tuple[list[Sample], list[Sample]]:
    """Training and validation part; each gets at least one sample and keeps the file's order."""
    count = min(max(round(len(samples) * ratio), 1), len(samples) - 1)
    held = set(random.Random(seed).sample(range(len(samples)), count))
    train = [sample for index, sample in enumerate(samples) if index not in held]
    return train, [samples[index] for index in sorted(held)]


def with_adapter(model: PreTrainedModel, spec: TuneSpec) -> PeftModel:
    """The base model, frozen, with a fresh adapter (or the given one) that trains in fp32.

    Raises InvalidRequest ``lora_targets_unknown``.
    """
    parameters = spec.parameters
    set_seed(parameters.seed)
    model.config.use_cache = False
    if spec.adapter:
        tuned = apply_adapter(model, Path(spec.adapter), trainable=True)
    else:
        targets = parameters.lora_targets
        if "lm_head" in targets:
            raise _targets_unknown(targets, "the output layer lm_head takes no adapter")
        config = LoraConfig(
            r=parameters.lora_rank,
            lora_alpha=parameters.lora_alpha,
            lora_dropout=parameters.lora_dropout,
            target_modules=targets,
            task_type="CAUSAL_LM",
        )
        try:
            tuned = get_peft_model(model, config)
        except ValueError as fault:
            raise _targets_unknown(targets, str(fault)) from fault
    for config in tuned.peft_config.values():
        config.base_model_name_or_path = Path(spec.model).name
    return tuned


def train(
    work: JobFolder,
    parameters: TuneParameters,
    *,
    model: PeftModel,
    tokenizer: PreTrainedTokenizerBase,
    data: Data,
    precision: str,
) -> TuneOutput:
    """All steps, from the beginning or from the job's checkpoint; returns early when a stop was requested.

    Raises InvalidRequest ``checkpoint_not_verified`` or ``loss_not_finite``.
    """
    resume = _newest_verified(work)
    epoch = steps_per_epoch(len(data.train), parameters)
    steps = parameters.iterations if parameters.iterations is not None else round(epoch * (parameters.epochs or 1))
    interval = parameters.checkpoint_interval or epoch
    if steps == 0 or work.stop_requested.is_set():
        return TuneOutput(steps=0, trained_tokens=0)
    staging = work.checkpoints / STAGING
    shutil.rmtree(staging, ignore_errors=True)
    device = next(model.parameters()).device
    tuner = build_tuner(
        model,
        tokenizer,
        train=rows_of(data.train),
        validation=rows_of(data.validation) if data.validation else None,
        arguments=arguments_of(parameters, staging, steps=steps, interval=interval, precision=precision, device=device),
        trained_logits_only="logits_to_keep" in inspect.signature(type(model.get_base_model()).forward).parameters,
    )
    reporter = Reporter(
        work=work,
        sequence_length=parameters.max_length,
        samples_per_step=parameters.batch_size * parameters.gradient_accumulation,
        interval=interval,
        keep_checkpoints=parameters.keep_checkpoints,
        validates=bool(data.validation),
    )
    tuner.add_callback(reporter)
    _run(tuner, reporter, resume=resume)
    shutil.rmtree(staging, ignore_errors=True)
    return _output_of(tuner, reporter, data=data)


def save_adapter(model: PeftModel, folder: Path, *, step: int) -> None:
    """Write the adapter beside and rename; raises ``loss_not_finite`` when training has left weights that are not."""
    if not all(torch.isfinite(weight).all() for weight in model.parameters() if weight.requires_grad):
        raise loss_not_finite(step)
    beside = folder.with_name(f".{folder.name}.part")
    shutil.rmtree(beside, ignore_errors=True)
    model.save_pretrained(beside, save_embedding_layers=False)
    (beside / "README.md").unlink(missing_ok=True)
    shutil.rmtree(folder, ignore_errors=True)
    os.replace(beside, folder)


def _run(tuner: Tuner, reporter: Reporter, *, resume: Path | None) -> None:
    """Train; a stop request that comes during validation still leaves a checkpoint of the step before it."""
    try:
        tuner.train(resume_from_checkpoint=str(resume) if resume else None)
    except Interrupted:
        tuner._save_checkpoint(tuner.model, trial=None)
        reporter.on_save(tuner.args, tuner.state, tuner.control)


def _output_of(tuner: Tuner, reporter: Reporter, *, data: Data) -> TuneOutput:
    """What the run left; ``train_loss`` is the mean of the last ten points, so it does not hang on one batch."""
    losses = [point["loss"] for point in tuner.state.log_history if "loss" in point][-_LAST_POINTS:]
    validation = [point["eval_loss"] for point in tuner.state.log_history if "eval_loss" in point][-1:]
    metrics = {
        "samples": len(data.train),
        "validation_samples": len(data.validation),
        "truncated_samples": data.truncated,
        "left_out_samples": data.left_out,
        "epochs": tuner.state.epoch or 0.0,
    }
    if losses:
        metrics["train_loss"] = sum(losses) / len(losses)
    if validation:
        metrics["validation_loss"] = validation[0]
    return TuneOutput(
        steps=tuner.state.global_step,
        trained_tokens=int(tuner.state.num_input_tokens_seen),
        metrics=metrics,
        checkpoints=reporter.checkpoints,
    )


def _newest_verified(work: JobFolder) -> Path | None:
    """A checkpoint that does not hold what its manifest promises is passed over, and said to be."""
    for folder in map(Path, work.job.resume_from):
        if verify_checkpoint(folder):
            return folder
        print(f"checkpoint {folder.name} does not hold what its manifest promises; an older one is taken", flush=True)
    return None


def _targets_unknown(targets: list[str] | str, reason: str) -> InvalidRequest:
    return InvalidRequest(
        f"LoRA cannot be put on {targets}: {reason}. Use all-linear, or names of linear layers such as q_proj.",
        code="lora_targets_unknown",
        param="lora_targets",
    )


if __name__ == "__main__":
    sys.exit(main())
