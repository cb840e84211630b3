"""The tuning engine, run in this process on a tiny random model, and once by hand as a program of its own."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from finery_contracts.jobs import EngineJob, JobResult, TuneOutput, TuneSpec
from finery_contracts.tuning import TuneParameters
from finery_ml.checkpoints import published_checkpoints, verify_checkpoint
from finery_ml.job import JobFolder, Terminated
from finery_trainer.engine.sft import main, tune

MakeParquet = Callable[..., Path]
MakeJob = Callable[..., Path]
ResultOf = Callable[[Path], JobResult]
ProgressOf = Callable[[Path], list[dict[str, Any]]]

RECORDS = [
    {"messages": [{"role": "user", "content": f"What is {n} plus {'one ' * (n % 5)}?"},
                  {"role": "assistant", "content": f"It is {n + n % 5}."}]}
    for n in range(24)
]  # fmt: skip


def spec_of(model: Path, train: Path, **given: Any) -> TuneSpec:
    """A small run in fp32: batch 4, rank 4; ``adapter`` and ``validation`` go to the spec, the rest are parameters."""
    paths = {name: str(given.pop(name)) for name in ("adapter", "validation") if name in given}
    given = {"epochs": None, "iterations": 6} | given if "epochs" not in given else given
    parameters = TuneParameters(
        **{"batch_size": 4, "lora_rank": 4, "precision": "fp32", "learning_rate": 1e-2, "max_length": 128} | given
    )
    return TuneSpec(model=str(model), train=str(train), parameters=parameters, **paths)


def losses_of(progress: list[dict[str, Any]]) -> dict[int, tuple[float, float, float]]:
    """(loss, gradient norm, learning rate) at each step."""
    found = [(line["step"], line["metrics"]) for line in progress if "loss" in line.get("metrics", {})]
    return {step: (seen["loss"], seen["grad_norm"], seen["learning_rate"]) for step, seen in found}


def test_a_run_leaves_an_adapter_checkpoints_and_a_full_account(
    tiny_model: Path, canonical: MakeParquet, engine_job: MakeJob, result_of: ResultOf, progress_of: ProgressOf,
    capfd: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    # given
    held = canonical(RECORDS[:4])
    spec = spec_of(tiny_model, canonical(RECORDS), epochs=2, validation=held, keep_checkpoints=1)
    folder = engine_job(spec)
    # when
    status = main([str(folder)])
    # then
    result = result_of(folder)
    assert (status, result.status) == (0, "succeeded")
    output = result.output
    assert isinstance(output, TuneOutput)
    assert output.steps == 12
    assert output.metrics["samples"] == 24
    assert {"train_loss", "validation_loss"} <= output.metrics.keys()
    assert [reference.step for reference in output.checkpoints] == [12]
    assert [path.name for path in (folder / "checkpoints").iterdir()] == ["checkpoint-12"]
    assert verify_checkpoint(folder / "checkpoints" / "checkpoint-12")
    config = json.loads((folder / "out" / "adapter" / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == tiny_model.name
    assert str(tiny_model.parent) not in (folder / "out" / "adapter" / "adapter_config.json").read_text()
    assert sorted(path.name for path in (folder / "out" / "adapter").iterdir()) == [
        "adapter_config.json", "adapter_model.safetensors",
    ]  # fmt: skip
    log = capfd.readouterr().out
    assert all(words in log for words in ("lm loss", "elapsed time per iteration", "global batch size: 4", "SEQ_LEN"))
    spans = [json.loads(line) for line in (folder / "spans.jsonl").read_text().splitlines()]
    assert [span["name"] for span in spans] == ["tokenize", "load", "train", "save", "engine.tune"]
    _check_progress(progress_of(folder))


def _check_progress(lines: list[dict[str, Any]]) -> None:
    assert lines[0].get("phase") == "preparing"
    running = [line for line in lines if line["phase"] == "running"]
    assert running[0].get("step", 0) == 0
    assert set(losses_of(running)) == set(range(1, 13))
    assert {line["step"] for line in running if "validation_loss" in line.get("metrics", {})} >= {6, 12}
    assert [line["checkpoint"]["step"] for line in running if "checkpoint" in line] == [6, 12]
    last = running[-1]
    assert (last["total"], last["eta_s"]) == (12, 0.0)
    assert {"loss", "learning_rate", "grad_norm", "tokens_per_s", "tokens_seen", "epoch", "step_time_s", "memory_mb",
            "validation_loss"} <= last["metrics"].keys()  # fmt: skip
    assert last["metrics"]["epoch"] == pytest.approx(2.0)


def test_tuning_twice_gives_the_same_adapter_and_it_learns(
    tiny_model: Path, canonical: MakeParquet, engine_job: MakeJob, progress_of: ProgressOf
) -> None:
    # given
    spec = spec_of(tiny_model, canonical(RECORDS), iterations=20, lora_dropout=0.1)
    folders = [engine_job(spec), engine_job(spec)]
    # when
    assert [main([str(folder)]) for folder in folders] == [0, 0]
    # then
    first, second = (load_file(folder / "out" / "adapter" / "adapter_model.safetensors") for folder in folders)
    assert all(torch.equal(first[name], second[name]) for name in first)
    losses = [loss for loss, _, _ in losses_of(progress_of(folders[0])).values()]
    assert sum(losses[-3:]) < 0.96 * sum(losses[:3])


def test_a_run_stopped_by_sigterm_keeps_its_work_and_resumes_on_the_very_same_curve(
    tiny_model: Path, canonical: MakeParquet, engine_job: MakeJob, result_of: ResultOf, progress_of: ProgressOf
) -> None:
    # given two epochs and a half of a run with dropout, accumulation, and a program that has done a few steps of it
    spec = spec_of(
        tiny_model, canonical(RECORDS), batch_size=2, gradient_accumulation=2, iterations=40, lora_dropout=0.1
    )
    stopped = engine_job(spec)
    program = subprocess.Popen(
        [sys.executable, "-W", "ignore", "-m", "finery_trainer.engine.sft", str(stopped)],
        stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONUNBUFFERED": "1"},
    )  # fmt: skip
    with program:
        assert program.stdout is not None
        next(line for line in program.stdout if "iteration 8/" in line)
        # when it is told to leave
        program.send_signal(signal.SIGTERM)
        program.stdout.read()
    # then it has saved the step it was at
    result = result_of(stopped)
    assert (program.returncode, result.status) == (0, "terminated")
    assert isinstance(result.output, TuneOutput)
    at = result.output.steps
    assert 8 <= at < 40
    assert (stopped / "out" / "adapter" / "adapter_model.safetensors").is_file()
    checkpoint = published_checkpoints(stopped / "checkpoints")[-1]
    assert (checkpoint.name, verify_checkpoint(checkpoint)) == (f"checkpoint-{at}", True)
    # when it is resumed, and when another run was never stopped
    resumed, unbroken = engine_job(spec, resume_from=[checkpoint]), engine_job(spec)
    assert [main([str(resumed)]), main([str(unbroken)])] == [0, 0]
    # then
    expected = losses_of(progress_of(unbroken))
    before, after = losses_of(progress_of(stopped)), losses_of(progress_of(resumed))
    assert before | after == expected
    assert min(after) == at + 1
    assert result_of(resumed).output.trained_tokens == result_of(unbroken).output.trained_tokens
    weights = [load_file(folder / "out" / "adapter" / "adapter_model.safetensors") for folder in (resumed, unbroken)]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


def test_a_stop_during_validation_still_leaves_a_checkpoint(
    tiny_model: Path, canonical: MakeParquet, engine_job: MakeJob
) -> None:
    # given a job that hears the stop request as soon as the loss of step 3 is out, before validation begins
    spec = spec_of(tiny_model, canonical(RECORDS), iterations=9, checkpoint_interval=3, validation_ratio=0.25)
    work = _StoppedAtStep(engine_job(spec), step=3)
    # when
    with pytest.raises(Terminated) as left:
        tune(work)
    work.leave(JobResult(status="terminated", output=left.value.output))
    # then
    assert isinstance(left.value.output, TuneOutput)
    assert left.value.output.steps == 3
    assert verify_checkpoint(work.checkpoints / "checkpoint-3")
    assert (work.out / "adapter" / "adapter_model.safetensors").is_file()


class _StoppedAtStep(JobFolder):
    """A job folder in which the stop request arrives with the first report of ``step``."""

    def __init__(self, folder: Path, *, step: int) -> None:
        super().__init__(folder)
        self._stop_step = step

    def progress(self, **line: Any) -> None:
        super().progress(**line)
        if line.get("step") == self._stop_step:
            self.stop_requested.set()


def test_no_iterations_leave_a_valid_untrained_adapter_that_tuning_can_go_on_from(
    tiny_model: Path, canonical: MakeParquet, engine_job: MakeJob, result_of: ResultOf
) -> None:
    # given
    train = canonical(RECORDS)
    untrained = engine_job(spec_of(tiny_model, train, iterations=0))
    # when
    assert main([str(untrained)]) == 0
    adapter = untrained / "out" / "adapter"
    further = engine_job(spec_of(tiny_model, train, iterations=2, adapter=adapter))
    assert main([str(further)]) == 0
    # then
    weights = load_file(adapter / "adapter_model.safetensors")
    assert all(not weight.any() for name, weight in weights.items() if "lora_B" in name)
    assert result_of(untrained).output == TuneOutput(steps=0, trained_tokens=0)
    assert result_of(further).output.steps == 2


def test_samples_without_an_answer_are_left_out_and_counted(
    tiny_model: Path, canonical: MakeParquet, engine_job: MakeJob, result_of: ResultOf
) -> None:
    question = {"messages": [{"role": "user", "content": "And?"}]}
    folder = engine_job(spec_of(tiny_model, canonical([*RECORDS[:5], question]), iterations=1))
    assert main([str(folder)]) == 0
    metrics = result_of(folder).output.metrics
    assert (metrics["samples"], metrics["left_out_samples"]) == (5, 1)


@pytest.mark.parametrize(
    ("change", "code", "param"),
    [
        ({"max_length": 16}, "nothing_to_train", "train"),
        ({"learning_rate": 1e30, "iterations": 30, "warmup_ratio": 0}, "loss_not_finite", "learning_rate"),
        ({"lora_targets": ["no_such_layer"]}, "lora_targets_unknown", "lora_targets"),
        ({"lora_targets": ["q_proj", "lm_head"]}, "lora_targets_unknown", "lora_targets"),
        ({"precision": "fp16"}, "precision_not_supported", "precision"),
        ({"adapter": "/nowhere/adapter"}, "adapter_unreadable", "adapter"),
    ],
)
@pytest.mark.skipif(torch.cuda.is_available(), reason="fp16 is offered where there is CUDA")
def test_the_users_mistakes_end_with_status_two_and_a_code(
    change: dict[str, Any], code: str, param: str,
    tiny_model: Path, canonical: MakeParquet, engine_job: MakeJob, result_of: ResultOf,
) -> None:  # fmt: skip
    folder = engine_job(spec_of(tiny_model, canonical(RECORDS), **change))
    assert main([str(folder)]) == 2
    error = result_of(folder).error
    assert error is not None
    assert (error.code, error.param) == (code, param)
    assert not (folder / "out" / "adapter").exists()


def test_a_model_folder_without_weights_is_refused(
    tmp_path: Path, smollm2_tokenizer: Path, canonical: MakeParquet, engine_job: MakeJob, result_of: ResultOf
) -> None:
    folder = engine_job(spec_of(smollm2_tokenizer, canonical(RECORDS)))
    assert main([str(folder)]) == 2
    assert result_of(folder).error.code == "model_unreadable"


def test_a_model_that_lacks_a_tensor_is_refused_and_not_made_up(
    tmp_path: Path, tiny_model: Path, canonical: MakeParquet, engine_job: MakeJob, result_of: ResultOf
) -> None:
    model = Path(shutil.copytree(tiny_model, tmp_path / "lacking"))
    tensors = load_file(model / "model.safetensors")
    del tensors["model.layers.0.mlp.up_proj.weight"]
    save_file(tensors, model / "model.safetensors", metadata={"format": "pt"})
    folder = engine_job(spec_of(model, canonical(RECORDS)))
    assert main([str(folder)]) == 2
    error = result_of(folder).error
    assert (error.code, error.param) == ("model_unreadable", "model.layers.0.mlp.up_proj.weight")


def test_a_damaged_checkpoint_is_passed_over_and_an_older_one_taken(
    tiny_model: Path, canonical: MakeParquet, engine_job: MakeJob, progress_of: ProgressOf
) -> None:
    # given two checkpoints, the newer of which lost a byte
    spec = spec_of(tiny_model, canonical(RECORDS), iterations=6, checkpoint_interval=2)
    whole = engine_job(spec)
    assert main([str(whole)]) == 0
    older, newer = published_checkpoints(whole / "checkpoints")[:2]
    weights = newer / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    # when
    folder = engine_job(spec, resume_from=[newer, older])
    assert main([str(folder)]) == 0
    # then
    assert min(losses_of(progress_of(folder))) == int(older.name.rpartition("-")[2]) + 1
    # and with none that is whole it begins anew
    alone = engine_job(spec, resume_from=[newer])
    assert main([str(alone)]) == 0
    assert min(losses_of(progress_of(alone))) == 1


def test_a_job_of_another_kind_is_refused(
    tiny_model: Path, canonical: MakeParquet, engine_job: MakeJob, result_of: ResultOf
) -> None:
    from finery_contracts.jobs import EvaluateSpec

    folder = engine_job(EvaluateSpec(model=str(tiny_model), dataset=str(canonical(RECORDS))))
    assert EngineJob.model_validate_json((folder / "job.json").read_bytes()).spec.kind == "evaluate"
    assert main([str(folder)]) == 2
    assert result_of(folder).error.code == "wrong_engine"
