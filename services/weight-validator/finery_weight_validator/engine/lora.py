"""Reads a LoRA or DoRA adapter and says, weight by weight, what it makes of the base model's values.

It knows exactly the forms that it folds in and refuses every other one: almost right is worse than not at all.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from finery_contracts.errors import WeightsInvalid
from finery_weight_validator.engine.findings import refuse
from finery_weight_validator.engine.folder import read_json
from finery_weight_validator.engine.headers import read_tensors

CONFIG, FACTORS = "adapter_config.json", "adapter_model.safetensors"
MAX_ADAPTER_BYTES = 20 * 2**30
_PREFIX = "base_model.model."
_PARTS = ("lora_A.weight", "lora_B.weight", "lora_embedding_A", "lora_embedding_B", "lora_magnitude_vector")
_MUST_BE_OFF = (
    "layer_replication", "lora_bias", "target_parameters", "trainable_token_indices", "megatron_config",
    "use_qalora", "alora_invocation_tokens", "arrow_config", "velora_config", "monteclora_config", "kasa_config",
    "use_bdlora",
)  # fmt: skip
"""Options that change what is computed in ways that a sum of two weights does not hold."""
_PLAIN_STARTS = (True, False, None, "gaussian", "orthogonal", "eva")
"""Ways to begin a tuning that leave the base's weights alone; others move part of them into the adapter."""


