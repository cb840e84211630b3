"""Hostile chat templates by the hundred are refused under limits; good ones of the known families raise no alarm."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import pytest
from chat_templates import BODY, GOOD, hostile

from finery_weight_validator.engine import chat, limited
from finery_weight_validator.engine.findings import errors_of
from finery_weight_validator.engine.folder import survey

QUICK = limited.Limits(cpu_s=0.3, wall_s=5.0, memory_bytes=128 * 2**20, answer_bytes=32 * 2**20)
TOKENS = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "</s>"}


def test_no_hostile_template_is_accepted_or_takes_long() -> None:
    accepted, slow, before = [], [], _children()
    cases = list(hostile())
    for name, text in cases:
        began = time.monotonic()
        if not errors_of(chat.template_findings(text, tokens=TOKENS, limits=QUICK)[0]):
            accepted.append((name, text[:120]))
        if time.monotonic() - began > QUICK.wall_s + 1:
            slow.append(name)

    assert accepted == []
    assert len(cases) >= 180
    assert slow == []
    assert _children() == before


TRICK = "{{ ''.__class__.__mro__ }}"
PLACES: dict[str, dict[str, object]] = {
    "a name of several": {"tokenizer_config.json": {"chat_template": [
        {"name": "default", "template": BODY}, {"name": "tool_use", "template": TRICK}]}},
    "behind the file": {"chat_template.jinja": BODY, "tokenizer_config.json": {"chat_template": TRICK}},
    "a processor's": {"chat_template.jinja": BODY, "processor_config.json": {"chat_template": TRICK}},
    "named ones in an object": {"chat_template.jinja": BODY, "chat_template.json": {"chat_template": {"rag": TRICK}}},
    "a second file": {"chat_template.jinja": BODY, "tools.jinja": TRICK},
    "a folder of them": {"chat_template.jinja": BODY, "additional_chat_templates/tool_use.jinja": TRICK},
    "one that does not parse": {"chat_template.jinja": BODY, "tools.jinja": "{% if %}"},
}  # fmt: skip


@pytest.mark.parametrize("place", PLACES)
def test_a_hostile_template_that_is_not_the_chosen_one_is_found_too(tmp_path: Path, place: str) -> None:
    (tmp_path / "additional_chat_templates").mkdir()
    for name, content in PLACES[place].items():
        (tmp_path / name).write_text(content if isinstance(content, str) else json.dumps(content))
    found = survey(tmp_path)

    (fault,) = chat.other_findings(found, tokens=TOKENS)

    assert errors_of(chat.template_findings(chat.template_of(found)[0], tokens=TOKENS)[0]) == []
    assert (fault.code, fault.severity) == ("chat_template_invalid", "error")
    assert fault.where.startswith(list(PLACES[place])[-1])


def test_another_template_need_not_fit_an_ordinary_conversation(tmp_path: Path) -> None:
    (tmp_path / "chat_template.jinja").write_text(BODY)
    (tmp_path / "rag.jinja").write_text("{% for d in documents %}{{ d.text }}{% endfor %}")
    assert chat.other_findings(survey(tmp_path), tokens=TOKENS) == []


@pytest.mark.parametrize("name", GOOD)
def test_a_good_template_raises_no_alarm(name: str) -> None:
    findings, facts = chat.template_findings(GOOD[name], tokens=TOKENS)

    assert errors_of(findings) == []
    assert facts["chat"] is True


@pytest.mark.parametrize(("name", "system", "tools"), [
    ("qwen with tools", True, True), ("mistral", False, False), ("glm 4", True, False), ("llama 2", True, False),
])  # fmt: skip
def test_what_a_template_can_is_told(name: str, system: bool, tools: bool) -> None:
    _, facts = chat.template_findings(GOOD[name], tokens=TOKENS)

    assert (facts["chat_system"], facts["chat_tools"]) == (system, tools)


def _children() -> set[str]:
    return set(Path(f"/proc/self/task/{os.getpid()}/children").read_text().split())
