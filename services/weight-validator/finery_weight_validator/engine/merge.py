"""Merges an adapter into its base: ``python -m finery_weight_validator.engine.merge JOB_DIR``, spec MergeSpec.

It makes out/model/: full safetensors in the base's own dtype, with the base's config, tokenizer and template. Weights
pass one block of rows at a time, so its memory does not grow with the model; nothing of either folder is run.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import torch

from finery_contracts.errors import InvalidRequest, WeightsInvalid
from finery_contracts.jobs import MergeOutput, MergeSpec, Phase
from finery_ml.job import JobFolder, Terminated, run
from finery_weight_validator.engine.findings import refuse
from finery_weight_validator.engine.folder import Survey, read_json, survey
from finery_weight_validator.engine.headers import Tensor
from finery_weight_validator.engine.lora import Change, read_adapter
from finery_weight_validator.engine.metadata import code_findings, missing_parts
from finery_weight_validator.engine.settled import longest_of
from finery_weight_validator.engine.shards import INDEX, SINGLE, read_weights

BLOCK_BYTES = 64 * 2**20
FLOATS = {"F64": torch.float64, "F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float16}
_NAMES = {"BF16": "bfloat16", "F16": "float16", "F32": "float32", "F64": "float64"}


@dataclass(frozen=True)
class Part:
    """One file of the merged weights."""

    name: str
    tensors: list[Tensor]


def main(argv: list[str] | None = None) -> int:
    """Run one job folder; returns the exit status."""
    return run(merge, argv)


def merge(work: JobFolder) -> MergeOutput:
    """Read both, plan the files, write them beside their place, rename."""
    spec = work.job.spec
    if not isinstance(spec, MergeSpec):
        raise InvalidRequest(f"This engine merges; it cannot {spec.kind}.", code="wrong_engine", param="kind")
    target = work.out / "model"
    beside = target.with_name(".model.part")
    shutil.rmtree(beside, ignore_errors=True)
    beside.mkdir(parents=True)
    torch.set_num_threads(work.job.threads)
    work.progress(phase=Phase.RUNNING, message="reading the adapter")
    found = survey(Path(spec.model), allowed_code=frozenset(spec.allowed_code))
    refuse([*found.findings, *missing_parts(found), *code_findings(found)])
    weights = read_weights(found)
    refuse(weights.findings)
    config = read_json(found.folder / "config.json")
    changes = placed(read_adapter(Path(spec.adapter)), weights.tensors, config)
    with work.span("merge", tensors=len(weights.tensors), merged=len(changes)):
        for part in _write_all(weights.tensors, changes, found, beside, spec=spec, work=work):
            work.progress(message=f"wrote {part.name}")
    _copy_rest(found, beside)
    output = _described(weights.tensors, config, beside, merged=len(changes))
    _flush(beside)
    shutil.rmtree(target, ignore_errors=True)
    os.replace(beside, target)
    return output


def placed(changes: list[Change], tensors: list[Tensor], config: dict[str, Any]) -> dict[str, Change]:
    """Every change under the name of the tensor that it changes.

    Raises:
        WeightsInvalid: ``adapter_target_missing``, ``adapter_not_mergeable``: the base has no such weight, or it has
        another shape, is no float, or is tied to another one.
    """
    there = {tensor.name: tensor for tensor in tensors}
    found = dict[str, Change]()
    if config.get("quantization_config"):
        raise _refused("config.json", "the base is quantised; merge into the weights it was made from")
    tied = bool(config.get("tie_word_embeddings")) and "lm_head.weight" not in there
    for change in changes:
        name = _name_of(change, there)
        if tied and change.module.endswith(("lm_head", "embed_tokens", "wte")):
            raise _refused(change.module, "input and output embeddings are one tensor, and the adapter changes one")
        if name is None:
            raise WeightsInvalid(
                f"The adapter changes {change.module}, which is not in the base; choose the base it was tuned from.",
                code="adapter_target_missing", param=change.module,
            )  # fmt: skip
        tensor = there[name]
        if tensor.shape != change.shape:
            raise _refused(change.module, f"it is {tensor.shape} in the base and {change.shape} in the adapter")
        if tensor.dtype not in FLOATS:
            raise _refused(change.module, f"its dtype is {tensor.dtype}")
        found[name] = change
    return found


def _name_of(change: Change, there: dict[str, Tensor]) -> str | None:
    """Some families store their weights without the name of the innermost model."""
    names = (f"{change.module}.weight", f"{change.module.partition('.')[2]}.weight")
    return next((name for name in names if name in there), None)


def _write_all(
    tensors: list[Tensor], changes: dict[str, Change], found: Survey, folder: Path, *, spec: MergeSpec, work: JobFolder
) -> Iterator[Part]:
    parts, total, done = plan(tensors, spec.max_shard_bytes), sum(t.end - t.begin for t in tensors), 0
    for part in parts:
        with (folder / part.name).open("xb") as target:
            target.write(_header(part.tensors))
            for tensor in part.tensors:
                with found.usable[tensor.file].open("rb") as source:
                    for block in _blocks(source, tensor, changes.get(tensor.name)):
                        if work.stop_requested.is_set():
                            raise Terminated
                        target.write(block)
                        done += len(block)
                work.progress(step=done, total=total, message=f"merging {tensor.name[:200]}")
        yield part
    if len(parts) > 1:
        places = {tensor.name: part.name for part in parts for tensor in part.tensors}
        index = {"metadata": {"total_size": total}, "weight_map": dict(sorted(places.items()))}
        (folder / INDEX).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")


def plan(tensors: list[Tensor], max_bytes: int) -> list[Part]:
    """Which tensor goes into which file: the base's order, a new file when one would grow too large."""
    groups, size = [list[Tensor]()], 0
    for tensor in tensors:
        weighs = tensor.end - tensor.begin
        if groups[-1] and size + weighs > max_bytes:
            groups.append([])
            size = 0
        groups[-1].append(tensor)
        size += weighs
    if len(groups) == 1:
        return [Part(SINGLE, groups[0])]
    return [Part(f"model-{n:05d}-of-{len(groups):05d}.safetensors", group) for n, group in enumerate(groups, start=1)]


