"""OpenAI's own client drives the whole loop on real weights: file, job, events, checkpoints, model, chat, deletion."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import openai
import pytest
from openai import OpenAI
from openai.types.fine_tuning import FineTuningJob

import finery.recipes.intent_classification as recipe
from finery.client import Finery
from finery_contracts.deployments import DeploymentState, DeployRequest
from tests.bench.house import House

TRAIN = Path(recipe.__file__).with_name("train.jsonl")
MODEL = "smollm2-135m-instruct"


def ended(client: OpenAI, job: FineTuningJob, *, within_s: float = 240) -> FineTuningJob:
    until = time.monotonic() + within_s
    while job.status not in ("succeeded", "failed", "cancelled"):
        assert time.monotonic() < until, job
        time.sleep(0.3)
        job = client.fine_tuning.jobs.retrieve(job.id)
    return job


def wait_for(found: Callable[[], Any], *, within_s: float = 20) -> Any:
    until = time.monotonic() + within_s
    while not (value := found()):
        assert time.monotonic() < until
        time.sleep(0.1)
    return value


def data(records: int) -> bytes:
    return b"".join(line for line in TRAIN.read_bytes().splitlines(keepends=True)[:records])


@pytest.fixture(scope="module")
def job(client: OpenAI) -> FineTuningJob:
    """A short job that went through."""
    train = client.files.create(file=("train.jsonl", data(48)), purpose="fine-tune")
    validation = client.files.create(file=("validation.jsonl", data(8)), purpose="fine-tune")
    made = client.fine_tuning.jobs.create(
        model=MODEL,
        training_file=train.id,
        validation_file=validation.id,
        method={"type": "supervised", "supervised": {"hyperparameters": {"n_epochs": 2, "batch_size": 8}}},
        suffix="e2e",
        seed=11,
        metadata={"team": "desk"},
        extra_body={"x_finery": {"lora_rank": 8}},
    )
    assert made.status in ("validating_files", "queued", "running")
    return ended(client, made)


def test_the_job_succeeds_with_what_was_asked_for(job: FineTuningJob) -> None:
    assert job.status == "succeeded", job.error
    assert job.fine_tuned_model
    assert job.fine_tuned_model.startswith(f"ft:{MODEL}:default:e2e:")
    assert job.hyperparameters.n_epochs == 2
    assert job.hyperparameters.batch_size == 8
    assert job.seed == 11
    assert job.metadata == {"team": "desk"}
    assert job.trained_tokens
    assert job.trained_tokens > 1000


def test_events_and_checkpoints_are_paged_by_cursor(client: OpenAI, job: FineTuningJob) -> None:
    every = list(client.fine_tuning.jobs.list_events(job.id, limit=5))
    assert len(every) > 12
    assert len({event.id for event in every}) == len(every)
    losses = [event.data["train_loss"] for event in every if event.type == "metrics" and "train_loss" in event.data]
    assert len(losses) >= 12
    assert losses[0] < losses[-1]  # newest first
    checkpoints = list(client.fine_tuning.jobs.checkpoints.list(job.id, limit=1))
    assert [checkpoint.step_number for checkpoint in checkpoints] == sorted(
        (checkpoint.step_number for checkpoint in checkpoints), reverse=True
    )
    assert checkpoints[0].metrics.valid_loss is not None


def test_the_model_is_listed_and_retrieved(client: OpenAI, job: FineTuningJob) -> None:
    assert job.fine_tuned_model in {model.id for model in client.models.list()}
    assert client.models.retrieve(job.fine_tuned_model).id == job.fine_tuned_model
    assert client.models.retrieve(MODEL).id == MODEL


def test_a_call_on_the_ft_name_wakes_it_and_streams_what_it_says(client: OpenAI, job: FineTuningJob) -> None:
    assert job.fine_tuned_model
    record = json.loads(TRAIN.read_text().splitlines()[0])["messages"][:2]

    plain = client.chat.completions.create(model=job.fine_tuned_model, messages=record, temperature=0, max_tokens=12)
    chunks = list(
        client.chat.completions.create(
            model=job.fine_tuned_model, messages=record, temperature=0, max_tokens=12, stream=True,
            stream_options={"include_usage": True},
        )
    )  # fmt: skip

    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert plain.choices[0].message.content == text
    assert plain.model == job.fine_tuned_model
    assert plain.usage
    assert chunks[-1].usage
    assert chunks[-1].usage.total_tokens == plain.usage.total_tokens


def test_several_answers_and_stop_words(client: OpenAI, job: FineTuningJob) -> None:
    assert job.fine_tuned_model
    messages = [{"role": "user", "content": "Where is my parcel?"}]
    several = client.chat.completions.create(
        model=job.fine_tuned_model, messages=messages, n=3, max_tokens=6, temperature=1.0, extra_body={"top_k": 20}
    )
    assert len(several.choices) == 3
    with pytest.raises(openai.BadRequestError):
        client.chat.completions.create(model=job.fine_tuned_model, messages=messages, n=3, temperature=0)


def test_a_deployment_is_called_slowed_down_and_stopped(client: OpenAI, job: FineTuningJob, up: House) -> None:
    messages = [{"role": "user", "content": "Where is my parcel?"}]
    with Finery(up.ready["url"], up.ready["api_key"]) as finery:
        made = finery.deployments.create(DeployRequest(name="desk", model=str(job.fine_tuned_model), qps=0.5))
        finery.deployments.wait(made.id, DeploymentState.RUNNING)
        answer = client.chat.completions.create(model="desk", messages=messages, temperature=0)
        with pytest.raises(openai.RateLimitError) as slowed:
            client.chat.completions.create(model="desk", messages=messages, temperature=0)
        finery.deployments.stop("desk")
        finery.deployments.wait("desk", DeploymentState.STOPPED)
        with pytest.raises(openai.NotFoundError) as stopped:
            client.chat.completions.create(model="desk", messages=messages)
        lines = wait_for(lambda: list(finery.bill.all_lines(noun_id=made.id)))
        with pytest.raises(openai.ConflictError, match="deployment desk"):
            client.models.delete(str(job.fine_tuned_model))
        finery.deployments.delete("desk")

    assert answer.usage
    assert answer.usage.completion_tokens <= 16  # a deployment's default
    assert int(slowed.value.response.headers["retry-after"]) >= 1
    assert slowed.value.code == "rate_limit_exceeded"
    assert stopped.value.code == "deployment_not_running"
    assert sum(line.amount for line in lines) > 0


def test_a_bad_line_fails_the_job_and_is_named(client: OpenAI) -> None:
    lines = data(20).splitlines(keepends=True)
    lines[16] = b'{"messages": [{"role": "user", "content": "hi"}\n'
    file = client.files.create(file=("broken.jsonl", b"".join(lines)), purpose="fine-tune")

    job = ended(client, client.fine_tuning.jobs.create(model=MODEL, training_file=file.id))

    assert job.status == "failed"
    assert job.error
    assert job.error.code == "invalid_training_file"
    assert "line 17" in job.error.message
    told = client.files.retrieve(file.id)
    assert told.status == "error"
    assert "line 17" in (told.status_details or "")


def test_a_table_row_with_an_empty_answer_is_named(client: OpenAI) -> None:
    table = "conversation_id,human,assistant\n1,hello,hi\n2,where is it,\n"
    file = client.files.create(file=("table.csv", table.encode()), purpose="fine-tune")

    job = ended(client, client.fine_tuning.jobs.create(model=MODEL, training_file=file.id))

    assert job.error
    assert job.error.code == "invalid_training_file"
    assert "row 3" in job.error.message


def test_cancel_stops_a_running_job(client: OpenAI) -> None:
    file = client.files.create(file=("train.jsonl", data(200)), purpose="fine-tune")
    job = client.fine_tuning.jobs.create(model=MODEL, training_file=file.id, hyperparameters={"n_epochs": 20})
    until = time.monotonic() + 120
    while client.fine_tuning.jobs.retrieve(job.id).status != "running" and time.monotonic() < until:
        time.sleep(0.2)

    client.fine_tuning.jobs.cancel(job.id)

    assert ended(client, job, within_s=60).status == "cancelled"


def test_what_is_deleted_is_gone(client: OpenAI, job: FineTuningJob) -> None:
    assert job.fine_tuned_model
    assert client.models.delete(job.fine_tuned_model).deleted
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve(job.fine_tuned_model)
    with pytest.raises(openai.NotFoundError):
        client.chat.completions.create(model=job.fine_tuned_model, messages=[{"role": "user", "content": "hi"}])
    file = client.files.create(file=("gone.jsonl", data(2)), purpose="fine-tune")
    assert client.files.content(file.id).read() == data(2)
    wait_for(lambda: client.files.retrieve(file.id).status == "processed")
    assert client.files.delete(file.id).deleted
    with pytest.raises(openai.BadRequestError):
        client.fine_tuning.jobs.create(model=MODEL, training_file=file.id)
