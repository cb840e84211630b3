"""Tells the job folder what the trainer does: progress lines, the log line, checkpoints; and brings the stop request.

It decides when to validate, to checkpoint and to stop, and changes nothing else of the run.
"""

from __future__ import annotations

import time
from collections import deque
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import torch
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from finery_contracts.jobs import CheckpointRef, Phase
from finery_ml.checkpoints import checkpoint_name, prune_checkpoints, publish_checkpoint
from finery_ml.job import JobFolder

_STEPS_REMEMBERED = 50


class Interrupted(Exception):
    """The stop request came while validation was running; nothing of the weights has changed since the last step."""


@dataclass
class Reporter(TrainerCallback):
    """Bridges trainer events to the job folder."""

    work: JobFolder
    sequence_length: int
    samples_per_step: int
    interval: int
    keep_checkpoints: int
    validates: bool
    metrics: dict[str, float] = field(default_factory=dict)
    checkpoints: list[CheckpointRef] = field(default_factory=list)
    _step_times: deque[float] = field(default_factory=lambda: deque(maxlen=_STEPS_REMEMBERED))
    _step_started: float = 0.0
    _busy_s: float = 0.0
    _steps: int = 0
    _tokens: int = 0

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Count from the checkpoint's tokens, and say that the run begins."""
        self._tokens = int(state.num_input_tokens_seen)
        self.work.progress(phase=Phase.RUNNING, step=state.global_step, total=state.max_steps)

    def on_step_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Start the step's watch; validation and checkpoints lie between steps and are not counted."""
        self._step_started = time.monotonic()

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> TrainerControl:
        """Stop the watch and decide what follows this step."""
        took = time.monotonic() - self._step_started
        self._step_times.append(took)
        self._busy_s, self._steps = self._busy_s + took, self._steps + 1
        last = state.global_step >= state.max_steps
        control.should_evaluate = self.validates and (last or state.global_step % self.interval == 0)
        if self.work.stop_requested.is_set():
            control.should_training_stop, control.should_save, control.should_evaluate = True, True, False
        control.should_log = control.should_log or last or control.should_training_stop
        return control

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float] | None = None,
        **_: Any,
    ) -> None:
        """One progress line and one log line for the steps since the last one."""
        if not logs or "loss" not in logs:
            return
        tokens = int(state.num_input_tokens_seen)
        step_time_s = self._busy_s / max(self._steps, 1)
        self.metrics = {
            "loss": logs["loss"],
            "learning_rate": logs["learning_rate"],
            "grad_norm": logs.get("grad_norm", 0.0),
            "tokens_per_s": (tokens - self._tokens) / max(self._busy_s, 1e-9),
            "tokens_seen": tokens,
            "epoch": state.epoch or 0.0,
            "step_time_s": step_time_s,
            "memory_mb": memory_mb(),
        }
        self._tokens, self._busy_s, self._steps = tokens, 0.0, 0
        self._say(state)
        print(self._log_line(state), flush=True)

    def on_prediction_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """A stop request does not wait for the end of a validation."""
        if self.work.stop_requested.is_set():
            raise Interrupted

    def on_evaluate(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        metrics: dict[str, float] | None = None,
        **_: Any,
    ) -> None:
        """A progress line with the new validation loss."""
        self.metrics = {**self.metrics, "validation_loss": (metrics or {})["eval_loss"]}
        self._say(state)
        print(f" validation loss at iteration {state.global_step}: {self.metrics['validation_loss']:.6E}", flush=True)

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Publish what the trainer has written, remove the oldest, and announce the new one."""
        step = state.global_step
        staged = Path(args.output_dir) / checkpoint_name(step)
        published = publish_checkpoint(staged, self.work.checkpoints, step=step)
        prune_checkpoints(self.work.checkpoints, keep=self.keep_checkpoints)
        shown = {name: self.metrics[name] for name in ("loss", "validation_loss") if name in self.metrics}
        reference = CheckpointRef(step=step, path=published.name, metrics=shown)
        others = [known for known in self.checkpoints if known.step != step]
        self.checkpoints = [*others, reference][-self.keep_checkpoints :]
        self._say(state, checkpoint=reference)

    def _say(self, state: TrainerState, *, checkpoint: CheckpointRef | None = None) -> None:
        mean_s = sum(self._step_times) / max(len(self._step_times), 1)
        self.work.progress(
            step=state.global_step,
            total=state.max_steps,
            eta_s=mean_s * (state.max_steps - state.global_step),
            metrics=self.metrics,
            checkpoint=checkpoint,
        )

    def _log_line(self, state: TrainerState) -> str:
        shown = self.metrics
        return (
            f" iteration {state.global_step}/{state.max_steps}"
            f" | elapsed time per iteration (ms): {shown['step_time_s'] * 1000:.1f}"
            f" | learning rate: {shown['learning_rate']:.6E}"
            f" | global batch size: {self.samples_per_step}"
            f" | SEQ_LEN: {self.sequence_length}"
            f" | lm loss: {shown['loss']:.6E}"
            f" | grad norm: {shown['grad_norm']:.3f}"
            f" | tokens per second: {shown['tokens_per_s']:.1f}"
        )


def memory_mb() -> float:
    """Memory in use: of the CUDA device when there is one, else resident memory of this process."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 2**20
    return psutil.Process().memory_info().rss / 2**20