def _header(tensors: list[Tensor]) -> bytes:
    """Length and JSON, padded so that the data begins at a multiple of eight."""
    entries, place = dict[str, Any](), 0
    for tensor in tensors:
        end = place + tensor.end - tensor.begin
        entries[tensor.name] = {"dtype": tensor.dtype, "shape": list(tensor.shape), "data_offsets": [place, end]}
        place = end
    text = json.dumps({"__metadata__": {"format": "pt"}, **entries}).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def _blocks(source: BinaryIO, tensor: Tensor, change: Change | None) -> Iterator[bytes]:
    """The tensor's new bytes, some rows at a time; unchanged ones pass through as they are."""
    source.seek(tensor.begin)
    if change is None:
        left = tensor.end - tensor.begin
        while left:
            block = source.read(min(left, BLOCK_BYTES))
            left -= len(block)
            yield block
        return
    dtype, rows = FLOATS[tensor.dtype], tensor.shape[0] if tensor.shape else 1
    width = tensor.count // max(1, rows)
    row_bytes = width * dtype.itemsize
    at_once = max(1, BLOCK_BYTES // max(1, row_bytes))
    for begin in range(0, rows, at_once):
        count = min(at_once, rows - begin)
        buffer = bytearray(count * row_bytes)
        source.readinto(buffer)
        values = torch.frombuffer(buffer, dtype=dtype).reshape(count, width)
        merged = change.applied(values.to(torch.float32), begin)
        yield merged.to(dtype).contiguous().view(torch.uint8).numpy().tobytes()


def _copy_rest(found: Survey, folder: Path) -> None:
    """Config, tokenizer, template, licence, allowed code: everything but the weights and their index."""
    for name, path in found.usable.items():
        if path.suffix != ".safetensors" and name != INDEX:
            shutil.copyfile(path, folder / name)
    for name, text in found.code.items():
        (folder / name).write_bytes(text)


def _described(tensors: list[Tensor], config: dict[str, Any], folder: Path, *, merged: int) -> MergeOutput:
    values = Counter[str]()
    for tensor in tensors:
        values[tensor.dtype] += tensor.count
    dtype = values.most_common(1)[0][0]
    tokenizer = folder / "tokenizer_config.json"
    return MergeOutput(
        architecture=str(config.get("model_type") or "unknown")[:100], parameters=values.total(),
        size_bytes=sum(path.stat().st_size for path in folder.iterdir()), dtype=_NAMES.get(dtype, dtype.lower()),
        max_length=longest_of(config, read_json(tokenizer) if tokenizer.is_file() else {}), merged_tensors=merged,
    )  # fmt: skip


def _flush(folder: Path) -> None:
    for path in (*folder.iterdir(), folder):
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _refused(where: str, reason: str) -> WeightsInvalid:
    return WeightsInvalid(
        f"The adapter cannot be merged into this base: {where}: {reason}.", code="adapter_not_mergeable", param=where
    )


if __name__ == "__main__":
    sys.exit(main())
