"""Proof of life: loads the model with transformers in a limited child, reads a few tokens, writes a few.

No code of the folder runs, unless all of it was allowed by its checksum.
"""

from __future__ import annotations

import json
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from finery_contracts.jobs import Finding
from finery_weight_validator.engine import limited, structure
from finery_weight_validator.engine.findings import error, warning
from finery_weight_validator.engine.tokenizer import allow_code

_NEW_TOKENS = 4
_SLOWEST_BYTES_PER_S = 50 * 2**20
_SAVE_AGAIN = "save model and config together with save_pretrained, and validate again"


@dataclass(frozen=True)
class Trial:
    """What is tried: ``view`` holds links to the usable files, ``size_bytes`` is that of the weights."""

    view: Path
    size_bytes: int
    pad_id: int
    code: Path | None = None


def prove(trial: Trial, *, stop: threading.Event) -> list[Finding]:
    """``weights_not_loadable``, ``tensor_missing``, ``tensor_shape_wrong`` or ``not_finite``; empty when it lives."""
    import torch  # noqa: F401 - here once, so that no child has to
    import transformers  # noqa: F401

    longest_s = 300 + trial.size_bytes / _SLOWEST_BYTES_PER_S
    limits = limited.Limits(
        cpu_s=longest_s, wall_s=longest_s, memory_bytes=4 * 2**30 + 3 * trial.size_bytes,
        file_bytes=256 * 2**20, writable=trial.code,
    )  # fmt: skip
    try:
        answer = limited.call(lambda: [finding.model_dump() for finding in _try(trial)], limits, stop=stop)
    except (limited.Beyond, limited.Failed) as fault:
        return [_not_loadable(f"loading it and writing {_NEW_TOKENS} tokens fails: {fault}")]
    return [Finding.model_validate(finding) for finding in answer]


def _try(trial: Trial) -> list[Finding]:
    """Runs in a child."""
    import torch
    from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer
    from transformers.utils import logging as transformers_logging

    torch.set_num_threads(1)  # OpenMP's threads do not come along with a fork: whoever asks for them waits for ever
    transformers_logging.disable_progress_bar()
    allow_code(trial.code)
    trusted = trial.code is not None
    try:
        tokenizer = AutoTokenizer.from_pretrained(trial.view, local_files_only=True, trust_remote_code=trusted)
        config = json.loads((trial.view / "config.json").read_text("utf-8"))
        loader = AutoModelForSequenceClassification if structure.scores(config) else AutoModelForCausalLM
        model, loading = loader.from_pretrained(
            trial.view,
            dtype="auto",
            local_files_only=True,
            trust_remote_code=trusted,
            use_safetensors=True,
            output_loading_info=True,
        )
    except ImportError as fault:
        remedy = "nothing to do if the engine that will serve it has that package"
        return [warning("weights_not_tried", trial.view.name, message=f"loading needs more: {fault}", remedy=remedy)]
    except Exception as fault:  # foreign loaders on hostile files have no error tree of their own
        return [_not_loadable(f"transformers cannot load the weights: {type(fault).__name__}: {str(fault)[:400]}")]
    missing = sorted(loading["missing_keys"])
    if missing:
        message = "the model needs this tensor and the weights do not hold it; it would be random"
        return [error("tensor_missing", name, message=message, remedy=_SAVE_AGAIN) for name in missing]
    with torch.inference_mode():
        return _generate(model, tokenizer, pad_id=trial.pad_id if loader is AutoModelForCausalLM else None)


def _generate(model: Any, tokenizer: Any, *, pad_id: int | None) -> list[Finding]:
    """``pad_id`` None: it gives scores and writes nothing."""
    import torch

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
        if pad_id is None:
            return []
        model.generate(
            input_ids=ids,
            attention_mask=mask,
            max_new_tokens=_NEW_TOKENS,
            min_new_tokens=_NEW_TOKENS,
            do_sample=False,
            temperature=None,
            top_p=None,
            top_k=None,
            pad_token_id=pad_id,
        )
    except Exception as fault:  # the same
        return [_not_loadable(f"it loads, but cannot generate: {type(fault).__name__}: {str(fault)[:400]}")]
    return []


def _not_loadable(message: str) -> Finding:
    return error("weights_not_loadable", "weights", message=message, remedy=_SAVE_AGAIN)
