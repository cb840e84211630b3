"""How a fault of a model folder is said: a stable code, what is wrong, where, and what to do."""

from __future__ import annotations

from collections.abc import Sequence

from finery_contracts.errors import WeightsInvalid
from finery_contracts.jobs import Finding

_MOST_OF_ONE_CODE = 50


def error(code: str, where: str, *, message: str, remedy: str) -> Finding:
    """A fault that fails the task."""
    return Finding(code=code, severity="error", where=where[:300], message=message, remedy=remedy)


def warning(code: str, where: str, *, message: str, remedy: str) -> Finding:
    """Something that works, but perhaps not as meant."""
    return Finding(code=code, severity="warning", where=where[:300], message=message, remedy=remedy)


def info(code: str, where: str, *, message: str, remedy: str) -> Finding:
    """Something worth knowing, such as a stage that could not run."""
    return Finding(code=code, severity="info", where=where[:300], message=message, remedy=remedy)


def errors_of(findings: Sequence[Finding]) -> list[Finding]:
    """Those that fail the task."""
    return [finding for finding in findings if finding.severity == "error"]


def shortened(findings: Sequence[Finding]) -> list[Finding]:
    """At most 50 of each code, and one remark for each code that says how many more there are."""
    kept: list[Finding] = []
    seen: dict[str, int] = {}
    for finding in findings:
        seen[finding.code] = seen.get(finding.code, 0) + 1
        if seen[finding.code] <= _MOST_OF_ONE_CODE:
            kept.append(finding)
    for code, count in seen.items():
        if count > _MOST_OF_ONE_CODE:
            more = count - _MOST_OF_ONE_CODE
            kept.append(
                info("more_of_the_same", code, message=f"{more} more findings {code} are left out", remedy="see above")
            )
    return kept


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
