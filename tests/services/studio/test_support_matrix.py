"""What may be done with a model: the published rows, and each rule with its name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from finery_contracts.errors import InvalidRequest
from finery_contracts.gallery import GalleryEntry
from finery_studio.models.gallery import load_gallery
from finery_studio.models.support import (
    RULES,
    UNKNOWN,
    Action,
    Facts,
    check,
    facts_of_entry,
    found_by_validation,
    may,
)

ROWS: dict[str, Any] = yaml.safe_load(Path(__file__).with_name("reference.yaml").read_text("utf-8"))["models"]
GALLERY = load_gallery().entries
FULL, LORA, DEPLOY = Action("tune", "full"), Action("tune", "lora"), Action("deploy")
AWQ, SMOOTHQUANT = Action("compress", "awq-w4a16"), Action("compress", "smoothquant-w8a8")


def entry(model_id: str) -> GalleryEntry:
    return GALLERY[model_id]


def of(model_id: str, **said: Any) -> Facts:
    return Facts("mine", entry=entry(model_id), **said)


def custom(**said: Any) -> Facts:
    return Facts("mine", **said)


def rule(facts: Facts, action: Action) -> str | None:
    refusal = may(facts, action)
    return refusal.rule if refusal else None


@pytest.mark.parametrize("model_id", ROWS)
def test_a_published_row_may_be_used_for_what_it_says_and_for_nothing_else(model_id: str) -> None:
    row, plain = ROWS[model_id], facts_of_entry(entry(model_id))

    assert [m for m in ("full", "lora") if may(plain, Action("tune", m)) is None] == row.get("tune", [])
    offered = {s for s in ("smoothquant-w8a8", "awq-w4a16", "fp8", "gguf") if may(plain, Action("compress", s)) is None}
    assert offered == set(row.get("compress", {}))
    assert may(plain, DEPLOY) is None


@pytest.mark.parametrize("model_id", ROWS)
def test_quantised_weights_of_a_row_are_deployed_where_a_pace_or_a_compression_is_published(model_id: str) -> None:
    row, compress = ROWS[model_id], ROWS[model_id].get("compress", {})
    awq = "qps_awq" in row or "awq-w4a16" in compress
    smoothquant = "qps_smoothquant" in row or "smoothquant-w8a8" in compress

    assert (rule(of(model_id, quantisation="awq"), DEPLOY) is None) is awq
    assert (rule(of(model_id, quantisation="smoothquant", compressed=True), DEPLOY) is None) is smoothquant


@pytest.mark.parametrize("model_id", sorted(ROWS))
@pytest.mark.parametrize("form", ["awq", "smoothquant", "gptq", UNKNOWN])
def test_what_is_quantised_is_neither_tuned_nor_compressed(model_id: str, form: str) -> None:
    for facts in (of(model_id, quantisation=form, compressed=True), custom(quantisation=form)):
        assert {rule(facts, action) for action in (FULL, LORA, AWQ, SMOOTHQUANT)} == {"quantised_deploy_only"}


BROKEN = [
    ("quantised_deploy_only", custom(quantisation="awq"), LORA),
    ("quantised_deploy_only", of("Qwen2-7B-AWQ", quantisation="awq"), AWQ),
    ("adapter_unmerged", custom(adapter=True), AWQ),
    ("adapter_unmerged", custom(adapter=True), FULL),
    ("adapter_not_continued", custom(adapter=True), LORA),
    ("tune_not_offered", of("Llama3.1-8B"), LORA),
    ("tune_not_offered", of("GLM-4-9B"), FULL),
    ("tune_not_offered", of("Yi-34B"), LORA),
    ("tune_not_offered", of("Qwen2-72B-32K"), LORA),
    ("method_not_offered", of("Qwen2-7B"), Action("tune", "qlora")),
    ("strategy_unknown", custom(), Action("compress", "squeeze")),
    ("smoothquant_not_for_awq_only", of("Qwen2-7B"), SMOOTHQUANT),
    ("compress_not_offered", of("Qwen2-7B"), AWQ),
    ("compress_not_offered", of("Baichuan2-13B"), SMOOTHQUANT),
    ("compress_not_offered", of("ChatGLM3-6B"), AWQ),
    ("compress_not_offered", of("Qwen-72B"), AWQ),
    ("compress_not_offered", of("Qwen1.5-32B"), SMOOTHQUANT),
    ("compress_not_offered", of("Qwen2-0.5B"), AWQ),
    ("compress_not_offered", of("Qwen2-1.5B"), AWQ),
    ("strategy_not_offered", of("Qwen2-72B"), AWQ),
    ("smoothquant_only_from_compression", custom(quantisation="smoothquant"), DEPLOY),
    ("smoothquant_only_from_compression", of("Llama2-7B", quantisation="smoothquant"), DEPLOY),
    ("form_not_offered", of("Qwen2-0.5B", quantisation="awq"), DEPLOY),
    ("form_not_offered", of("Qwen2-7B", quantisation="smoothquant", compressed=True), DEPLOY),
    ("form_not_offered", of("Qwen2-7B-AWQ"), DEPLOY),
]


@pytest.mark.parametrize(("name", "facts", "action"), BROKEN)
def test_a_refusal_names_the_rule_and_the_model_in_a_sentence(name: str, facts: Facts, action: Action) -> None:
    refusal = may(facts, action)

    assert refusal is not None
    assert refusal.rule == name
    named = {"mine", facts.entry.id if facts.entry else "mine"} if name != "strategy_unknown" else {action.how}
    assert any(word in refusal.sentence for word in named)
    assert "{" not in refusal.sentence

    with pytest.raises(InvalidRequest) as refused:
        check(facts, action)
    assert (refused.value.error_code, refused.value.param) == ("not_supported", "model")
    assert refused.value.details[0]["rule"] == name
    assert refused.value.message == f"{refusal.sentence} (rule {name})"


def test_every_rule_of_the_table_is_shown_to_refuse_something() -> None:
    nothing = entry("Qwen2-7B").model_copy(
        update={"supports": entry("Qwen2-7B").supports.model_copy(update={"deploy": []})}
    )

    assert rule(Facts("mine", entry=nothing), DEPLOY) == "deploy_not_offered"
    assert {name for name, _, _ in BROKEN} | {"deploy_not_offered"} == {known.id for known in RULES}


@pytest.mark.parametrize("action", [FULL, LORA, AWQ, SMOOTHQUANT, DEPLOY])
def test_a_folder_of_ones_own_that_is_not_quantised_may_be_used_for_everything(action: Action) -> None:
    assert may(custom(), action) is None


@pytest.mark.parametrize("facts", [custom(adapter=True), custom(quantisation="awq"), custom(quantisation=UNKNOWN)])
def test_adapters_and_open_quantised_weights_may_be_deployed(facts: Facts) -> None:
    assert may(facts, DEPLOY) is None


def test_every_entry_of_open_quantised_weights_is_for_deployment_only() -> None:
    quantised = [known for known in GALLERY.values() if known.quantisation != "none"]

    assert len(quantised) > 10
    for known in quantised:
        facts = facts_of_entry(known)
        assert may(facts, DEPLOY) is None
        assert {rule(facts, action) for action in (FULL, LORA, AWQ, SMOOTHQUANT)} == {"quantised_deploy_only"}


@pytest.mark.parametrize(
    ("facts", "said", "found"),
    [
        ({}, None, None), ({}, "awq", "awq"), ({"quantised": False}, "awq", None), ({"quantised": True}, None, UNKNOWN),
        ({"quantised": True}, "awq", "awq"), ({"quantised": True, "quantisation": "gptq"}, None, "gptq"),
    ],
)  # fmt: skip
def test_what_validation_has_seen_goes_before_what_the_gallery_said(
    facts: dict[str, Any], said: str | None, found: str | None
) -> None:
    assert found_by_validation(facts, said=said) == found
