"""The recipe, and OpenAI's words for a tuning: what goes in, and how each state looks from outside."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from pydantic import ValidationError

from finery_contracts.errors import ErrorBody, InvalidRequest
from finery_contracts.jobs import CheckpointRef, TaskKind, TuneOutput
from finery_contracts.tasks import TaskProgress, TaskState, TaskView
from finery_contracts.tuning import TuneOptions
from finery_studio.tuning.openai import JobRequest, tune_request
from finery_studio.tuning.openai_objects import checkpoint_object, job_object, metric_event
from finery_studio.tuning.recipe import Facts, decide

NOW = datetime(2026, 11, 21, 8, tzinfo=UTC)


def facts(samples: int = 500, parameters: int = 135_000_000, length: int = 2048, rate: float | None = None) -> Facts:
    return Facts(samples=samples, model_parameters=parameters, model_max_length=length, gallery_rate=rate)


def a_job(**said: Any) -> JobRequest:
    return JobRequest.model_validate({"model": "m", "training_file": "file-01", **said})


def a_task(state: TaskState, **said: Any) -> TaskView:
    request = {
        "model": "mdl_1", "model_name": "m", "project_name": "p", "dataset": "ds_01", "suffix": None, "options": {},
    }  # fmt: skip
    return TaskView(
        id="task_01", project="prj_1", kind=TaskKind.TUNE, name="t", state=state, version=1, created_by="ann",
        created_at=NOW, **{"request": request, **said},
    )  # fmt: skip


@pytest.mark.parametrize(
    ("samples", "least", "most"), [(100, 4, 8), (999, 4, 8), (1000, 2, 4), (9999, 2, 4), (50_000, 1, 2)]
)
def test_the_passes_follow_the_size_of_the_data(samples: int, least: float, most: float) -> None:
    parameters, reasons = decide(TuneOptions(), facts(samples))
    assert parameters.epochs is not None
    assert least <= parameters.epochs <= most
    assert str(samples) in reasons["epochs"]


def test_every_choice_has_its_reason_and_what_was_said_is_kept_without_one() -> None:
    _, reasons = decide(TuneOptions(), facts())
    assert reasons.keys() == {"epochs", "learning_rate", "batch_size"}

    said = TuneOptions(iterations=10, learning_rate=0.003, batch_size=3, lora_rank=4)
    parameters, reasons = decide(said, facts())
    assert reasons == {}
    assert (parameters.iterations, parameters.epochs) == (10, None)
    assert (parameters.learning_rate, parameters.batch_size, parameters.lora_rank) == (0.003, 3, 4)


def test_a_multiplier_is_of_the_recommended_rate_and_stays_within_the_range() -> None:
    assert decide(TuneOptions(learning_rate_multiplier=2), facts(rate=0.01))[0].learning_rate == 0.02
    assert decide(TuneOptions(learning_rate_multiplier=100), facts(rate=0.01))[0].learning_rate == 0.1
    rates = [decide(TuneOptions(), facts(parameters=n))[0].learning_rate for n in (10**8, 10**9, 10**10)]
    assert rates == sorted(rates, reverse=True)


def test_a_sample_is_never_longer_than_the_model_takes() -> None:
    assert decide(TuneOptions(max_length=4096), facts(length=2048))[0].max_length == 2048
    assert decide(TuneOptions(), facts(length=512))[0].max_length == 512


def test_the_first_samples_decide_when_only_they_are_used() -> None:
    assert decide(TuneOptions(max_samples=10), facts(50_000))[0].batch_size == 2


@pytest.mark.parametrize(
    ("said", "param"),
    [
        ({"method": {"type": "supervised"}, "hyperparameters": {}}, "method"),
        ({"hyperparameters": {"n_epochs": 2}, "x_finery": {"epochs": 3}}, "x_finery.epochs"),
        ({"hyperparameters": {"batch_size": 2}, "x_finery": {"batch_size": 2}}, "x_finery.batch_size"),
    ],
)
def test_what_is_said_twice_is_refused(said: dict[str, Any], param: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        tune_request(a_job(**said))
    assert (refused.value.error_code, refused.value.param) == ("conflicting_parameters", param)


@pytest.mark.parametrize(
    "said",
    [
        {"hyperparameters": {"n_epochs": 2}, "x_finery": {"iterations": 3}},
        {"hyperparameters": {"learning_rate_multiplier": 2}, "x_finery": {"learning_rate": 0.01}},
    ],
)
def test_what_excludes_each_other_is_refused_across_both_places(said: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match="exclude each other"):
        tune_request(a_job(**said))


def test_a_job_is_the_same_wish_in_our_words() -> None:
    asked = tune_request(
        a_job(
            validation_file="file-02", suffix="s", seed=7, metadata={"k": "v"},
            method={"type": "supervised", "supervised": {"hyperparameters": {"n_epochs": 2, "batch_size": "auto"}}},
            x_finery={"lora_rank": 4, "name": "n", "output": "o"},
        )
    )  # fmt: skip
    assert (asked.dataset, asked.validation, asked.suffix, asked.output) == ("ds_01", "ds_02", "s", "o")
    assert asked.options.model_dump(exclude_unset=True) == {"epochs": 2, "lora_rank": 4, "seed": 7}
    assert asked.metadata == {"k": "v"}


@pytest.mark.parametrize(
    ("state", "status"),
    [
        (TaskState.CREATED, "validating_files"),
        (TaskState.QUEUED, "queued"),
        (TaskState.PREPARING, "running"),
        (TaskState.RUNNING, "running"),
        (TaskState.SUCCEEDED, "succeeded"),
        (TaskState.FAILED, "failed"),
        (TaskState.TERMINATED, "cancelled"),
    ],
)
def test_every_state_has_openais_name(state: TaskState, status: str) -> None:
    ended = {"ended_at": NOW} if state.ended else {}
    job = job_object(a_task(state, **ended))
    assert (job["id"], job["training_file"], job["status"]) == ("ftjob-01", "file-01", status)
    assert job["finished_at"] == (int(NOW.timestamp()) if state.ended else None)
    assert job["hyperparameters"] == {"n_epochs": "auto", "batch_size": "auto", "learning_rate_multiplier": "auto"}
    assert (job["error"], job["fine_tuned_model"], job["trained_tokens"]) == (None, None, None)


def test_a_succeeded_job_names_its_model_tokens_and_what_was_decided() -> None:
    task = a_task(TaskState.SUCCEEDED, output=TuneOutput(steps=3, trained_tokens=100), result={"model_name": "ft:m"})
    task.request["parameters"] = {"epochs": 4.0, "batch_size": 8}
    job = job_object(task)
    assert (job["fine_tuned_model"], job["trained_tokens"]) == ("ft:m", 100)
    assert job["hyperparameters"] == {"n_epochs": 4, "batch_size": 8, "learning_rate_multiplier": 1.0}


def test_a_failed_job_says_why_and_a_running_one_until_when() -> None:
    fault = ErrorBody(code="invalid_training_file", message="line 17", param="training_file", details=[{"line": 17}])
    failed = job_object(a_task(TaskState.FAILED, error=fault))
    assert failed["error"] == {"code": "invalid_training_file", "message": "line 17", "param": "training_file"}
    assert failed["x_finery"]["errors"] == [{"line": 17}]
    running = job_object(a_task(TaskState.RUNNING, progress=TaskProgress(eta_s=60)))
    assert running["estimated_finish"] > (datetime.now(UTC) + timedelta(seconds=30)).timestamp()


def test_checkpoints_and_points_have_openais_metric_names() -> None:
    kept = [CheckpointRef(step=4, path="p", metrics={"loss": 0.5, "validation_loss": 0.6})]
    shown = checkpoint_object(a_task(TaskState.RUNNING, checkpoints=kept), 0)
    assert shown["id"] == "ftckpt-01-4"
    assert (shown["metrics"]["train_loss"], shown["metrics"]["valid_loss"]) == (0.5, 0.6)
    event = metric_event(7, 0, {"at": NOW.isoformat(), "step": 4, "total": 9, "values": {"loss": 0.5, "lr": 1.0}})
    assert event["data"] == {"step": 4, "total_steps": 9, "train_loss": 0.5, "lr": 1.0}
    assert event["message"] == "Step 4/9: loss=0.5"