@dataclass(frozen=True)
class Change:
    """What becomes of one weight of the base: a part put in its place, or factors folded in."""

    module: str
    whole: torch.Tensor | None = None
    parts: Mapping[str, torch.Tensor] = field(default_factory=dict)
    scale: float = 1.0
    transposed: bool = False

    @property
    def shape(self) -> tuple[int, ...]:
        """That the base's weight must have."""
        if self.whole is not None:
            return tuple(self.whole.shape)
        left, right = self._factors
        return (right.shape[1], left.shape[0]) if self.transposed else (left.shape[0], right.shape[1])

    def applied(self, rows: torch.Tensor, begin: int) -> torch.Tensor:
        """The merged rows in fp32; ``rows`` are the base's from row ``begin`` on, in fp32."""
        end = begin + rows.shape[0]
        if self.whole is not None:
            return self.whole.reshape(-1, rows.shape[1])[begin:end].to(torch.float32)
        left, right = self._factors
        added = (left @ right[:, begin:end]).T if self.transposed else left[begin:end] @ right
        merged = rows + self.scale * added
        magnitude = self.parts.get("lora_magnitude_vector")
        if magnitude is None:
            return merged
        wanted = magnitude.to(torch.float32).flatten()[begin:end]
        return merged * (wanted / torch.linalg.norm(merged, dim=1)).unsqueeze(1)

    @property
    def _factors(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Left and right: their product is added, in the orientation of an (out, in) or (tokens, width) weight."""
        if "lora_embedding_A" in self.parts:
            first, second = self.parts["lora_embedding_A"].T, self.parts["lora_embedding_B"].T
        else:
            first, second = self.parts["lora_B.weight"], self.parts["lora_A.weight"]
        return first.to(torch.float32), second.to(torch.float32)


def read_adapter(folder: Path) -> list[Change]:
    """Every change that the adapter makes.

    Raises:
        WeightsInvalid: ``adapter_unreadable``, ``adapter_not_mergeable``, ``header_invalid``, ``tensor_overlap``.
    """
    config, tensors = _config_of(folder), _tensors_of(folder)
    _check(config)
    pieces: dict[str, dict[str, torch.Tensor]] = defaultdict(dict)
    changes = list[Change]()
    for name, tensor in tensors.items():
        if not name.startswith(_PREFIX):
            raise _cannot(name[:200], "it belongs to no module of the base")
        module = name.removeprefix(_PREFIX)
        part = next((part for part in _PARTS if module.removesuffix(".weight").endswith(f".{part}")
                     or module.endswith(f".{part}")), None)  # fmt: skip
        if part is not None:
            pieces[module[: module.rindex(f".{part}")]][part] = tensor
        elif _is_saved_module(module, config):
            changes.append(Change(module.removesuffix(".weight"), whole=tensor))
        else:
            raise _cannot(name[:200], "this kind of part is not known")
    return changes + [_folded(module, parts, config) for module, parts in pieces.items()]


def _folded(module: str, parts: dict[str, torch.Tensor], config: dict[str, Any]) -> Change:
    names = {"lora_embedding_A", "lora_embedding_B"} if "lora_embedding_A" in parts else set(_PARTS[:2])
    dora = "lora_magnitude_vector" in parts
    if parts.keys() - {"lora_magnitude_vector"} != names or any(parts[name].ndim != 2 for name in names):
        raise _cannot(module, "its two factors are not there, or no matrices")
    transposed = bool(config.get("fan_in_fan_out")) and "lora_A.weight" in names
    if dora and (transposed or "lora_A.weight" not in names):
        raise _cannot(module, "DoRA of this kind of layer is not folded in")
    if bool(config.get("use_dora")) != dora:
        raise _cannot(module, "the configuration and the parts disagree about DoRA")
    rank = parts["lora_A.weight" if "lora_A.weight" in names else "lora_embedding_A"].shape[0]
    alpha = _of_pattern(config.get("alpha_pattern"), module, config.get("lora_alpha"))
    scale = alpha / (rank**0.5 if config.get("use_rslora") else rank)
    change = Change(module, parts=parts, scale=scale, transposed=transposed)
    left, right = change._factors
    if left.shape[1] != right.shape[0] or (dora and parts["lora_magnitude_vector"].numel() != left.shape[0]):
        raise _cannot(module, "its parts do not fit each other")
    return change


def _of_pattern(patterns: Any, module: str, default: Any) -> float:
    found = default
    for pattern, value in (patterns or {}).items():
        if re.match(rf"(.*\.)?({pattern})$", module):
            found = value
            break
    if not isinstance(found, int | float) or isinstance(found, bool):
        raise _cannot(module, f"lora_alpha is {str(found)[:40]!r}, not a number")
    return float(found)


def _check(config: dict[str, Any]) -> None:
    if str(config.get("peft_type")).upper() != "LORA":
        raise _cannot(CONFIG, f"its kind is {str(config.get('peft_type'))[:40]}; LoRA and DoRA are folded in")
    if config.get("bias", "none") != "none":
        raise _cannot(CONFIG, "it carries biases")
    for name in _MUST_BE_OFF:
        if config.get(name):
            raise _cannot(CONFIG, f"it uses {name}")
    start = config.get("init_lora_weights", True)
    if start not in _PLAIN_STARTS:
        raise _cannot(CONFIG, f"it began with {str(start)[:40]}, which moves a part of the base's weights")


def _is_saved_module(module: str, config: dict[str, Any]) -> bool:
    """PEFT keeps every module whose path ends with one of the names, and all that lies below it."""
    saved, steps = tuple(config.get("modules_to_save") or ()), module.split(".")
    paths = (".".join(steps[:count]) for count in range(1, len(steps)))
    return module.endswith(".weight") and any(path.endswith(saved) for path in paths)


def _config_of(folder: Path) -> dict[str, Any]:
    try:
        return read_json(folder / CONFIG)
    except (OSError, ValueError) as fault:
        raise _unreadable(CONFIG, str(fault)) from fault


def _tensors_of(folder: Path) -> dict[str, torch.Tensor]:
    """Adapters are small; what claims to be larger than any is not read."""
    path = folder / FACTORS
    if not path.is_file() or path.is_symlink():
        raise _unreadable(FACTORS, "it is not there")
    if path.stat().st_size > MAX_ADAPTER_BYTES:
        raise _unreadable(FACTORS, f"it is larger than {MAX_ADAPTER_BYTES:,} bytes")
    _, findings = read_tensors(path)
    refuse(findings)
    try:
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
    except (SafetensorError, OSError, ValueError) as fault:
        raise _unreadable(FACTORS, str(fault)) from fault


def _unreadable(where: str, reason: str) -> WeightsInvalid:
    return WeightsInvalid(
        f"The adapter's {where} cannot be read ({reason}); tune again, or choose another checkpoint.",
        code="adapter_unreadable", param=where,
    )  # fmt: skip


def _cannot(where: str, reason: str) -> WeightsInvalid:
    return WeightsInvalid(
        f"The adapter cannot be merged: {where}: {reason}; publish it as an adapter, which serves the same answers.",
        code="adapter_not_mergeable", param=where,
    )  # fmt: skip
