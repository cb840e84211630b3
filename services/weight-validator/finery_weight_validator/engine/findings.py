"""How a fault of a model folder is said: a stable code, what is wrong, where, and what to do."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from finery_contracts.errors import WeightsInvalid
from finery_contracts.jobs import Finding

_MOST_OF_ONE_CODE, _MOST_IN_ALL = 50, 400
_REPAIRS = ("repair_available", "repair_applied")
_LONGEST_PLACE, _LONGEST_TEXT = 300, 1_000


def error(code: str, where: str, *, message: str, remedy: str, **data: Any) -> Finding:
    """A fault that fails the task."""
    return _finding(code, "error", where, message=message, remedy=remedy, data=data)


def warning(code: str, where: str, *, message: str, remedy: str, **data: Any) -> Finding:
    """Something that works, but perhaps not as meant."""
    return _finding(code, "warning", where, message=message, remedy=remedy, data=data)


def info(code: str, where: str, *, message: str, remedy: str, **data: Any) -> Finding:
    """Something worth knowing, such as a stage that could not run."""
    return _finding(code, "info", where, message=message, remedy=remedy, data=data)


def errors_of(findings: Sequence[Finding]) -> list[Finding]:
    """Those that fail the task."""
    return [finding for finding in findings if finding.severity == "error"]


def shortened(findings: Sequence[Finding]) -> list[Finding]:
    """At most 50 of each code and 400 in all, and one remark for each code that says how many more there are."""
    kept: list[Finding] = []
    seen: dict[str, int] = {}
    left_out: dict[str, int] = {}
    for finding in findings:
        seen[finding.code] = seen.get(finding.code, 0) + 1
        told = seen[finding.code] == 1 or finding.code in _REPAIRS  # no kind is hidden by the number of others
        if told or (seen[finding.code] <= _MOST_OF_ONE_CODE and len(kept) < _MOST_IN_ALL):
            kept.append(finding)
        else:
            left_out[finding.code] = left_out.get(finding.code, 0) + 1
    for code, more in left_out.items():
        message = f"{more} more findings {code} are left out"
        kept.append(info("more_of_the_same", code, message=message, remedy="see above"))
    return kept


def as_details(findings: Sequence[Finding]) -> list[dict[str, Any]]:
    """For an error. Repairs come first: a report keeps the first details only, and whoever may agree needs the diff."""
    ordered = sorted(findings, key=lambda finding: finding.code not in _REPAIRS)
    return [finding.model_dump() for finding in ordered]


def refuse(findings: Sequence[Finding]) -> None:
    """Raise WeightsInvalid with the first error's code and every finding in its details; nothing when there is none."""
    errors = errors_of(findings)
    if not errors:
        return
    first, more = errors[0], f" ({len(errors)} faults in all)" if len(errors) > 1 else ""
    raise WeightsInvalid(
        f"{first.where}: {first.message}; {first.remedy}{more}.",
        code=first.code,
        param=first.where,
        details=[finding.model_dump() for finding in shortened(findings)],
    )


def printable(text: str, longest: int = _LONGEST_TEXT) -> str:
    """Names and texts of a hostile folder in a form that no terminal, log or JSON writer stumbles over."""
    return "".join(sign if sign.isprintable() else f"\\x{ord(sign):02x}" for sign in text[:longest])


def _finding(
    code: str, severity: Literal["error", "warning", "info"], where: str, *, message: str, remedy: str, data: Any
) -> Finding:
    return Finding(
        code=code,
        severity=severity,
        where=printable(where, _LONGEST_PLACE) or "-",
        message=printable(message),
        remedy=printable(remedy),
        data=data,
    )
