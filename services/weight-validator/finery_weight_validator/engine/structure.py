"""Compares the tensors in the headers with what config.json promises, without loading anything.

Knows the layout of the common decoder families; of another family it says so and leaves the comparison to the loading.
Layouts: transformers' modelling files of each family (5.17).
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from finery_contracts.jobs import Finding
from finery_weight_validator.engine.findings import error, info, warning
from finery_weight_validator.engine.headers import Tensor

_LARGEST = {
    "hidden_size": 10**6, "intermediate_size": 10**7, "num_hidden_layers": 2_000, "num_attention_heads": 10_000,
    "num_key_value_heads": 10_000, "head_dim": 100_000, "vocab_size": 10**8, "num_local_experts": 10_000,
    "num_experts": 10_000, "n_routed_experts": 10_000, "n_layer": 2_000, "n_head": 10_000, "n_embd": 10**6,
    "num_layers": 2_000,
}  # fmt: skip
_NEEDED = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "vocab_size")
_GROUPED = frozenset({"mistral", "ministral", "qwen2", "qwen3", "gemma", "gemma2", "gemma3_text", "glm", "glm4",
                      "smollm3"})  # fmt: skip
"""Families whose missing ``num_key_value_heads`` means a fixed number, not the number of heads."""
_LEFTOVERS = re.compile(r"rotary_emb\.inv_freq$|\.masked_bias$|\.attn\.bias$|\.mlp\.act(_fn)?\.scales$")
_WEIGHT = re.compile(r"(^|\.)weight$|_proj\.bias$")
_EMBEDDINGS = re.compile(r"(^|\.)(embed_tokens|wte|word_embeddings|embed_in)\.weight$")
_REMEDY = "use the config.json and the weights of one and the same save"


_NUMBERS = ("rms_norm_eps", "layer_norm_eps", "rope_theta", "initializer_range", "attention_dropout",
            "partial_rotary_factor", "attn_logit_softcapping", "final_logit_softcapping")  # fmt: skip
_COUNTS = ("max_position_embeddings", "sliding_window", "n_positions", "seq_length", "num_experts_per_tok",
           "moe_intermediate_size", "kv_channels")  # fmt: skip
_ABOVE_ZERO = frozenset({"rms_norm_eps", "layer_norm_eps", "rope_theta", "factor"})
_OFF_AT_ZERO = frozenset({"sliding_window"})
"""transformers itself writes 0 where the window is switched off."""
_TRUTHS = ("tie_word_embeddings", "attention_bias", "mlp_bias", "use_cache", "use_sliding_window", "use_qk_norm")
_TEXTS = ("model_type", "hidden_act", "hidden_activation", "torch_dtype", "dtype", "transformers_version")
_OBJECTS = ("rope_scaling", "rope_parameters", "text_config", "vision_config", "auto_map", "id2label")
_LISTS = ("architectures", "layer_types", "no_rope_layers")
_TOKENS = ("bos_token_id", "eos_token_id", "pad_token_id")
_LARGEST_COUNT = 10**9
_LABELS = 2
"""Of a model that gives scores and does not say how many (transformers' default)."""
_DTYPES = {"float64": "F64", "float32": "F32", "float16": "F16", "bfloat16": "BF16"}
_QUANTISED = re.compile(r"\.(qweight|qzeros|weight_packed|weight_scale|weight_zero_point|SCB|quant_state\.\S+)$")


@dataclass(frozen=True, slots=True)
class _Family:
    """What sets a family apart from Llama's layout; ``head_dim`` is what a config without it means.

    ``qkv_bias`` None: as ``attention_bias`` says, which is ``biased`` when the config does not say; the output
    projection follows it when ``output_bias``. ``head_norms`` "each" has one size a head, "all" one for all heads.
    """

    tied: bool = False
    qkv_bias: bool | None = None
    biased: bool = False
    output_bias: bool = True
    head_norms: str = ""
    norms: tuple[str, ...] = ("input_layernorm", "post_attention_layernorm")
    fused_qkv: bool = False
    fused_mlp: bool = False
    head_dim: int | None = None


_FOUR_NORMS = ("input_layernorm", "post_attention_layernorm", "pre_feedforward_layernorm", "post_feedforward_layernorm")
_FAMILIES: Mapping[str, _Family] = {
    "llama": _Family(),
    "granite": _Family(),
    "mistral": _Family(qkv_bias=False),
    "ministral": _Family(qkv_bias=False),
    "qwen2": _Family(qkv_bias=True),
    "qwen3": _Family(head_norms="each", head_dim=128),
    "gemma": _Family(tied=True, head_dim=256),
    "gemma2": _Family(tied=True, norms=_FOUR_NORMS, head_dim=256),
    "gemma3_text": _Family(tied=True, head_norms="each", norms=_FOUR_NORMS, head_dim=256),
    "phi3": _Family(qkv_bias=False, fused_qkv=True, fused_mlp=True),
    "glm": _Family(output_bias=False, biased=True, fused_mlp=True, head_dim=128),
    "glm4": _Family(
        output_bias=False, biased=True, fused_mlp=True, head_dim=128,
        norms=("input_layernorm", "post_attention_layernorm", "post_self_attn_layernorm", "post_mlp_layernorm"),
    ),
    "smollm3": _Family(tied=True),
    "olmo2": _Family(head_norms="all", norms=("post_attention_layernorm", "post_feedforward_layernorm")),
    "exaone4": _Family(
        qkv_bias=False, head_norms="each", norms=("post_attention_layernorm", "post_feedforward_layernorm")
    ),
}  # fmt: skip


def scores(config: Mapping[str, Any]) -> bool:
    """It is no model that writes but one that gives scores, such as a reward model."""
    names = config.get("architectures")
    return isinstance(names, list) and any(str(name).endswith("ForSequenceClassification") for name in names)


def key_findings(config: Mapping[str, Any]) -> list[Finding]:
    """``structure_differs`` for keys that are missing and for values that no model can have."""
    findings = []
    if str(config.get("model_type")) in _FAMILIES:
        findings += [
            _differs(key, "the key is missing; without it transformers silently takes a default")
            for key in (*_NEEDED, *(("num_key_value_heads",) if str(config["model_type"]) in _GROUPED else ()))
            if config.get(key) is None
        ]
    for key, largest in (*_LARGEST.items(), *((key, _LARGEST_COUNT) for key in _COUNTS)):
        value, least = config.get(key), 0 if key in _OFF_AT_ZERO else 1
        if value is not None and not (type(value) is int and least <= value <= largest):
            findings.append(_differs(key, f"{_shown(value)} is no whole number from {least} to {largest}"))
    findings += _type_findings(config)
    return findings or [*_ratio_findings(config), *token_findings(config, config.get("vocab_size"))]


def token_findings(said: Mapping[str, Any], rows: Any, file: str = "config.json") -> list[Finding]:
    """``token_id_outside``: an end that the model cannot say never comes. Padding is replaced by loaders."""
    findings = list[Finding]()
    for key in _TOKENS if type(rows) is int else ():
        value = said.get(key)
        ids = value if isinstance(value, list) else [] if value is None else [value]
        outside = [entry for entry in ids if type(entry) is not int or not 0 <= entry < rows]
        if outside:
            say = warning if key == "pad_token_id" else error
            message = f"{_shown(outside[0])} is no id from 0 to {rows - 1}, the rows that vocab_size promises"
            remedy = "use the config.json and the tokenizer of one and the same model"
            findings.append(say("token_id_outside", f"{file}: {key}", message=message, remedy=remedy))
    return findings


def quantisation_findings(config: Mapping[str, Any] | None, tensors: Sequence[Tensor]) -> list[Finding]:
    """``quantization_config_missing`` or ``…_unexpected`` by what the weights themselves are."""
    if config is None or not tensors:
        return []
    stated, packed = bool(config.get("quantization_config")), [t for t in tensors if _QUANTISED.search(t.name)]
    if packed and not stated:
        message = f"the weights are quantised ({packed[0].name}), but config.json has no quantization_config"
        remedy = "put the config.json of the quantised model there"
        return [
            error("quantization_config_missing", "config.json: quantization_config", message=message, remedy=remedy)
        ]
    if stated and not _are_quantised(tensors):
        message = "it is there, but no tensor is quantised"
        remedy = "remove it, or use the quantised weights it belongs to"
        return [
            error("quantization_config_unexpected", "config.json: quantization_config", message=message, remedy=remedy)
        ]
    return []


def _are_quantised(tensors: Sequence[Tensor]) -> bool:
    return any(tensor.dtype not in _DTYPES.values() or _QUANTISED.search(tensor.name) for tensor in tensors)


def layout_findings(config: Mapping[str, Any], tensors: Sequence[Tensor]) -> list[Finding]:
    """``tensor_missing``, ``tensor_surplus``, ``tensor_shape_wrong`` and ``structure_differs``, by the family's layout.

    ``config`` must have passed ``key_findings``.
    """
    model_type = config.get("model_type")
    stated = config.get("quantization_config") if _are_quantised(tensors) else None
    if model_type not in _FAMILIES or (stated and not _is_awq(stated)):
        why = "quantised weights have a layout of their own" if model_type in _FAMILIES else "the family is not known"
        remedy = "nothing to do: loading the model compares them"
        return [info("structure_not_compared", f"model_type {model_type}", message=why, remedy=remedy)]
    by_name = {tensor.name: tensor for tensor in tensors}
    layers = _layer_count(by_name)
    findings: list[Finding] = []
    if layers != config["num_hidden_layers"]:
        message = f"it says {config['num_hidden_layers']}, the weights hold {layers} layers"
        findings.append(_differs("num_hidden_layers", message))
        config = {**config, "num_hidden_layers": layers}  # the layers that are there can still be compared
    prefix = "" if "embed_tokens.weight" in by_name else "model."
    optional = {"lm_head.weight"} if _tied(config) else set[str]()
    expected = _expected(config, prefix)
    if stated:
        expected = _packed(expected, stated)
    return findings + _compare(by_name, expected=expected, optional=optional)


def dtype_findings(config: Mapping[str, Any], tensors: Sequence[Tensor]) -> list[Finding]:
    """``tensor_dtype_wrong`` for weights of an unquantised model that are no real numbers, ``dtype_mixed`` when they
    come in more than one type, ``dtype_differs``.
    """
    if config.get("quantization_config"):
        return []
    if unreal := [tensor for tensor in tensors if tensor.dtype[0] in "IUBC" and _is_weight(tensor)]:
        return [_unreal(tensor) for tensor in unreal]
    kinds = Counter(tensor.dtype for tensor in tensors if "F" in tensor.dtype)
    stated = _DTYPES.get(str(config.get("dtype") or config.get("torch_dtype")))
    if len(kinds) == 1 and stated not in (None, *kinds):
        (held,) = kinds
        message = f"config.json says {stated}, all weights are {held}; loaders follow config.json and convert"
        remedy = "correct dtype in config.json, unless the conversion is meant"
        return [warning("dtype_differs", "config.json: dtype", message=message, remedy=remedy)]
    if len(kinds) < 2:
        return []
    rarest = min(kinds, key=lambda dtype: kinds[dtype])
    example = next(tensor.name for tensor in tensors if tensor.dtype == rarest)
    return [
        warning(
            "dtype_mixed",
            example,
            message="the weights mix " + ", ".join(f"{count} tensors {dtype}" for dtype, count in kinds.most_common()),
            remedy="save the model in one type, unless the mixture is meant",
        )
    ]


def _is_weight(tensor: Tensor) -> bool:
    """And no mask or table of positions, which some families keep beside their weights."""
    return tensor.dtype != "BF16" and bool(_WEIGHT.search(tensor.name))


def _unreal(tensor: Tensor) -> Finding:
    message = f"its values are {tensor.dtype}, no type of a weight, and config.json says nothing of quantisation"
    remedy = "save the model again in bf16, or put the config.json of the quantised model there"
    return error("tensor_dtype_wrong", f"{tensor.file}: {tensor.name}", message=message, remedy=remedy)


def vocabulary_findings(tensors: Sequence[Tensor], *, tokens: int) -> list[Finding]:
    """``vocabulary_too_small`` when the tokenizer can produce ids that the embedding has no row for."""
    for tensor in tensors:
        if _EMBEDDINGS.search(tensor.name) and len(tensor.shape) == 2 and tensor.shape[0] < tokens:
            return [
                error(
                    "vocabulary_too_small",
                    f"{tensor.file}: {tensor.name}",
                    message=f"the embedding has {tensor.shape[0]} rows, the tokenizer has {tokens} tokens",
                    remedy="use the tokenizer that belongs to these weights, or resize the embedding and save again",
                )
            ]
    return []


def _type_findings(config: Mapping[str, Any]) -> list[Finding]:
    """Loaders take a text "false" for true, and a list where a number belongs for a reason to stop."""
    findings = []
    kinds: tuple[tuple[tuple[str, ...], tuple[type, ...], str], ...] = (
        (_NUMBERS, (int, float), "number"), (_TRUTHS, (bool,), "truth value"), (_TEXTS, (str,), "text"),
        (_OBJECTS, (dict,), "object"), (_LISTS, (list,), "list"),
    )  # fmt: skip
    for keys, types, name in kinds:
        for key in keys:
            value = config.get(key)
            if value is not None and type(value) not in types:
                findings.append(_differs(key, f"{_shown(value)} is no {name}"))
    for place, holder in _holders_of(config):
        for key in sorted(_ABOVE_ZERO & holder.keys()):
            value = holder[key]
            if type(value) in (int, float) and value <= 0:
                findings.append(_differs(f"{place}{key}", f"{_shown(value)} is not more than 0"))
    names = config.get("architectures")
    if isinstance(names, list) and not all(isinstance(entry, str) for entry in names):
        findings.append(_differs("architectures", "it holds something that is no text"))
    for key in _TOKENS:
        value = config.get(key)
        if value is not None and not all(
            type(entry) is int for entry in (value if isinstance(value, list) else [value])
        ):
            findings.append(_differs(key, f"{_shown(value)} is no id of a token"))
    return findings


def _holders_of(config: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """config.json, and where it says how positions turn, for each kind of layer too."""
    yield "", config
    for name in ("rope_parameters", "rope_scaling"):
        turning = config.get(name)
        if isinstance(turning, dict):
            yield f"{name}.", turning
            yield from ((f"{name}.{kind}.", said) for kind, said in turning.items() if isinstance(said, dict))


def _ratio_findings(config: Mapping[str, Any]) -> list[Finding]:
    findings = []
    heads, groups = config.get("num_attention_heads"), config.get("num_key_value_heads")
    hidden = config.get("hidden_size")
    if heads and groups and heads % groups:
        findings.append(_differs("num_key_value_heads", f"{heads} heads cannot share {groups} key-value heads"))
    family = _FAMILIES.get(str(config.get("model_type")))
    if family and not (config.get("head_dim") or family.head_dim) and hidden % heads:
        findings.append(_differs("num_attention_heads", f"hidden_size {hidden} is no multiple of {heads} heads"))
    return findings


def _compare(
    by_name: Mapping[str, Tensor], *, expected: Mapping[str, tuple[int, ...]], optional: set[str]
) -> list[Finding]:
    findings = []
    for name, shape in expected.items():
        tensor = by_name.get(name)
        if tensor is None and name not in optional:
            message = f"config.json promises this tensor of shape {list(shape)}"
            findings.append(error("tensor_missing", name, message=message, remedy=_REMEDY))
        elif tensor is not None and tensor.shape != shape:
            message = f"its shape is {list(tensor.shape)}, config.json promises {list(shape)}"
            findings.append(error("tensor_shape_wrong", f"{tensor.file}: {name}", message=message, remedy=_REMEDY))
    for name, tensor in by_name.items():
        if name not in expected and not _LEFTOVERS.search(name):
            message = "config.json has no place for this tensor"
            findings.append(error("tensor_surplus", f"{tensor.file}: {name}", message=message, remedy=_REMEDY))
    return findings


def _expected(config: Mapping[str, Any], prefix: str) -> dict[str, tuple[int, ...]]:
    hidden, vocabulary = config["hidden_size"], config["vocab_size"]
    expected: dict[str, tuple[int, ...]] = {
        f"{prefix}embed_tokens.weight": (vocabulary, hidden),
        f"{prefix}norm.weight": (hidden,),
    }
    if scores(config):
        expected["score.weight"] = (len(config.get("id2label") or ()) or _LABELS, hidden)
    else:
        expected["lm_head.weight"] = (vocabulary, hidden)
    for part, shape in {**_attention(config), **_feedforward(config)}.items():
        expected |= {f"{prefix}layers.{layer}.{part}": shape for layer in range(config["num_hidden_layers"])}
    return expected


def _attention(config: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    family, hidden, heads = _FAMILIES[config["model_type"]], config["hidden_size"], config["num_attention_heads"]
    size = config.get("head_dim") or family.head_dim or hidden // heads
    query, keys = heads * size, (config.get("num_key_value_heads") or heads) * size
    parts: dict[str, tuple[int, ...]] = {"self_attn.o_proj.weight": (hidden, query)}
    if family.fused_qkv:
        parts["self_attn.qkv_proj.weight"] = (query + 2 * keys, hidden)
    else:
        widths = {"q_proj": query, "k_proj": keys, "v_proj": keys}
        parts |= {f"self_attn.{name}.weight": (width, hidden) for name, width in widths.items()}
        biased = config.get("attention_bias", family.biased) if family.qkv_bias is None else family.qkv_bias
        if biased:
            parts |= {f"self_attn.{name}.bias": (width,) for name, width in widths.items()}
        if biased and family.qkv_bias is None and family.output_bias:
            parts["self_attn.o_proj.bias"] = (hidden,)
    if family.head_norms:
        widths = (size, size) if family.head_norms == "each" else (query, keys)
        parts |= {f"self_attn.{name}_norm.weight": (width,) for name, width in zip("qk", widths, strict=True)}
    return parts


def _feedforward(config: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    family, hidden, inner = _FAMILIES[config["model_type"]], config["hidden_size"], config["intermediate_size"]
    parts: dict[str, tuple[int, ...]] = {f"{norm}.weight": (hidden,) for norm in family.norms}
    parts["mlp.down_proj.weight"] = (hidden, inner)
    rows = {"gate_up_proj": 2 * inner} if family.fused_mlp else {"gate_proj": inner, "up_proj": inner}
    parts |= {f"mlp.{name}.weight": (width, hidden) for name, width in rows.items()}
    if config.get("mlp_bias"):
        parts |= {f"mlp.{name}.bias": (width,) for name, width in {**rows, "down_proj": hidden}.items()}
    return parts


def _tied(config: Mapping[str, Any]) -> bool:
    return bool(config.get("tie_word_embeddings", _FAMILIES[config["model_type"]].tied))


def _is_awq(stated: Mapping[str, Any]) -> bool:
    """In the one layout that is known here; others are left to the loading."""
    bits, group = stated.get("bits"), stated.get("group_size")
    usual = stated.get("quant_method") == "awq" and str(stated.get("version") or "gemm").lower() == "gemm"
    return usual and bits in (2, 4, 8) and type(group) is int and (group > 0 or group == -1)


def _packed(expected: Mapping[str, tuple[int, ...]], stated: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """The same tensors after AWQ: a projection becomes whole numbers, zero points and scales, input first.

    Source: AutoAWQ's WQLinear_GEMM, whose layout transformers reads.
    """
    said = stated.get("modules_to_not_convert")
    kept = [str(name) for name in said] if isinstance(said, list) else []
    packed: dict[str, tuple[int, ...]] = {}
    for name, shape in expected.items():
        module = name.removesuffix(".weight")
        if not name.endswith("_proj.weight") or any(part in module for part in kept):
            packed[name] = shape
            continue
        rows, columns = shape
        group, words = stated["group_size"] if stated["group_size"] > 0 else columns, rows * stated["bits"] // 32
        packed[f"{module}.qweight"] = (columns, words)
        packed[f"{module}.qzeros"], packed[f"{module}.scales"] = (columns // group, words), (columns // group, rows)
    return packed


def _layer_count(names: Mapping[str, Tensor]) -> int:
    found = [match[1] for name in names if (match := re.search(r"(?:^|\.)layers\.(\d{1,6})\.", name))]
    return max(map(int, found), default=-1) + 1


def _shown(value: Any) -> str:
    return repr(value)[:40] if not isinstance(value, int) or -(10**20) < value < 10**20 else "a number of many digits"


def _differs(key: str, message: str) -> Finding:
    return error("structure_differs", f"config.json: {key}", message=message, remedy=_REMEDY, key=key)
