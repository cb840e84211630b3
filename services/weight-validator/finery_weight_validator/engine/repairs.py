"""Known repairs of old families and careless saves: each is a function from a file's text to its text, told by a diff.

Nothing is changed in a user's folder: a repair is proposed, and applied to a copy when its id was agreed to.
"""

from __future__ import annotations

import ast
import difflib
import hashlib
import itertools
import json
import re
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from finery_contracts.errors import InvalidRequest
from finery_contracts.jobs import Finding, Repair
from finery_weight_validator.engine import limited
from finery_weight_validator.engine.findings import info
from finery_weight_validator.engine.folder import MAX_CODE_BYTES, Survey

MAX_DIFF_CHARACTERS = 16_000
"""Several of them must fit into a report, beside the findings."""
LIMITS = limited.Limits(cpu_s=10.0, wall_s=30.0, memory_bytes=2**30)


@dataclass(frozen=True)
class KnownRepair:
    """``mend`` returns the text unchanged when the repair has nothing to do."""

    id: str
    file: str
    reason: str
    mend: Callable[[str], str]


def accept_padding_side(text: str) -> str:
    """tokenization_chatglm.py of ChatGLM3-6B and GLM-4-9B: ``_pad`` takes the ``padding_side`` that transformers gives.

    Since 4.45 transformers calls ``_pad(…, padding_side=…)``; the method pads on the left whatever it is told.
    """
    method = next(
        (
            member
            for node in ast.walk(ast.parse(text))
            if isinstance(node, ast.ClassDef) and re.match(r"Chat_?GLM", node.name)
            for member in node.body
            if isinstance(member, ast.FunctionDef) and member.name == "_pad"
        ),
        None,
    )
    if method is None or method.args.kwarg is not None or method.args.vararg is not None or not method.args.args:
        return text
    if "padding_side" in {argument.arg for argument in [*method.args.args, *method.args.kwonlyargs]}:
        return text
    last: ast.expr | ast.arg = method.args.args[-1]
    for after in (method.args.args[-1].annotation, *method.args.defaults[-1:]):
        last = after or last
    lines = text.splitlines(keepends=True)
    row, column = (last.end_lineno or 1) - 1, last.end_col_offset or 0
    raw = lines[row].encode()  # ast counts bytes
    indent = re.match(rb"\s*", raw)
    alone = row != method.lineno - 1
    joint = b",\n" + (indent[0] if indent else b"") if alone else b", "
    lines[row] = (raw[:column] + joint + b"padding_side=None" + raw[column:]).decode()
    return "".join(lines)


def probe_types_without_cuda(text: str) -> str:
    """modeling_qwen.py of Qwen-7B, 14B and 72B: bf16 and fp16 are not ruled out where there is no CUDA device.

    The file asks CUDA at import and takes fp32, at twice the memory, on every other accelerator and on processors.
    """
    return re.sub(
        r"^(SUPPORT_(?:BF16|FP16)) *= *SUPPORT_CUDA and (.+)$",
        r"\1 = not SUPPORT_CUDA or \2",
        text,
        flags=re.MULTILINE,
    )


def sample_when_told_how(text: str) -> str:
    """generation_config.json: ``do_sample`` true where temperature, top_p or top_k say how to sample."""
    content = json.loads(text)
    if not isinstance(content, dict) or content.get("do_sample") is True:
        return text
    if all(content.get(key) is None for key in ("temperature", "top_p", "top_k")):
        return text
    return _with_key(text, content, "do_sample", True)


def pad_with_the_end(text: str) -> str:
    """tokenizer_config.json: a tokenizer without padding token pads with its end token; masks hide it."""
    content = json.loads(text)
    if not isinstance(content, dict) or content.get("pad_token") or not content.get("eos_token"):
        return text
    return _with_key(text, content, "pad_token", content["eos_token"])


KNOWN = (
    KnownRepair(
        "chatglm_padding_side",
        "tokenization_chatglm.py",
        "newer transformers pass padding_side to _pad, and the tokenizer of ChatGLM3-6B and GLM-4-9B does not take it",
        accept_padding_side,
    ),
    KnownRepair(
        "qwen_dtype_probing",
        "modeling_qwen.py",
        "Qwen-7B, 14B and 72B probe CUDA for bf16 and fp16 and take fp32 on every other machine",
        probe_types_without_cuda,
    ),
    KnownRepair(
        "generation_do_sample",
        "generation_config.json",
        "temperature, top_p or top_k are set, but do_sample is not true, so sampling would silently not happen",
        sample_when_told_how,
    ),
    KnownRepair(
        "tokenizer_pad_token",
        "tokenizer_config.json",
        "there is no padding token, so texts of different length cannot be put into one batch",
        pad_with_the_end,
    ),
)


def proposed(found: Survey) -> list[Repair]:
    """What fits this folder, whether or not the file may be run; unreadable files fit nothing."""
    repairs: list[Repair] = []
    for known in KNOWN:
        raw = _raw_of(found, known.file)
        if raw is None:
            continue
        try:
            mended = limited.call(lambda known=known, raw=raw: known.mend(raw.decode()), LIMITS)
        except (limited.Beyond, limited.Failed):
            continue
        after = mended.encode()
        if after != raw:
            repairs.append(
                Repair(
                    id=known.id, file=known.file, reason=known.reason, diff=_diff(known.file, raw.decode(), mended),
                    sha256_before=hashlib.sha256(raw).hexdigest(), sha256_after=hashlib.sha256(after).hexdigest(),
                )
            )  # fmt: skip
    return repairs


