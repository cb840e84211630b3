"""What a person reads of a model: a card in the form of Hugging Face, made of what studio knows and nothing else."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import yaml

from finery_contracts.datasets import DatasetView
from finery_contracts.jobs import TuneOutput
from finery_contracts.models import ModelView
from finery_contracts.tasks import TaskView


@dataclass(frozen=True)
class Facts:
    """Everything that a card and a bill of materials are made of."""

    model: ModelView
    base: ModelView | None
    datasets: tuple[DatasetView, ...]
    task: TaskView | None
    licence: str | None
    languages: tuple[str, ...] = ()
    architecture: str | None = None

    @property
    def parameters(self) -> dict[str, Any]:
        """Of the tuning that made it, as they were decided."""
        return dict((self.task.request.get("parameters") or {}) if self.task else {})

    @property
    def metrics(self) -> dict[str, float]:
        """That the tuning ended with."""
        return dict(self.task.output.metrics) if self.task and isinstance(self.task.output, TuneOutput) else {}


def card(facts: Facts) -> str:
    """The text of README.md."""
    model = facts.model
    trained_on = {view.name: f"{view.records:,} records, sha256 `{view.content_sha256}`" for view in facts.datasets}
    repaired = {
        made.id: f"{made.file}: {made.reason} (sha256 `{made.sha256_before}` became `{made.sha256_after}`)"
        for made in model.repairs
    }
    parts = [
        f"---\n{yaml.safe_dump(_metadata(facts), sort_keys=True, allow_unicode=True)}---\n",
        f"# {_one_line(model.name)}, version {model.number}\n",
        f"{_one_line(model.description)}\n" if model.description else "",
        _table("What it is", _identity(facts)),
        _table("Repaired", repaired),
        _table("Trained on", trained_on),
        _table("Parameters", facts.parameters),
        _table("Measured at the end of the tuning", {name: f"{value:.6g}" for name, value in facts.metrics.items()}),
    ]
    return "\n".join(part for part in parts if part)


def _metadata(facts: Facts) -> dict[str, Any]:
    """The YAML head that hubs and tools read."""
    base = facts.base
    told: dict[str, Any] = {
        "license": (facts.licence or "unknown").lower(), "model_name": facts.model.name, "tags": ["finery"],
        "library_name": "peft" if facts.model.adapter else "transformers", "pipeline_tag": "text-generation",
    }  # fmt: skip
    if base is not None:
        told["base_model"] = base.gallery or base.name
        told["base_model_relation"] = "adapter" if facts.model.adapter else "finetune"
    if facts.languages:
        told["language"] = list(facts.languages)
    if facts.datasets:
        told["datasets"] = [view.name for view in facts.datasets]
    if facts.metrics:
        told["metrics"] = sorted(facts.metrics)
    return told


def _identity(facts: Facts) -> dict[str, Any]:
    model = facts.model
    named = {
        "id": model.id, "made by": model.created_by, "made at": model.created_at.isoformat(),
        "base": f"{facts.base.name} ({facts.base.id})" if facts.base else None, "family": model.family,
        "repaired copy of": model.lineage.get("repaired_from"), "task": model.lineage.get("task"),
        "checkpoint step": model.lineage.get("step"), "licence": facts.licence,
        "parameters": f"{model.parameters:,}" if model.parameters else None,
        "longest text": f"{model.max_length} tokens",
    }  # fmt: skip
    return {name: value for name, value in named.items() if value is not None}


def _table(title: str, rows: dict[str, Any]) -> str:
    if not rows:
        return ""
    lines = [f"| {_cell(name)} | {_cell(value)} |" for name, value in rows.items()]
    return "\n".join([f"## {title}\n", "| | |", "|---|---|", *lines, ""])


def _cell(value: Any) -> str:
    return _one_line(str(value)).replace("|", "\\|")


def _one_line(text: str) -> str:
    """What people wrote cannot become a heading, a table or a second YAML head."""
    return " ".join(text.replace("<", "&lt;").split())
