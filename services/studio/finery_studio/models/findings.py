"""What tasks said of a model's files: findings, the repairs among them, and which Python files may run. Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterable

from finery_contracts.jobs import Finding, ValidateOutput
from finery_contracts.models import ModelView
from finery_contracts.tasks import TaskView
from finery_contracts.weights import Repair


def findings_of(task: TaskView) -> list[Finding]:
    """Of an import or a validation that has ended, well or not; empty when it ended before it could find anything."""
    if isinstance(task.output, ValidateOutput):
        return task.output.findings
    details = task.error.details if task.error else []
    return [Finding.model_validate(said) for said in details if {"code", "severity", "where"} <= said.keys()]


def faults_of(task: TaskView) -> list[Finding]:
    """Of an import or a validation that did not succeed: its findings, and its error where none of them is one."""
    findings, said = findings_of(task), task.error
    if said is None or any(found.severity == "error" for found in findings):
        return findings
    fault = Finding(code=said.code, severity="error", message=said.message, where=said.param or "-", remedy="-")
    return [fault, *findings]


def repairs_in(findings: Iterable[Finding], code: str) -> list[Repair]:
    """Those that findings of this code carry: ``repair_available`` or ``repair_applied``."""
    return [Repair.model_validate(found.data["repair"]) for found in findings if found.code == code]


def allowed_for(view: ModelView, allowed: Collection[str]) -> list[str]:
    """SHA-256 of the Python files that may run with this model: those an operator allows, and what our own repairs of
    these made of them."""
    repaired = {repair.sha256_after for repair in view.repairs if repair.sha256_before in allowed}
    return sorted({*allowed, *repaired})


def may_run(repair: Repair, allowed: Collection[str]) -> bool | None:
    """Whether a repaired Python file may run; None: it is no Python file, and nothing of it ever runs."""
    if not repair.file.endswith(".py"):
        return None
    return bool({repair.sha256_before, repair.sha256_after} & set(allowed))