def repair_findings(available: Sequence[Repair], applied: Sequence[Repair]) -> list[Finding]:
    """``repair_available`` or ``repair_applied`` for each, with the diff in ``data``."""
    findings = []
    for repair in applied:
        remedy = "nothing to do: a copy was judged that has it"
        findings.append(_told("repair_applied", repair, remedy))
    for repair in available:
        remedy = f"agree to it with apply_repairs: {repair.id}"
        if repair.file.endswith(".py"):
            remedy += f", and let an operator allow the sha256 {repair.sha256_after}"
        findings.append(_told("repair_available", repair, remedy))
    return findings


def _told(code: str, repair: Repair, remedy: str) -> Finding:
    return info(code, repair.file, message=repair.reason, remedy=remedy, repair=repair.model_dump())


def apply(found: Survey, agreed: Sequence[str], copies: Path, *, allowed_code: Collection[str]) -> list[Repair]:
    """Put repaired copies into ``copies`` and into ``found`` instead of the originals, which stay; returns them.

    A Python file becomes one that may run when an operator has allowed its checksum, before or after the repair.
    Raises InvalidRequest ``repair_unknown`` for an id that stands for none, or for none that fits this folder.
    """
    fitting = {repair.id: repair for repair in proposed(found)}
    by_id = {known.id: known for known in KNOWN}
    applied: list[Repair] = []
    copies.mkdir(parents=True, exist_ok=True)
    for name in dict.fromkeys(agreed):
        repair = fitting.get(name)
        if repair is None:
            raise InvalidRequest(
                f"No repair {name[:60]!r} fits this folder; there are: {', '.join(fitting) or 'none'}.",
                code="repair_unknown",
                param="apply_repairs",
                details=[finding.model_dump() for finding in repair_findings(list(fitting.values()), [])],
            )
        text = by_id[name].mend((_raw_of(found, repair.file) or b"").decode()).encode()
        if not repair.file.endswith(".py"):
            (copies / repair.file).write_bytes(text)
            found.usable[repair.file] = copies / repair.file
            applied.append(repair)
        elif {repair.sha256_before, repair.sha256_after} & set(allowed_code):
            found.code[repair.file] = text
            found.refused_code.pop(repair.file, None)
            found.findings[:] = [fault for fault in found.findings if fault.where != repair.file]
            applied.append(repair)
    return applied


def _raw_of(found: Survey, name: str) -> bytes | None:
    if name in found.code:
        return found.code[name]
    path: Path | None = found.usable.get(name) or found.refused_code.get(name)
    if path is None or path.is_symlink() or path.stat().st_size > MAX_CODE_BYTES:
        return None
    return path.read_bytes()


def _with_key(text: str, content: dict[str, Any], key: str, value: Any) -> str:
    """The text of a JSON object with one key set; all the rest stays as it was written, wherever that can be done.

    A file whose keys are sorted stays sorted, so that an import, which sorts, leaves the repaired file as it is here.
    """
    wanted = {**content, key: value}
    if list(content) == sorted(content):
        wanted = dict(sorted(wanted.items()))
    body = text.rstrip()
    for ascii_only in (False, True):
        if body == json.dumps(content, indent=2, ensure_ascii=ascii_only):
            return json.dumps(wanted, indent=2, ensure_ascii=ascii_only) + text[len(body) :]
    for made in _replaced(text, key, value) if key in content else [_appended(text, key, value)]:
        if _means(made, wanted):
            return made
    return json.dumps(wanted, indent=2, ensure_ascii=False) + "\n"


def _replaced(text: str, key: str, value: Any) -> Iterator[str]:
    """Each place where the key stands with a plain value; the right one is that of the object itself."""
    stated = re.compile(rf'"{re.escape(key)}"\s*:\s*(null|false|true|-?\d+|"[^"\\]*")')
    for found in itertools.islice(stated.finditer(text), 20):
        yield text[: found.start(1)] + json.dumps(value, ensure_ascii=False) + text[found.end(1) :]


def _appended(text: str, key: str, value: Any) -> str:
    inner = text.rstrip().removesuffix("}").rstrip()
    gap = re.match(r"\s*\{(\s*)", text)
    joint = (gap[1] if gap else "") or " "
    return inner + "," + joint + json.dumps({key: value}, ensure_ascii=False)[1:-1] + text[len(inner) :]


def _means(text: str, wanted: dict[str, Any]) -> bool:
    try:
        return json.loads(text) == wanted
    except ValueError:
        return False


def _diff(name: str, before: str, after: str) -> str:
    """A unified diff. What is too long for a report is left out in the middle of lines first, and then at the end."""
    lines = list(
        difflib.unified_diff(
            before.splitlines(keepends=True), after.splitlines(keepends=True), f"a/{name}", f"b/{name}"
        )
    )
    ended = [line if line.endswith("\n") else f"{line}\n\\ No newline at end of file\n" for line in lines]
    if sum(map(len, ended)) > MAX_DIFF_CHARACTERS:
        ended = [_middle_left_out(line) for line in ended]
    shown = "".join(ended)
    if len(shown) <= MAX_DIFF_CHARACTERS:
        return shown
    return shown[:MAX_DIFF_CHARACTERS] + f"\n\\ {len(shown) - MAX_DIFF_CHARACTERS} more characters are not shown\n"


def _middle_left_out(line: str, *, side: int = 200) -> str:
    if len(line) <= 3 * side:
        return line
    return f"{line[:side]} […{len(line) - 2 * side} characters…] {line[-side:]}"
