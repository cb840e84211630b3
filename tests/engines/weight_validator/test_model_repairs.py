"""Known repairs: proposed as diffs, made in a copy on consent; and Python files that run only when allowed."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
from folder_builders import change_json, codes, run_engine, validate

from finery_contracts.jobs import ImportOutput, ImportSpec
from finery_weight_validator.engine import convert
from finery_weight_validator.engine.repairs import (
    accept_padding_side,
    pad_with_the_end,
    probe_types_without_cuda,
    sample_when_told_how,
)

CHATGLM = '''\
from typing import Dict, Optional

class SPTokenizer:
    def _pad(self, other):
        return other

class ChatGLM4Tokenizer(Base):
    """Pads on the left, 左."""

    def _pad(
            self,
            encoded_inputs: Dict,
            max_length: Optional[int] = None,
            pad_to_multiple_of: Optional[int] = None,
            return_attention_mask: Optional[bool] = None,
    ) -> dict:
        assert self.padding_side == "left"
        return encoded_inputs
'''
QWEN = """\
SUPPORT_CUDA = torch.cuda.is_available()
SUPPORT_BF16 = SUPPORT_CUDA and torch.cuda.is_bf16_supported()
SUPPORT_FP16 = SUPPORT_CUDA and torch.cuda.get_device_capability(0)[0] >= 7
SUPPORT_TORCH2 = hasattr(torch, '__version__')
"""


def test_the_padding_of_chatglm_takes_the_side_that_it_is_given() -> None:
    mended = accept_padding_side(CHATGLM)

    added = set(mended.splitlines()) - set(CHATGLM.splitlines())
    assert added == {"            padding_side=None,"}
    assert _padded(mended, padding_side="left") == "input"
    with pytest.raises(TypeError):
        _padded(CHATGLM, padding_side="left")
    assert accept_padding_side(mended) == mended


@pytest.mark.parametrize("text", [
    "class ChatGLMTokenizer:\n    def _pad(self, a, **more): pass\n", "class Other:\n    def _pad(self, a): pass\n",
    "x = 1\n", "class ChatGLMTokenizer:\n    def _pad(self, *, padding_side): pass\n",
])  # fmt: skip
def test_a_tokenizer_that_needs_no_repair_stays_as_it_is(text: str) -> None:
    assert accept_padding_side(text) == text


def test_a_signature_on_one_line_is_repaired_too() -> None:
    text = "class ChatGLMTokenizer:\n    def _pad(self, encoded_inputs, max_length=None): return 'input'\n"

    assert "max_length=None, padding_side=None):" in accept_padding_side(text)


class _Cuda:
    def __init__(self, *, there: bool) -> None:
        self.there = there

    def is_available(self) -> bool:
        return self.there

    def is_bf16_supported(self) -> bool:
        return False

    def get_device_capability(self, number: int) -> tuple[int, int]:
        if not self.there:
            raise RuntimeError("there is no device")
        return (6, 0)


@pytest.mark.parametrize(("there", "expected"), [(False, (True, True)), (True, (False, False))])
def test_qwen_asks_cuda_only_where_there_is_one(there: bool, expected: tuple[bool, bool]) -> None:
    torch = type("torch", (), {"cuda": _Cuda(there=there), "__version__": "2"})
    space: dict[str, Any] = {"torch": torch}

    exec(probe_types_without_cuda(QWEN), space)  # our own lines, above

    assert (space["SUPPORT_BF16"], space["SUPPORT_FP16"]) == expected


def test_the_repairs_of_json_files_change_one_key() -> None:
    assert json.loads(sample_when_told_how('{"top_p": 0.9, "x": 1}')) == {"top_p": 0.9, "x": 1, "do_sample": True}
    assert json.loads(pad_with_the_end('{"eos_token": "</s>"}')) == {"eos_token": "</s>", "pad_token": "</s>"}
    for mend, text in ((sample_when_told_how, '{"x":1}'), (pad_with_the_end, '{"pad_token":"a","eos_token":"b"}')):
        assert mend(text) == text


@pytest.mark.parametrize(("before", "after"), [
    ('{"top_p": 0.9}', '{"top_p": 0.9, "do_sample": true}'),
    ('{\n\t"x" : [1,2],\n\t"top_p": 0.9\n}\n', '{\n\t"x" : [1,2],\n\t"top_p": 0.9,\n\t"do_sample": true\n}\n'),
    ('{"do_sample" : false, "top_p": 9e-1}', '{"do_sample" : true, "top_p": 9e-1}'),
    ('{"x": {"do_sample": false}, "top_p": 1, "do_sample": null}',
     '{"x": {"do_sample": false}, "top_p": 1, "do_sample": true}'),
    ('{\n  "a": "\\u4f60",\n  "top_k": 5\n}\n', '{\n  "a": "\\u4f60",\n  "do_sample": true,\n  "top_k": 5\n}\n'),
])  # fmt: skip
def test_a_repair_of_json_leaves_the_rest_as_it_was_written(before: str, after: str) -> None:
    assert sample_when_told_how(before) == after


def test_a_diff_of_a_very_long_line_still_shows_the_change(model: Path, tmp_path: Path) -> None:
    change_json(model / "generation_config.json", temperature=0.5, note="x" * 100_000)

    _, _, asked = validate(model, tmp_path / "asked")

    (repair,) = asked["repairs"]
    (given,) = (line for line in repair["diff"].splitlines() if line.startswith("+{"))
    assert given.endswith(', "do_sample": true}')
    assert len(repair["diff"]) < 16_000
    assert "characters" in given


def test_repairs_reach_whoever_may_agree_however_much_else_is_wrong(model: Path, tmp_path: Path) -> None:
    change_json(model / "generation_config.json", temperature=0.5)
    for number in range(600):
        (model / f"payload-{number}.bin").write_bytes(b"")

    _, refused, _ = validate(model, tmp_path / "asked")
    status, imported = run_engine(convert.main, tmp_path / "import", ImportSpec(source=str(model)))

    assert status == 2
    for result in (refused, imported):
        assert result.error is not None
        assert [finding["code"] for finding in result.error.details[:2]] == ["repair_available", "pickled_weights"]


def test_a_consent_to_what_does_not_fit_is_refused_with_what_does(model: Path, tmp_path: Path) -> None:
    change_json(model / "generation_config.json", temperature=0.5)
    spec = ImportSpec(source=str(model), apply_repairs=["tokenizer_pad_token"])

    _, result = run_engine(convert.main, tmp_path / "job", spec)

    assert result.error is not None
    assert (result.error.code, [found["data"]["repair"]["id"] for found in result.error.details]) == (
        "repair_unknown", ["generation_do_sample"],
    )  # fmt: skip


def test_files_beside_a_gguf_file_are_no_part_of_it_and_not_repaired(tmp_path: Path) -> None:
    (tmp_path / "generation_config.json").write_text('{"top_p": 0.9}')
    (tmp_path / "a.gguf").write_bytes(b"GGUF")
    spec = ImportSpec(source=str(tmp_path), apply_repairs=["generation_do_sample"])

    _, result = run_engine(convert.main, tmp_path / "job", spec)

    assert result.error is not None
    assert result.error.code == "repair_unknown"


def test_the_repaired_file_has_the_checksum_that_was_shown(model: Path, tmp_path: Path) -> None:
    change_json(model / "generation_config.json", "_from_model_config", temperature=0.5)
    _, _, asked = validate(model, tmp_path / "asked")
    spec = ImportSpec(source=str(model), apply_repairs=["generation_do_sample"])

    run_engine(convert.main, tmp_path / "job", spec)

    made = (tmp_path / "job" / "out" / "model" / "generation_config.json").read_bytes()
    assert hashlib.sha256(made).hexdigest() == asked["repairs"][0]["sha256_after"]


def test_a_repair_is_shown_as_a_diff_and_made_in_a_copy_on_consent(model: Path, tmp_path: Path) -> None:
    change_json(model / "generation_config.json", temperature=0.5)
    before = (model / "generation_config.json").read_bytes()

    _, refused, asked = validate(model, tmp_path / "asked")
    _, _, agreed = validate(model, tmp_path / "agreed", apply_repairs=["generation_do_sample"])

    (repair,) = asked["repairs"]
    assert repair["id"] == "generation_do_sample"
    *_, ended = repair["diff"].splitlines()
    taken, given = (line for line in repair["diff"].splitlines() if line[0] in "+-" and "{" in line)
    assert (taken[1:], given[1:-1]) == (before.decode(), before.decode()[:-1] + ', "do_sample": true')
    assert ended == "\\ No newline at end of file"
    assert repair["sha256_before"] == hashlib.sha256(before).hexdigest()
    assert refused.error is not None
    told = [finding for finding in refused.error.details if finding["code"] == "repair_available"]
    assert told[0]["data"]["repair"] == repair
    assert (codes(agreed), codes(agreed, "info")) == ([], ["repair_applied"])
    assert agreed["repairs"] == [repair]
    assert (model / "generation_config.json").read_bytes() == before


def test_a_repair_that_was_agreed_to_is_in_what_is_imported(model: Path, tmp_path: Path) -> None:
    change_json(model / "generation_config.json", temperature=0.5)
    spec = ImportSpec(source=str(model), apply_repairs=["generation_do_sample"])

    status, result = run_engine(convert.main, tmp_path / "job", spec)

    assert status == 0, result.error
    made = tmp_path / "job" / "out" / "model"
    assert json.loads((made / "generation_config.json").read_text())["do_sample"] is True
    assert isinstance(result.output, ImportOutput)
    assert [(repair.id, repair.file) for repair in result.output.repairs] == [
        ("generation_do_sample", "generation_config.json")
    ]
    assert codes(validate(made, tmp_path / "check")[2]) == []


def test_a_repair_that_fits_nothing_is_refused(model: Path, tmp_path: Path) -> None:
    spec = ImportSpec(source=str(model), apply_repairs=["qwen_dtype_probing"])

    status, result = run_engine(convert.main, tmp_path / "job", spec)

    assert (status, result.error.code if result.error else None) == (2, "repair_unknown")


def test_allowed_code_runs_in_its_child_and_no_other_does(model: Path, tmp_path: Path) -> None:
    trace = tmp_path / "it-ran"
    text = _own_tokenizer(trace)
    (model / "tokenization_chatglm.py").write_text(text)
    change_json(
        model / "tokenizer_config.json", tokenizer_class="ChatGLMTokenizer",
        auto_map={"AutoTokenizer": [None, "tokenization_chatglm.ChatGLMTokenizer"]},
    )  # fmt: skip
    allowed = hashlib.sha256(text.encode()).hexdigest()

    _, _, refused = validate(model, tmp_path / "refused", generate=True)
    _, _, other = validate(model, tmp_path / "other", generate=True, allowed_code=["0" * 64])
    status, _, accepted = validate(model, tmp_path / "accepted", generate=True, allowed_code=[allowed])

    assert codes(refused).count("remote_code") == codes(other).count("remote_code") == 2
    assert (status, codes(accepted)) == (0, [])
    assert accepted["facts"]["max_length"] == 77  # its own code said so
    assert "max_length" not in refused["facts"]
    assert not trace.exists()


def test_repaired_code_runs_when_it_was_allowed_as_it_is_after_the_repair(model: Path, tmp_path: Path) -> None:
    (model / "tokenization_chatglm.py").write_text(CHATGLM)
    _, _, asked = validate(model, tmp_path / "asked")
    after = asked["repairs"][0]["sha256_after"]

    _, _, agreed = validate(
        model, tmp_path / "agreed", apply_repairs=["chatglm_padding_side"], allowed_code=[after]
    )  # fmt: skip
    _, _, only_agreed = validate(model, tmp_path / "only", apply_repairs=["chatglm_padding_side"])

    assert codes(asked) == ["remote_code"]
    assert (codes(agreed), codes(agreed, "info")) == ([], ["repair_applied"])
    assert (codes(only_agreed), codes(only_agreed, "info")) == (["remote_code"], ["repair_available"])


def _padded(text: str, **told: Any) -> Any:
    space: dict[str, Any] = {"Base": object}
    exec(text, space)  # our own lines, above
    tokenizer = space["ChatGLM4Tokenizer"]()
    tokenizer.padding_side = "left"
    return tokenizer._pad("input", **told)


def _own_tokenizer(trace: Path) -> str:
    """A tokenizer as a folder may bring it: it tries what its child may not, and gives itself a telling length."""
    return f"""\
import os
import socket

from transformers import PreTrainedTokenizerFast

try:
    open({str(trace)!r}, "wb").close()
except OSError:
    pass
os.system("touch {trace}")
try:
    socket.create_connection(("127.0.0.1", 9), 1).close()
except OSError:
    pass


class ChatGLMTokenizer(PreTrainedTokenizerFast):
    def __init__(self, *arguments, **named):
        super().__init__(*arguments, **{{**named, "model_max_length": 77}})
"""
