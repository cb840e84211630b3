"""Judges the tokenizer: it must load, make tokens of texts in many scripts, and give the texts back.

It is loaded in limited children and nowhere else: first its file with the library that reads it, then the folder as
transformers sees it. No code of the folder runs unless all of it was allowed.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from finery_contracts.jobs import Finding
from finery_weight_validator.engine import limited
from finery_weight_validator.engine.findings import error, warning

FILE_LIMITS = limited.Limits(cpu_s=20.0, wall_s=60.0, memory_bytes=4 * 2**30)
LOAD_LIMITS = limited.Limits(cpu_s=90.0, wall_s=240.0, memory_bytes=8 * 2**30, file_bytes=256 * 2**20)
TEXTS = {
    "English": "The quick brown fox jumps over the lazy dog.",
    "German": "Füße, Straßen und Übermut: 1.234,50 €.",
    "Chinese": "今天天气很好，我们去公园散步吧。",
    "Japanese": "東京タワーへ行きましょう。カタカナも。",
    "Korean": "안녕하세요, 반갑습니다.",
    "Arabic": "مرحبا كيف حالك اليوم؟",
    "Russian": "Съешь же ещё этих мягких французских булок.",
    "Hindi": "नमस्ते, आप कैसे हैं?",
    "emoji": "👩‍💻 ships it 🚀🎉",
    "code": "def add(a, b):\n    return {'sum': a + b}  # ok\n",
    "numbers": "3.14159 2026-11-21 0x1F 100,000",
}


@dataclass(frozen=True)
class Loaded:
    """What is known of a tokenizer that loads."""

    tokens: int
    largest_id: int
    max_length: float
    special: dict[str, str] = field(default_factory=dict)
    pad_id: int = 0


def load(view: Path, *, code: Path | None = None) -> tuple[Loaded | None, list[Finding]]:
    """The folder's tokenizer, or ``tokenizer_not_loadable``; ``tokenizer_lossy`` for texts that do not come back.

    ``code`` is an empty folder of our own where transformers may put the folder's allowed Python files to run them.
    """
    where = "tokenizer.json" if (view / "tokenizer.json").is_file() else "tokenizer_config.json"
    try:
        if where == "tokenizer.json":
            limited.call(lambda: _read_file(view / where), FILE_LIMITS)
        import transformers  # noqa: F401 - here once, so that no child has to

        answer = limited.call(lambda: _load_folder(view, code), replace(LOAD_LIMITS, writable=code))
    except (limited.Beyond, limited.Failed) as fault:
        return None, [not_loadable(where, str(fault))]
    loaded = Loaded(
        tokens=answer["tokens"], largest_id=answer["largest_id"], max_length=answer["max_length"],
        special=answer["special"], pad_id=answer["pad_id"],
    )  # fmt: skip
    return loaded, lossy_findings(answer["returned"], where)


def read_file(path: Path, limits: limited.Limits = FILE_LIMITS) -> list[Finding]:
    """The quick half of ``load``: tokenizer.json alone, by the library that reads it; ``tokenizer_not_loadable``."""
    try:
        returned = limited.call(lambda: _read_file(path), limits)
    except (limited.Beyond, limited.Failed) as fault:
        return [not_loadable(path.name, str(fault))]
    return lossy_findings(returned, path.name)


def not_loadable(where: str, reason: str) -> Finding:
    """``tokenizer_not_loadable``."""
    message = f"the tokenizer cannot be loaded: {reason}"
    remedy = "add tokenizer.json and tokenizer_config.json of the model"
    return error("tokenizer_not_loadable", where, message=message, remedy=remedy)


def lossy_findings(returned: dict[str, str], where: str) -> list[Finding]:
    """``tokenizer_lossy``: a warning, for a normaliser may be meant to forget."""
    lost = [name for name, text in TEXTS.items() if returned[name].lstrip() != text and returned[name] != text]
    if not lost:
        return []
    example = lost[0]
    message = f"{', '.join(lost)} do not come back as they went in: {TEXTS[example]!r} became {returned[example]!r}"
    remedy = "nothing to do if the model was trained so; else put the model's own tokenizer.json there"
    return [warning("tokenizer_lossy", where, message=message, remedy=remedy, scripts=lost)]


def type_findings(config: dict[str, Any] | None, *, allowed: bool) -> list[Finding]:
    """``metadata_not_chosen`` when transformers has no model of the type that config.json names, and no code may."""
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES

    stated = (config or {}).get("model_type")
    if not isinstance(stated, str) or not stated or allowed:
        return []
    if stated in CONFIG_MAPPING_NAMES:
        return _class_findings(config or {}, stated)
    message = f"no metadata and no template can be chosen for {stated[:100]!r}: transformers knows no such model type"
    remedy = "use weights in a format that transformers has of its own (ending -hf), or update the engines"
    return [error("metadata_not_chosen", "config.json: model_type", message=message, remedy=remedy)]


def _class_findings(config: dict[str, Any], model_type: str) -> list[Finding]:
    """``structure_differs``, a warning, when ``architectures`` names another family's class: loaders go by either."""
    from transformers.models.auto import modeling_auto

    tables = (modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES, modeling_auto.MODEL_MAPPING_NAMES)
    known = set[str]()
    for table in tables:
        names = table.get(model_type, ())
        known |= {names} if isinstance(names, str) else set(names)
    stems = {name.removesuffix("Model").partition("For")[0].removesuffix("LMHead") for name in known}
    stated = [name for name in config.get("architectures") or () if isinstance(name, str)]
    if not stated or not stems or any(name.startswith(tuple(stems)) for name in stated):
        return []
    message = f"it names {stated[0][:100]!r}, and model_type is {model_type!r}, whose class is {min(known)}"
    remedy = "put the model's own config.json there: serving engines choose the class by architectures"
    return [
        warning(
            "structure_differs", "config.json: architectures", message=message, remedy=remedy, key="architectures",
            found=stated[0][:100],
        )
    ]  # fmt: skip


