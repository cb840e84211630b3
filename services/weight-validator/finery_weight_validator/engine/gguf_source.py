"""Turns one GGUF file into a folder of safetensors (bf16), config and tokenizer, with transformers' own reader.

The reader runs in a limited child, on files whose header was found sound. It refuses architectures that transformers
cannot read and models that memory cannot hold. Nothing of the file is run; its chat template is only copied.
"""

from __future__ import annotations

import os

# Read by libgomp and the Hugging Face libraries when they are imported; a caller's own values stay.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import json
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, pre_tokenizers
from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig, PreTrainedTokenizerBase
from transformers.utils import logging as transformers_logging

from finery_contracts.errors import WeightsInvalid
from finery_weight_validator.engine import limited
from finery_weight_validator.engine.gguf_header import GgufFault, read_header
from finery_weight_validator.engine.memory import free_bytes

_BYTES_A_PARAMETER, _ROOM_BYTES = 5, 4 * 2**30
"""bf16 twice, for a moment, and what a tensor takes in 32 bits while it is read; libraries beside."""
_SLOWEST_PARAMETERS_PER_S = 2_000_000
_FAULTS = (OSError, ValueError, KeyError, TypeError, AttributeError, RuntimeError, IndexError, ImportError,
           NotImplementedError)  # fmt: skip
_DIGIT_BY_DIGIT = frozenset({"smollm", "starcoder", "refact", "command-r", "codeshell", "exaone", "minerva-7b"})
"""Values of ``tokenizer.ggml.pre`` that cut numbers into single digits and then as GPT-2 does (llama.cpp,
``llama-vocab.cpp``); transformers' reader drops that step."""


_TRACES = frozenset({"is_local", "local_files_only", "bos_token_id", "eos_token_id", "pad_token_id", "unk_token_id",
                     "model_type", "legacy"})  # fmt: skip
"""What transformers leaves in tokenizer_config.json of a GGUF: how it was called, and ids that contradict the names."""


@dataclass(frozen=True)
class Conversion:
    """What is converted: a whole file, how many values it holds, and how many its largest tensor."""

    gguf: Path
    name: str
    parameters: int
    largest: int


def make_folder(asked: Conversion, target: Path, *, stop: threading.Event) -> None:
    """Write the model of ``asked.gguf`` into ``target``.

    Raises WeightsInvalid ``gguf_invalid``, ``gguf_not_supported``, ``tensor_missing`` or ``memory_too_small``.
    """
    needed = asked.parameters * 2 + asked.largest * 8 + 2**30
    free = free_bytes()
    if free is not None and needed > free:
        raise WeightsInvalid(
            f"Converting {asked.gguf.name} takes about {needed} bytes of memory, {free} are free; convert it on a "
            "larger machine, or give the model as safetensors.",
            code="memory_too_small",
            param=asked.gguf.name,
        )
    longest_s = 600 + asked.parameters / _SLOWEST_PARAMETERS_PER_S
    limits = limited.Limits(
        cpu_s=longest_s, wall_s=longest_s, file_bytes=asked.parameters * 4 + 2**30,
        memory_bytes=asked.parameters * _BYTES_A_PARAMETER + asked.largest * 8 + _ROOM_BYTES, writable=target,
    )  # fmt: skip
    try:
        refused = limited.call(lambda: _convert(asked, target), limits, stop=stop)
    except (limited.Beyond, limited.Failed) as fault:
        raise _not_supported(asked.gguf, "content", fault) from fault
    if refused is not None:
        raise WeightsInvalid(refused["message"], code=refused["code"], param=refused["param"])


def _convert(asked: Conversion, target: Path) -> dict[str, str | None] | None:
    """Runs in a child; what is refused there is said again by the parent."""
    gguf = asked.gguf
    torch.set_num_threads(1)  # OpenMP's threads do not come along with a fork
    transformers_logging.disable_progress_bar()
    try:
        facts = _read_facts(gguf)
        try:
            tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name, local_files_only=True)
        except _FAULTS as fault:
            raise _not_supported(gguf, "tokenizer", fault) from fault
        _restore_digit_splitting(tokenizer, facts)
        tokenizer.clean_up_tokenization_spaces = tokenizer.init_kwargs["clean_up_tokenization_spaces"] = False
        model = _read_model(gguf)
    except WeightsInvalid as fault:
        return {"message": fault.message, "code": fault.error_code, "param": fault.param}
    model.config._name_or_path = model.name_or_path = asked.name
    model.save_pretrained(target)
    tokenizer.save_pretrained(target)
    _drop_traces(target / "tokenizer_config.json")
    _write_card(target / "README.md", facts, name=asked.name)
    return None


def _read_facts(gguf: Path) -> dict[str, Any]:
    """The short metadata of the file by key, lists left out; raises WeightsInvalid ``gguf_invalid``."""
    try:
        return read_header(gguf).facts
    except (GgufFault, OSError) as fault:
        raise WeightsInvalid(
            f"{gguf.name} cannot be used: {fault}; download it again.", code="gguf_invalid", param=gguf.name
        ) from fault


def _read_model(gguf: Path) -> Any:
    try:
        model, loading = AutoModelForCausalLM.from_pretrained(
            gguf.parent,
            gguf_file=gguf.name,
            dtype=torch.bfloat16,
            quantization_config=GgufConfig(dequantize=True),
            local_files_only=True,
            output_loading_info=True,
        )
    except _FAULTS as fault:
        raise _not_supported(gguf, "weights", fault) from fault
    missing = sorted(loading["missing_keys"])
    if missing:
        raise WeightsInvalid(
            f"{gguf.name} lacks {len(missing)} tensors, the first is {missing[0]}; download it again.",
            code="tensor_missing",
            param=missing[0],
        )
    return model


def _restore_digit_splitting(tokenizer: PreTrainedTokenizerBase, facts: dict[str, Any]) -> None:
    """Numbers are cut into digits before the byte-level step, as the model was trained."""
    backend: Tokenizer = tokenizer.backend_tokenizer
    if facts.get("tokenizer.ggml.model") != "gpt2" or facts.get("tokenizer.ggml.pre") not in _DIGIT_BY_DIGIT:
        return
    if isinstance(backend.pre_tokenizer, pre_tokenizers.ByteLevel):
        digits = pre_tokenizers.Digits(individual_digits=True)
        backend.pre_tokenizer = pre_tokenizers.Sequence([digits, backend.pre_tokenizer])


def _drop_traces(path: Path) -> None:
    kept = {key: value for key, value in json.loads(path.read_text("utf-8")).items() if key not in _TRACES}
    path.write_text(json.dumps(kept, indent=2, ensure_ascii=False), encoding="utf-8")


def _write_card(path: Path, facts: dict[str, Any], *, name: str) -> None:
    """A model card that keeps the licence which the GGUF states: it has no other place in a model folder."""
    licence = facts.get("general.license")
    front = f"---\nlicense: {json.dumps(str(licence))}\n---\n\n" if licence else ""
    origin = facts.get("general.name") or name
    path.write_text(f"{front}# {name}\n\nMade from the GGUF file of {origin}; weights dequantised to bfloat16.\n")


def _not_supported(gguf: Path, part: str, fault: BaseException) -> WeightsInvalid:
    return WeightsInvalid(
        f"The {part} of {gguf.name} cannot be read ({fault}); give the model as a folder with safetensors.",
        code="gguf_not_supported",
        param=gguf.name,
    )
