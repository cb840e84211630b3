"""Adds a scanner's verdict to files that were refused as pickles: advice for people, and never a reason to accept one.

picklescan parses opcodes and zip directories; it unpickles nothing, and it runs in a limited child all the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from finery_contracts.jobs import Finding
from finery_weight_validator.engine import limited

LIMITS = limited.Limits(cpu_s=10.0, wall_s=30.0, memory_bytes=2**30)
_SCANNED = frozenset({"pickled_weights", "archive_refused"})
_MOST_SCANS, _MOST_NAMES = 20, 20


def with_verdicts(findings: Sequence[Finding], folder: Path) -> list[Finding]:
    """The same findings; those of refused files carry ``data["scan"]`` and a sentence. The first 20 are scanned."""
    judged, scans = [], 0
    for finding in findings:
        if finding.code in _SCANNED and scans < _MOST_SCANS:
            scans += 1
            verdict = scan(folder / finding.where)
            message = f"{finding.message}; {_sentence(verdict)}"
            finding = finding.model_copy(update={"message": message, "data": {**finding.data, "scan": verdict}})
        judged.append(finding)
    return judged


def scan(path: Path) -> dict[str, Any]:
    """scanner, verdict (dangerous, suspicious, nothing_found, unreadable), and the names it would call."""
    from picklescan import scanner

    def look() -> dict[str, Any]:
        result = scanner.scan_file_path(str(path))
        levels: dict[str, list[str]] = {"dangerous": [], "suspicious": []}
        for found in result.globals:
            if found.safety.value in levels:
                levels[found.safety.value].append(f"{found.module}.{found.name}"[:100])
        return {"unreadable": bool(result.scan_err), **levels}

    try:
        answer = limited.call(look, LIMITS)
    except (limited.Beyond, limited.Failed) as fault:
        return {"scanner": "picklescan", "verdict": "unreadable", "reason": str(fault)[:200]}
    dangerous, suspicious = sorted(set(answer["dangerous"])), sorted(set(answer["suspicious"]))
    verdict = "dangerous" if dangerous else "suspicious" if suspicious else "nothing_found"
    if answer["unreadable"] and not dangerous:
        verdict = "unreadable"
    return {
        "scanner": "picklescan", "verdict": verdict, "dangerous": dangerous[:_MOST_NAMES],
        "suspicious": suspicious[:_MOST_NAMES],
    }  # fmt: skip


def _sentence(verdict: dict[str, Any]) -> str:
    said = verdict["verdict"]
    if said == "dangerous":
        return f"picklescan finds that opening it would call {', '.join(verdict['dangerous'][:5])}"
    if said == "suspicious":
        return f"picklescan does not know {', '.join(verdict['suspicious'][:5])}, which it would call"
    if said == "unreadable":
        return "picklescan cannot read it, which is no good sign"
    return "picklescan finds nothing dangerous in it, which is no proof"
