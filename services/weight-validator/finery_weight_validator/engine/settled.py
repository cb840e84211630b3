"""Settles what config, generation config and tokenizer must agree on: end and padding token, longest text, dtype.

Works on a folder that is still being made, with JSON alone. It invents nothing: values come from the overrides of the
gallery or from the model's own config.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from finery_contracts.errors import WeightsInvalid
from finery_weight_validator.engine.folder import read_json

KNOWN_OVERRIDES = frozenset({"eos_token", "pad_token", "model_max_length"})
_UNBOUNDED = 10**9
"""transformers writes 1e30 for "no limit known"."""
_LENGTH_KEYS = ("max_position_embeddings", "n_positions", "max_sequence_length", "seq_length")


def settle(folder: Path, *, overrides: dict[str, Any], family: str | None) -> None:
    """Apply the overrides and make the files agree.

    Raises WeightsInvalid ``override_unknown``, ``token_unknown``, ``config_unreadable``, ``tokenizer_not_loadable``.
    """
    unknown = sorted(overrides.keys() - KNOWN_OVERRIDES)
    if unknown:
        raise WeightsInvalid(
            f"The override {unknown[0]} is not known; use {', '.join(sorted(KNOWN_OVERRIDES))}.",
            code="override_unknown",
            param=f"overrides.{unknown[0]}",
        )
    config = _object_of(folder / "config.json", code="config_unreadable")
    generation_path, tokenizer_path = folder / "generation_config.json", folder / "tokenizer_config.json"
    generation = _object_of(generation_path, code="generation_config_not_json") if generation_path.is_file() else {}
    generation.pop("_from_model_config", None)
    if tokenizer_path.is_file():
        tokenizer = _object_of(tokenizer_path, code="tokenizer_not_loadable")
        vocabulary = _vocabulary_of(folder)
        _settle_token("eos", overrides, config=config, generation=generation, tokenizer=tokenizer, ids=vocabulary)
        _settle_token("pad", overrides, config=config, generation=generation, tokenizer=tokenizer, ids=vocabulary)
        tokenizer["model_max_length"] = longest_of(config, {**tokenizer, **_length_override(overrides)})
        _write(tokenizer_path, tokenizer)
    if family:
        config["_name_or_path"] = family
    config.pop("_model_name_or_path", None)
    _write(folder / "config.json", config)
    if generation:
        _write(generation_path, generation)


def longest_of(config: dict[str, Any], tokenizer: dict[str, Any]) -> int:
    """The longest text in tokens: the tokenizer's word when it is a real bound, else the config's, else 2048."""
    stated = tokenizer.get("model_max_length")
    if isinstance(stated, int | float) and 0 < stated < _UNBOUNDED:
        return int(stated)
    for key in _LENGTH_KEYS:
        if isinstance(config.get(key), int):
            return config[key]
    return 2048


def _length_override(overrides: dict[str, Any]) -> dict[str, int]:
    wanted = overrides.get("model_max_length")
    if wanted is None:
        return {}
    if type(wanted) is not int or wanted < 16:
        raise WeightsInvalid(
            "model_max_length must be a whole number of at least 16 tokens.",
            code="override_invalid",
            param="overrides.model_max_length",
        )
    return {"model_max_length": wanted}


def _settle_token(
    which: str,
    overrides: dict[str, Any],
    *,
    config: dict[str, Any],
    generation: dict[str, Any],
    tokenizer: dict[str, Any],
    ids: dict[str, int],
) -> None:
    """One special token: the override's, else the one whose id the config states, else as the tokenizer says.

    A list of end ids keeps all of them, so that a model may stop at any; the token named is added in front.
    """
    name, id_key = f"{which}_token", f"{which}_token_id"
    stated = generation.get(id_key, config.get(id_key))
    first = stated[0] if isinstance(stated, list) and stated else stated
    token = overrides.get(name) or next((text for text, number in ids.items() if number == first), None)
    if token is None:
        return
    if token not in ids:
        raise WeightsInvalid(
            f"The {name} {token!r} is not in the tokenizer's vocabulary; name one that is.",
            code="token_unknown",
            param=f"overrides.{name}",
        )
    current = tokenizer.get(name)
    if _text_of(current) != token:
        tokenizer[name] = token
    if name in overrides and first != ids[token]:
        others = [number for number in stated if number != ids[token]] if isinstance(stated, list) else []
        config[id_key] = generation[id_key] = [ids[token], *others] if others else ids[token]


def _text_of(token: Any) -> Any:
    return token.get("content") if isinstance(token, dict) else token


def _vocabulary_of(folder: Path) -> dict[str, int]:
    """Every token of tokenizer.json by text, special ones included; empty when the folder has another kind."""
    path = folder / "tokenizer.json"
    if not path.is_file():
        return {}
    content = _object_of(path, code="tokenizer_not_loadable")
    ids: dict[str, int] = {}
    model = content.get("model")
    vocabulary = model.get("vocab") if isinstance(model, dict) else None
    if isinstance(vocabulary, dict):
        ids.update(vocabulary)
    elif isinstance(vocabulary, list):
        ids.update({entry[0]: number for number, entry in enumerate(vocabulary) if isinstance(entry, list) and entry})
    for added in content.get("added_tokens") or []:
        if isinstance(added, dict) and isinstance(added.get("content"), str) and isinstance(added.get("id"), int):
            ids[added["content"]] = added["id"]
    return ids


def _object_of(path: Path, *, code: str) -> dict[str, Any]:
    try:
        return read_json(path)
    except (OSError, ValueError) as fault:
        raise WeightsInvalid(
            f"{path.name} cannot be read ({fault}); put the model's own {path.name} there.", code=code, param=path.name
        ) from fault


def _write(path: Path, value: dict[str, Any]) -> None:
    """What says that already stays as it was written, to the byte."""
    if path.is_file() and read_json(path) == value:
        return
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False, sort_keys=True) + "\n", encoding="utf-8")
