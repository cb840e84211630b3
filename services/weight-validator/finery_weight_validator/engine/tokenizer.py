"""Judges the tokenizer and its chat template: it must load without foreign code, and the template must render.

The template is rendered by another process under limits (``template``); here only its answer is read.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from transformers import AutoTokenizer, PreTrainedTokenizerBase

from finery_contracts.jobs import Finding
from finery_weight_validator.engine.findings import error, info, warning
from finery_weight_validator.engine.folder import Survey, read_json

_WALL_S = 5.0
_MAX_TEMPLATE = 2**20
_ASKED, _ANSWERED = "Wie geht es dir, 你好?", "Sehr gut, danke."
_CONVERSATIONS = (
    [{"role": "user", "content": _ASKED}],
    [
        {"role": "user", "content": _ASKED},
        {"role": "assistant", "content": _ANSWERED},
        {"role": "user", "content": "Fine."},
    ],
    [{"role": "system", "content": "Be brief."}, {"role": "user", "content": _ASKED}],
)
_WHERE = "chat_template"


def load(view: Path) -> tuple[PreTrainedTokenizerBase | None, list[Finding]]:
    """The folder's tokenizer, or ``tokenizer_not_loadable`` when it does not load or makes no tokens of a sentence."""
    try:
        tokenizer = AutoTokenizer.from_pretrained(view, local_files_only=True, trust_remote_code=False)
        ids = tokenizer(_ASKED, add_special_tokens=False)["input_ids"]
        if not ids:
            raise ValueError("it makes no tokens of a sentence")
    except Exception as fault:  # tokenizers raises bare Exception on a file that it cannot use
        return None, [
            error(
                "tokenizer_not_loadable",
                "tokenizer.json",
                message=f"the tokenizer cannot be loaded: {str(fault)[:400]}",
                remedy="add tokenizer.json and tokenizer_config.json of the model",
            )
        ]
    return tokenizer, []


def template_of(found: Survey) -> str | None:
    """The chat template by the places where transformers looks: its own file, then tokenizer_config.json."""
    path = found.usable.get("chat_template.jinja")
    if path is not None:
        return path.read_bytes()[: _MAX_TEMPLATE + 1].decode("utf-8", errors="replace")
    for name in ("chat_template.json", "tokenizer_config.json"):
        try:
            stated = read_json(found.usable[name]).get("chat_template")
        except (KeyError, OSError, ValueError):
            continue
        if isinstance(stated, list):
            named = {entry.get("name"): entry.get("template") for entry in stated if isinstance(entry, dict)}
            stated = named.get("default") or next(iter(named.values()), None)
        if isinstance(stated, str):
            return stated
    return None


def template_findings(template: str | None, *, tokens: dict[str, str]) -> list[Finding]:
    """``chat_template_missing`` or ``chat_template_invalid``: syntax, limits, and whether the messages come out."""
    if not template:
        remedy = "add chat_template.jinja if the model is to be asked in conversations"
        return [warning("chat_template_missing", _WHERE, message="there is no chat template", remedy=remedy)]
    if len(template) > _MAX_TEMPLATE:
        return [_invalid(f"it is longer than {_MAX_TEMPLATE} characters")]
    request = {"template": template, "tokens": tokens, "conversations": _CONVERSATIONS}
    try:
        child = subprocess.run(
            [sys.executable, "-m", "finery_weight_validator.engine.template"],
            input=json.dumps(request).encode(),
            capture_output=True,
            timeout=_WALL_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return [_invalid(f"it takes longer than {_WALL_S:.0f} s for a few short messages")]
    if child.returncode != 0:
        return [_invalid("it takes more time or memory than a template may for a few short messages")]
    return _judge(json.loads(child.stdout))


def special_tokens(tokenizer: PreTrainedTokenizerBase) -> dict[str, str]:
    """The tokens that templates name, by their names."""
    return {name: token for name, token in tokenizer.special_tokens_map.items() if isinstance(token, str)}


def _judge(answer: dict[str, Any]) -> list[Finding]:
    if "syntax" in answer:
        return [_invalid(f"it does not parse: {answer['syntax']}")]
    single, several, with_system = answer["texts"]
    for result, wanted in ((single, (_ASKED,)), (several, (_ASKED, _ANSWERED))):
        if "error" in result:
            return [_invalid(f"it fails on an ordinary conversation: {result['error']}")]
        if not all(text in result["text"] for text in wanted):
            return [_invalid("it leaves out what the messages say")]
    if "error" in with_system:
        return [
            info(
                "chat_template_without_system",
                _WHERE,
                message=f"it refuses system messages: {with_system['error']}",
                remedy="put instructions into the first user message",
            )
        ]
    return []


def _invalid(message: str) -> Finding:
    remedy = "put the model's own chat_template.jinja there"
    return error("chat_template_invalid", _WHERE, message=message, remedy=remedy)
