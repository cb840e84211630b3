"""Proof of life: loads the model with transformers, reads a few tokens, writes a few. No code of the folder runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, PreTrainedTokenizerBase
from transformers.utils import logging as transformers_logging

from finery_contracts.jobs import Finding
from finery_weight_validator.engine.findings import error, warning

_NEW_TOKENS = 4
_SAVE_AGAIN = "save model and config together with save_pretrained, and validate again"


def prove(view: Path, tokenizer: PreTrainedTokenizerBase, *, threads: int) -> list[Finding]:
    """``weights_not_loadable``, ``tensor_missing``, ``tensor_shape_wrong`` or ``not_finite``; empty when it lives."""
    torch.set_num_threads(threads)
    transformers_logging.disable_progress_bar()
    try:
        model, loading = AutoModelForCausalLM.from_pretrained(
            view,
            dtype="auto",
            local_files_only=True,
            trust_remote_code=False,
            use_safetensors=True,
            output_loading_info=True,
        )
    except ImportError as fault:
        remedy = "nothing to do if the engine that will serve it has that package"
        return [warning("weights_not_tried", view.name, message=f"loading needs more: {fault}", remedy=remedy)]
    except Exception as fault:  # foreign loaders on hostile files have no error tree of their own
        return [_not_loadable(f"transformers cannot load the weights: {str(fault)[:400]}")]
    missing = sorted(loading["missing_keys"])
    if missing:
        message = "the model needs this tensor and the weights do not hold it; it would be random"
        return [error("tensor_missing", name, message=message, remedy=_SAVE_AGAIN) for name in missing]
    return _generate(model, tokenizer)


@torch.inference_mode()
def _generate(model: Any, tokenizer: PreTrainedTokenizerBase) -> list[Finding]:
    ids = tokenizer("The capital of France is", return_tensors="pt")["input_ids"]
    if not torch.is_tensor(ids) or ids.shape[1] == 0:
        return [_not_loadable("the tokenizer makes nothing of a sentence")]
    mask = torch.ones_like(ids)
    try:
        logits = model(input_ids=ids, attention_mask=mask).logits
        if not torch.isfinite(logits).all():
            message = "the model answers a plain sentence with scores that are NaN or infinite"
            remedy = "take the weights from before the training went wrong, or use bf16 instead of fp16"
            return [error("not_finite", "logits", message=message, remedy=remedy)]
        model.generate(
            input_ids=ids,
            attention_mask=mask,
            max_new_tokens=_NEW_TOKENS,
            min_new_tokens=_NEW_TOKENS,
            do_sample=False,
            temperature=None,
            top_p=None,
            top_k=None,
            pad_token_id=tokenizer.pad_token_id if tokenizer.pad_token_id is not None else 0,
        )
    except Exception as fault:  # the same
        return [_not_loadable(f"it loads, but cannot generate: {type(fault).__name__}: {str(fault)[:400]}")]
    return []


def _not_loadable(message: str) -> Finding:
    return error("weights_not_loadable", "weights", message=message, remedy=_SAVE_AGAIN)
