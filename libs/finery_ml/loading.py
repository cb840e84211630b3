"""The one place where device, precision and weights are chosen and a model folder becomes a model in memory.

It refuses code that comes with weights, pickled weights, and anything that is not on this machine's disk.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils import logging as transformers_logging

from finery_contracts.errors import InvalidRequest, WeightsInvalid
from finery_contracts.tuning import Precision

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}

_LOAD_FAULTS = (OSError, ValueError, KeyError, TypeError, AttributeError, RuntimeError, ImportError)


def choose_device() -> torch.device:
    """The first CUDA device when there is one, else the processor."""
    return torch.device("cuda", 0) if torch.cuda.is_available() else torch.device("cpu")


def choose_precision(wanted: Precision, device: torch.device) -> Literal["fp32", "bf16", "fp16"]:
    """What to compute in. ``auto`` takes bf16 where the hardware has it, fp16 on older CUDA, fp32 on older processors.

    Raises InvalidRequest ``precision_not_supported`` for fp16 without CUDA.
    """
    if wanted == "fp16" and device.type == "cpu":
        raise InvalidRequest(
            "fp16 needs a CUDA device, and there is none here; use auto, bf16 or fp32.",
            code="precision_not_supported",
            param="precision",
        )
    if wanted != "auto":
        return wanted
    if device.type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"
    has = torch.cpu.get_capabilities()
    return "bf16" if any(has.get(name) for name in ("avx512_bf16", "amx_bf16", "bf16")) else "fp32"


def load_tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    """The folder's tokenizer; without a pad token it pads with its end token (the attention mask hides it).

    Raises WeightsInvalid ``tokenizer_unreadable``.
    """
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except _LOAD_FAULTS as fault:
        raise WeightsInvalid(
            f"The tokenizer of {folder.name} cannot be loaded ({fault}); import the model again with its tokenizer.",
            code="tokenizer_unreadable",
            param="tokenizer.json",
        ) from fault
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def load_model(
    folder: Path, *, dtype: torch.dtype, device: torch.device, attention: Literal["sdpa", "eager"] = "sdpa"
) -> PreTrainedModel:
    """The folder's causal language model on ``device``.

    Raises WeightsInvalid ``model_unreadable``, also when a tensor is missing: transformers would make up a random one.
    """
    transformers_logging.disable_progress_bar()
    try:
        model, loading = AutoModelForCausalLM.from_pretrained(
            folder,
            dtype=dtype,
            attn_implementation=attention,
            local_files_only=True,
            trust_remote_code=False,
            use_safetensors=True,
            output_loading_info=True,
        )
    except _LOAD_FAULTS as fault:
        raise WeightsInvalid(
            f"The model {folder.name} cannot be loaded ({fault}); validate it and import it again.",
            code="model_unreadable",
            param=folder.name,
        ) from fault
    if missing := sorted(loading["missing_keys"]):
        raise WeightsInvalid(
            f"The model {folder.name} lacks {len(missing)} of its tensors, such as {missing[0]}; validate it and "
            "import it again.",
            code="model_unreadable",
            param=missing[0],
        )
    model.config._name_or_path = model.name_or_path = folder.name
    if device.type == "cpu":
        model.get_output_embeddings().register_forward_pre_hook(_contiguous)
    return model.to(device)


def apply_adapter(model: PreTrainedModel, adapter: Path, *, trainable: bool) -> PeftModel:
    """``model`` with the adapter on top; raises WeightsInvalid ``adapter_unreadable``."""
    try:
        return PeftModel.from_pretrained(model, str(adapter), is_trainable=trainable, local_files_only=True)
    except _LOAD_FAULTS as fault:
        raise WeightsInvalid(
            f"The adapter {adapter.name} cannot be put on {model.name_or_path} ({fault}); choose an adapter that was "
            "tuned from this model.",
            code="adapter_unreadable",
            param=adapter.name,
        ) from fault


def _contiguous(_: torch.nn.Module, inputs: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
    """The last position of each row, which is all that generation asks for, is a strided view; on processors its bf16
    product with the output layer is five times slower than that of a copy."""
    return (inputs[0].contiguous(), *inputs[1:])
