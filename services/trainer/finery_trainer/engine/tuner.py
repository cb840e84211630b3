"""TRL's SFTTrainer with four changes, each for a measured reason; everything else of it stays as it is.

It refuses to publish a half-written checkpoint and to go on with a loss that is not a number.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import transformers
from datasets import Dataset
from peft import PeftModel
from torch.utils.data import Sampler
from transformers import PreTrainedTokenizerBase, PrinterCallback
from trl import SFTConfig, SFTTrainer

from finery_contracts.errors import InvalidRequest
from finery_contracts.tuning import TuneParameters
from finery_ml.batching import Collator, LengthGroupedSampler
from finery_ml.conversation import Sample

STAGING = ".staging"
"""Where checkpoints are written before they are published; under checkpoints/, so that a rename is enough."""


class Tuner(SFTTrainer):
    """SFT on samples that we tokenised, with the plain Hugging Face loss and batches of like length."""

    def compute_loss(self, *args: Any, **kwargs: Any) -> Any:
        """The loss of ``transformers.Trainer``: TRL's adds entropy and accuracy, for 1.6 times the processor time."""
        return transformers.Trainer.compute_loss(self, *args, **kwargs)

    def training_step(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        """One micro-batch; raises InvalidRequest ``loss_not_finite``."""
        loss = super().training_step(*args, **kwargs)
        if not torch.isfinite(loss):
            raise loss_not_finite(self.state.global_step + 1)
        return loss

    def _get_train_sampler(self, train_dataset: Dataset | None = None) -> Sampler[int]:
        """transformers' own grouping draws from the global generator, so a resumed run would see other batches."""
        rows = train_dataset if train_dataset is not None else self.train_dataset
        return LengthGroupedSampler(rows["length"], self.args.train_batch_size, seed=self.args.seed)

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Any] | None = None) -> None:
        """The adapter alone: the tokenizer is the base model's, and pickled arguments are needed by nobody."""
        self.model.save_pretrained(output_dir, state_dict=state_dict, save_embedding_layers=False)

    def create_model_card(self, *args: Any, **kwargs: Any) -> None:
        """None: a checkpoint is not published as a model."""


def loss_not_finite(step: int) -> InvalidRequest:
    """The error for a run that has blown up at ``step``."""
    return InvalidRequest(
        f"The loss stopped being a number at step {step}; lower the learning rate (a tenth is a good try), lengthen "
        "the warm-up, or use fp32.",
        code="loss_not_finite",
        param="learning_rate",
    )


def rows_of(samples: Sequence[Sample]) -> Dataset:
    """Samples in the form SFTTrainer takes when its own preparation is switched off."""
    return Dataset.from_dict(
        {
            "input_ids": [sample.input_ids for sample in samples],
            "labels": [sample.labels for sample in samples],
            "length": [len(sample.input_ids) for sample in samples],
        }
    )


def steps_per_epoch(samples: int, parameters: TuneParameters) -> int:
    """Optimizer steps in one pass over ``samples``."""
    return math.ceil(math.ceil(samples / parameters.batch_size) / parameters.gradient_accumulation)


def build_tuner(
    model: PeftModel,
    tokenizer: PreTrainedTokenizerBase,
    *,
    train: Dataset,
    validation: Dataset | None,
    arguments: SFTConfig,
    trained_logits_only: bool,
) -> Tuner:
    """A tuner that neither prints nor prepares data; reporting is added as a callback."""
    tuner = Tuner(
        model=model,
        args=arguments,
        train_dataset=train,
        eval_dataset=validation,
        processing_class=tokenizer,
        data_collator=Collator(pad_id=tokenizer.pad_token_id, trained_logits_only=trained_logits_only),
    )
    tuner.remove_callback(PrinterCallback)
    return tuner


def arguments_of(
    parameters: TuneParameters, folder: Path, *, steps: int, interval: int, precision: str, device: torch.device
) -> SFTConfig:
    """Our parameters in TRL's words. ``folder`` takes the staged checkpoints, one every ``interval`` steps."""
    return SFTConfig(
        output_dir=str(folder),
        max_steps=steps,
        per_device_train_batch_size=parameters.batch_size,
        per_device_eval_batch_size=parameters.batch_size,
        gradient_accumulation_steps=parameters.gradient_accumulation,
        learning_rate=parameters.learning_rate,
        lr_scheduler_type=parameters.scheduler,
        warmup_steps=round(parameters.warmup_ratio * steps),
        weight_decay=parameters.weight_decay,
        max_length=None,
        dataset_kwargs={"skip_prepare_dataset": True},
        remove_unused_columns=False,
        save_strategy="steps",
        save_steps=interval,
        eval_strategy="no",
        prediction_loss_only=True,
        logging_steps=parameters.log_interval,
        logging_nan_inf_filter=False,
        include_num_input_tokens_seen="non_padding",
        bf16=precision == "bf16",
        fp16=precision == "fp16",
        gradient_checkpointing=device.type == "cuda",
        use_cpu=device.type == "cpu",
        dataloader_num_workers=0,
        dataloader_pin_memory=device.type == "cuda",
        seed=parameters.seed,
        report_to="none",
        disable_tqdm=True,
    )
