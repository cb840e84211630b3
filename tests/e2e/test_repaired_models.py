"""From a fault that a known repair mends to a version that is ready: real engines, client and command line."""

from __future__ import annotations

import hashlib
import json
import subprocess
from pathlib import Path

import pytest

from finery.client import Finery
from finery.errors import FineryAPIError
from finery_contracts.models import ModelView
from tests.bench.house import FINERY, House
from tests.e2e.tiny_folders import GLM_TOKENIZER, QWEN_MODEL, tiny_glm, tiny_llama, tiny_qwen


def checked(finery: Finery, made: ModelView) -> ModelView:
    done = finery.tasks.wait(made.tasks[-1], check=False)
    assert done.state == "succeeded" or (done.error and done.error.code != "engine_crashed"), done.error
    if "validation" in done.result:
        finery.tasks.wait(done.result["validation"], check=False)
    return finery.models.get(made.id)


def files_of(up: House, model: ModelView) -> Path:
    assert model.weights is not None
    return up.home / "store" / model.weights.removeprefix("store://")


def test_sampling_that_would_not_happen_is_repaired_after_a_look_at_the_diff(up: House, tmp_path: Path) -> None:
    folder = tiny_llama(tmp_path / "weights", temperature=0.7)
    with Finery(up.ready["url"], up.ready["api_key"]) as finery:
        first = checked(finery, finery.models.create("sampler", path=str(folder)))
        assert (first.state, [found.code for found in first.findings if found.severity == "error"]) == (
            "invalid", ["do_sample_missing"],
        )  # fmt: skip
        (proposed,) = finery.models.repairs("sampler").data
        changed = [line for line in proposed.diff.splitlines() if line[0] in "+-" and line[:3] not in ("+++", "---")]
        assert (proposed.id, proposed.file, proposed.applied) == (
            "generation_do_sample", "generation_config.json", False,
        )  # fmt: skip
        assert changed == ['+  "do_sample": true,']

        done = subprocess.run(
            [FINERY, "models", "repair", "sampler", "generation_do_sample", "--yes", "--json", "--url",
             up.ready["url"], "--api-key", up.ready["api_key"]],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr

        second = finery.models.get("sampler")
        assert (second.number, second.state, second.lineage["repaired_from"]) == (2, "ready", first.id)
        assert json.loads((files_of(up, second) / "generation_config.json").read_text())["do_sample"] is True
        assert sha256(files_of(up, second) / "generation_config.json") == proposed.sha256_after
        kept = finery.models.get("sampler@1")
        assert (kept.id, kept.state, kept.findings) == (first.id, "invalid", first.findings)
        assert sha256(files_of(up, kept) / "generation_config.json") == proposed.sha256_before
        assert "do_sample" not in json.loads((folder / "generation_config.json").read_text())


def test_an_allowed_tokenizer_that_cannot_pad_is_repaired_and_runs(up: House, tmp_path: Path) -> None:
    folder = tiny_glm(tmp_path / "weights")
    with Finery(up.ready["url"], up.ready["api_key"]) as finery:
        first = checked(finery, finery.models.create("glm", path=str(folder)))
        faults = [(found.code, found.where) for found in first.findings if found.severity == "error"]
        assert faults == [("tokenizer_not_loadable", "tokenizer.json")], first.findings
        (proposed,) = finery.models.repairs("glm").data
        assert (proposed.id, proposed.allowed) == ("chatglm_padding_side", True)
        assert "+            padding_side=None," in proposed.diff.splitlines()

        second = checked(finery, finery.models.repair("glm", [proposed.id]))

        assert second.state == "ready", second.findings
        assert sha256(files_of(up, second) / "tokenization_chatglm.py") == proposed.sha256_after
        assert (files_of(up, finery.models.get("glm@1")) / "tokenization_chatglm.py").read_text() == GLM_TOKENIZER
        assert [(made.id, made.applied) for made in finery.models.repairs("glm").data] == [(proposed.id, True)]


def test_allowed_code_that_probes_types_is_repaired_although_it_runs(up: House, tmp_path: Path) -> None:
    folder = tiny_qwen(tmp_path / "weights")
    with Finery(up.ready["url"], up.ready["api_key"]) as finery:
        first = checked(finery, finery.models.create("qwen", path=str(folder)))
        assert first.state == "ready", first.findings
        (proposed,) = finery.models.repairs("qwen").data
        assert (proposed.id, proposed.sha256_before) == ("qwen_dtype_probing", sha256(folder / "modeling_qwen.py"))

        second = checked(finery, finery.models.repair("qwen", [proposed.id]))

        assert second.state == "ready", second.findings
        made = (files_of(up, second) / "modeling_qwen.py").read_text()
        assert set(made.splitlines()) - set(QWEN_MODEL.splitlines()) == {
            "SUPPORT_BF16 = not SUPPORT_CUDA or torch.cuda.is_bf16_supported()",
            "SUPPORT_FP16 = not SUPPORT_CUDA or torch.cuda.get_device_capability(0)[0] >= 7",
        }
        assert finery.models.get("qwen").id == second.id


def test_a_tokenizer_that_nobody_allowed_is_refused_and_its_repair_is_shown_all_the_same(
    up: House, tmp_path: Path
) -> None:
    folder = tiny_glm(tmp_path / "weights")
    file = folder / "tokenization_chatglm.py"
    file.write_text(f"# another one\n{GLM_TOKENIZER}")
    with Finery(up.ready["url"], up.ready["api_key"]) as finery:
        made = checked(finery, finery.models.create("other-glm", path=str(folder)))
        assert (made.state, made.weights) == ("invalid", None)
        assert {found.code for found in made.findings if found.severity == "error"} >= {"remote_code"}
        (proposed,) = finery.models.repairs("other-glm").data
        assert (proposed.id, proposed.sha256_before, proposed.allowed) == ("chatglm_padding_side", sha256(file), False)
        with pytest.raises(FineryAPIError) as refused:
            finery.models.repair("other-glm", [proposed.id])
        assert (refused.value.code, refused.value.status) == ("code_not_allowed", 403)


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
