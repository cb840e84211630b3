"""Turns one GGUF file into a folder of safetensors (bf16), config and tokenizer, with transformers' own reader.

It refuses files that are no GGUF, parts of a split one, and architectures that transformers cannot read. Nothing of
the file is run; its chat template is only copied.
"""

from __future__ import annotations

import os

# Read by libgomp and the Hugging Face libraries when they are imported; a caller's own values stay.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from gguf import GGUFReader
from tokenizers import Tokenizer, pre_tokenizers
from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig, PreTrainedTokenizerBase
from transformers.utils import logging as transformers_logging

from finery_contracts.errors import WeightsInvalid

_MAGIC = b"GGUF"
_VERSIONS = (2, 3)
_MAX_COUNT = 1_000_000
_FAULTS = (OSError, ValueError, KeyError, TypeError, AttributeError, RuntimeError, IndexError, ImportError,
           NotImplementedError)  # fmt: skip
_DIGIT_BY_DIGIT = frozenset({"smollm", "starcoder", "refact", "command-r", "codeshell", "exaone", "minerva-7b"})
"""Values of ``tokenizer.ggml.pre`` that cut numbers into single digits and then as GPT-2 does (llama.cpp,
``llama-vocab.cpp``); transformers' reader drops that step."""


_TRACES = frozenset({"is_local", "local_files_only", "bos_token_id", "eos_token_id", "pad_token_id", "unk_token_id",
                     "model_type", "legacy"})  # fmt: skip
"""What transformers leaves in tokenizer_config.json of a GGUF: how it was called, and ids that contradict the names."""


def make_folder(gguf: Path, target: Path, *, family: str | None, threads: int, tell: Callable[[str], None]) -> None:
    """Write the model of ``gguf`` into ``target``; ``tell`` hears each stage and may raise to stop.

    Holds the whole model in bf16: a bit more than two bytes of memory a parameter. Raises WeightsInvalid
    ``gguf_invalid``, ``gguf_split``, ``gguf_not_supported`` or ``tensor_missing``.
    """
    torch.set_num_threads(threads)
    transformers_logging.disable_progress_bar()
    tell("reading the GGUF header")
    facts = read_facts(gguf)
    tell("reading the tokenizer")
    try:
        tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name, local_files_only=True)
    except _FAULTS as fault:
        raise _not_supported(gguf, "tokenizer", fault) from fault
    _restore_digit_splitting(tokenizer, facts)
    tokenizer.clean_up_tokenization_spaces = tokenizer.init_kwargs["clean_up_tokenization_spaces"] = False
    tell("reading the weights")
    model = _read_model(gguf)
    tell("writing safetensors")
    model.config._name_or_path = model.name_or_path = family or gguf.stem
    model.save_pretrained(target)
    tokenizer.save_pretrained(target)
    _drop_traces(target / "tokenizer_config.json")
    _write_card(target / "README.md", facts, name=family or gguf.stem)


def read_facts(gguf: Path) -> dict[str, Any]:
    """The short metadata of the file by key, lists left out; raises WeightsInvalid ``gguf_invalid``, ``gguf_split``."""
    with gguf.open("rb") as file:
        start = file.read(24)
    version, tensors, keys = (int.from_bytes(start[a:b], "little") for a, b in ((4, 8), (8, 16), (16, 24)))
    if start[:4] != _MAGIC or version not in _VERSIONS or not 0 < tensors <= _MAX_COUNT or keys > _MAX_COUNT:
        raise WeightsInvalid(
            f"{gguf.name} is no GGUF file of version 2 or 3; download it again, or give the model as safetensors.",
            code="gguf_invalid",
            param=gguf.name,
        )
    try:
        fields = GGUFReader(gguf).fields
        facts = {key: value.contents() for key, value in fields.items() if len(value.data) == 1}
    except (*_FAULTS, MemoryError, OverflowError, UnicodeError) as fault:
        raise WeightsInvalid(
            f"{gguf.name} breaks off or is damaged ({fault}); download it again.", code="gguf_invalid", param=gguf.name
        ) from fault
    if int(facts.get("split.count") or 1) > 1:
        raise WeightsInvalid(
            f"{gguf.name} is one part of a split file; join the parts with llama-gguf-split --merge first.",
            code="gguf_split",
            param=gguf.name,
        )
    return facts


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
