"""Hostile chat templates by the hundred are refused under limits; good ones of the known families raise no alarm."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest
from chat_templates import GOOD, hostile

from finery_weight_validator.engine import chat, limited
from finery_weight_validator.engine.findings import errors_of

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