def _read_file(path: Path) -> dict[str, str]:
    """Runs in a child. tokenizers raises bare Exception on a file that it cannot use, and panics on some."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(path))
    returned = {}
    for name, text in TEXTS.items():
        ids = tokenizer.encode(text, add_special_tokens=False).ids
        if name == "English" and not ids:
            raise ValueError("it makes no tokens of a sentence")
        returned[name] = tokenizer.decode(ids, skip_special_tokens=False)[:1000]
    return returned


def _load_folder(view: Path, code: Path | None) -> dict[str, Any]:
    """Runs in a child."""
    from transformers import AutoTokenizer

    allow_code(code)
    tokenizer = AutoTokenizer.from_pretrained(view, local_files_only=True, trust_remote_code=code is not None)
    returned = {}
    for name, text in TEXTS.items():
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        if name == "English" and not ids:
            raise ValueError("it makes no tokens of a sentence")
        returned[name] = str(tokenizer.decode(ids, clean_up_tokenization_spaces=False))[:1000]
    tokenizer.pad({"input_ids": [[1, 2], [1]]}, padding=True) if tokenizer.pad_token is not None else None
    return {
        "tokens": len(tokenizer),
        "largest_id": max(tokenizer.get_vocab().values(), default=-1),
        "max_length": float(tokenizer.model_max_length),
        "special": {name: token for name, token in tokenizer.special_tokens_map.items() if isinstance(token, str)},
        "pad_id": tokenizer.pad_token_id if tokenizer.pad_token_id is not None else 0,
        "returned": returned,
    }


def allow_code(code: Path | None) -> None:
    """In a child, before loading: where transformers copies a folder's Python files to, and imports them from."""
    if code is None:
        return
    from transformers import dynamic_module_utils

    dynamic_module_utils.HF_MODULES_CACHE = str(code)
