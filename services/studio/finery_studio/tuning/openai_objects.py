"""Tasks of kind tune in the shapes of OpenAI: job, event, checkpoint. It decides nothing."""

from __future__ import annotations

import json
from datetime import datetime
from typing import Any

from finery_contracts.ids import openai_id
from finery_contracts.jobs import TuneOutput
from finery_contracts.tasks import TaskState, TaskView
from finery_kit.delivery import OutboxRow

STATUS = {
    TaskState.CREATED: "validating_files",
    TaskState.QUEUED: "queued",
    TaskState.PREPARING: "running",
    TaskState.RUNNING: "running",
    TaskState.SUCCEEDED: "succeeded",
    TaskState.FAILED: "failed",
    TaskState.TERMINATED: "cancelled",
}


def job_object(task: TaskView) -> dict[str, Any]:
    """A task of kind tune as OpenAI's job."""
    request = task.request
    options = request.get("parameters") or {}
    asked = request.get("options", {})
    hyper = {
        "n_epochs": _whole(options.get("epochs") or asked.get("epochs")),
        "batch_size": options.get("batch_size") or asked.get("batch_size") or "auto",
        "learning_rate_multiplier": asked.get("learning_rate_multiplier") or ("auto" if not options else 1.0),
    }
    tuned = task.output if isinstance(task.output, TuneOutput) else None
    error = task.error.model_dump(include={"code", "message", "param"}) if task.error else None
    eta = task.progress.eta_s if task.state is TaskState.RUNNING else None
    return {
        "id": openai_id(task.id, "ftjob"),
        "object": "fine_tuning.job",
        "model": request["model_name"],
        "created_at": _unix(task.created_at),
        "finished_at": _unix(task.ended_at),
        "fine_tuned_model": task.result.get("model_name"),
        "organization_id": request["project_name"],
        "result_files": [],
        "status": STATUS[task.state],
        "training_file": openai_id(request["dataset"], "file"),
        "validation_file": openai_id(request["validation"], "file") if request.get("validation") else None,
        "hyperparameters": hyper,
        "method": {"type": "supervised", "supervised": {"hyperparameters": hyper}},
        "trained_tokens": tuned.trained_tokens if tuned else None,
        "error": error,
        "integrations": [],
        "seed": asked.get("seed", 42),
        "estimated_finish": int(datetime.now().astimezone().timestamp() + eta) if eta is not None else None,
        "metadata": task.metadata or None,
        "user_provided_suffix": request.get("suffix"),
        "x_finery": {
            "task": task.id,
            "state": task.state,
            "why_waiting": task.why_waiting,
            "progress": task.progress.model_dump(),
            "parameters": options or None,
            "reasons": request.get("reasons"),
            "attempts": len(task.attempts),
            "errors": task.error.details if task.error else [],
            "metrics": tuned.metrics if tuned else None,
        },
    }


def checkpoint_object(task: TaskView, index: int) -> dict[str, Any]:
    """A kept checkpoint as OpenAI's."""
    checkpoint = task.checkpoints[index]
    metrics = checkpoint.metrics
    return {
        "id": f"ftckpt-{task.id.split('_', 1)[1]}-{checkpoint.step}",
        "object": "fine_tuning.job.checkpoint",
        "created_at": _unix(task.ended_at or task.started_at or task.created_at),
        "fine_tuned_model_checkpoint": f"{task.result.get('model_name') or 'ft'}:ckpt-step-{checkpoint.step}",
        "fine_tuning_job_id": openai_id(task.id, "ftjob"),
        "step_number": checkpoint.step,
        "metrics": {
            "step": checkpoint.step,
            "train_loss": metrics.get("loss"),
            "valid_loss": metrics.get("validation_loss"),
            **metrics,
        },
    }


def fact_event(row: OutboxRow) -> dict[str, Any]:
    """A fact of the log as OpenAI's event."""
    event = json.loads(row.body)
    fact = row.type.split(".")[3]
    data = event["data"].get("task", event["data"])
    error = data.get("error")
    message = f"the job was {fact}" if fact in ("created", "queued", "terminated") else f"the job is {fact}"
    if fact in ("succeeded", "failed", "attempt_ended"):
        message = {"succeeded": "the job has succeeded", "failed": "the job has failed"}.get(fact, "an attempt ended")
    if error:
        message += f": {error['message']}"
    return {
        "id": f"ftevent-{row.event_id.split('_', 1)[1]}",
        "object": "fine_tuning.job.event",
        "created_at": _unix(datetime.fromisoformat(row.created_at)),
        "level": "error" if fact == "failed" else "info",
        "message": message,
        "type": "message",
        "data": {"state": data["state"]},
    }


def metric_event(seq: int, n: int, point: dict[str, Any]) -> dict[str, Any]:
    """A point of a curve as OpenAI's event of type metrics."""
    values = point["values"]
    shown = ", ".join(f"{k}={v:.4g}" for k, v in values.items() if k in ("loss", "validation_loss", "learning_rate"))
    renamed = {"loss": "train_loss", "validation_loss": "valid_loss"}
    return {
        "id": f"ftevent-m{seq:012d}-{n:04d}",
        "object": "fine_tuning.job.event",
        "created_at": _unix(datetime.fromisoformat(point["at"])),
        "level": "info",
        "message": f"Step {point['step']}/{point['total']}: {shown}",
        "type": "metrics",
        "data": {"step": point["step"], "total_steps": point["total"]}
        | {renamed.get(k, k): v for k, v in values.items()},
    }


def _whole(number: float | None) -> int | float | str:
    if number is None:
        return "auto"
    return int(number) if float(number).is_integer() else number


def _unix(moment: datetime | None) -> int | None:
    return int(moment.timestamp()) if moment else None
