"""Models for which repairs were proposed, as workers report them."""

from __future__ import annotations

from pathlib import Path

from studio_rig import GALLERY_MODEL, Rig

from finery_contracts.errors import ErrorBody
from finery_contracts.jobs import Finding, TaskKind, ValidateOutput
from finery_contracts.models import ModelView
from finery_contracts.tasks import EndReason
from finery_contracts.weights import Repair
from finery_studio.models.requests import NewModel

FILES = {
    "generation_do_sample": "generation_config.json", "tokenizer_pad_token": "tokenizer_config.json",
    "chatglm_padding_side": "tokenization_chatglm.py", "qwen_dtype_probing": "modeling_qwen.py",
}  # fmt: skip
BEFORE = {name: f"{number}a" * 32 for number, name in enumerate(FILES)}
AFTER = {name: f"{number}b" * 32 for number, name in enumerate(FILES)}


def a_repair(name: str) -> Repair:
    file = FILES[name]
    return Repair(
        id=name, file=file, reason=f"why {name}", diff=f"--- a/{file}\n+++ b/{file}\n@@ -1 +1 @@\n-old\n+new\n",
        sha256_before=BEFORE[name], sha256_after=AFTER[name],
    )  # fmt: skip


def told(*names: str, code: str = "repair_available") -> list[Finding]:
    return [
        Finding(
            code=code, severity="info", message="m", where=FILES[name], remedy="r",
            data={"repair": a_repair(name).model_dump()},
        )
        for name in names
    ]  # fmt: skip


def fault(code: str, *names: str, applied: tuple[str, ...] = ()) -> ErrorBody:
    """What an engine refuses a folder with."""
    wrong = Finding(code=code, severity="error", message="m", where="generation_config.json", remedy="r")
    found = [*told(*names), *told(*applied, code="repair_applied"), wrong]
    return ErrorBody(code=code, message="1 error", details=[finding.model_dump() for finding in found])


async def begin(studio: Rig, name: str = "mine", path: Path | None = None) -> ModelView:
    new = NewModel(name, path=str(path)) if path else NewModel(name, gallery=GALLERY_MODEL)
    return await studio.write(lambda tx: studio.studio.models.create(tx, new, studio.actor))


async def valid(studio: Rig, *names: str, name: str = "mine") -> ModelView:
    """A ready model; validation proposed these."""
    made = await begin(studio, name)
    await studio.work(TaskKind.IMPORT)
    claim = await studio.claim(TaskKind.VALIDATE)
    assert claim is not None
    await studio.end(claim, output=ValidateOutput(findings=told(*names), repairs=[a_repair(one) for one in names]))
    return await studio.model(made.id)


async def invalid(studio: Rig, *names: str, name: str = "mine") -> ModelView:
    """A model whose weights are there and whose validation failed."""
    made = await begin(studio, name)
    await studio.work(TaskKind.IMPORT)
    claim = await studio.claim(TaskKind.VALIDATE)
    assert claim is not None
    await studio.end(claim, reason=EndReason.USER_MISTAKE, error=fault("do_sample_missing", *names))
    return await studio.model(made.id)


async def refused(studio: Rig, folder: Path, *names: str, name: str = "mine") -> ModelView:
    """A model whose import was refused, so that there are no weights of it."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text("{}")
    made = await begin(studio, name, folder)
    claim = await studio.claim(TaskKind.IMPORT)
    assert claim is not None
    await studio.end(claim, reason=EndReason.USER_MISTAKE, error=fault("remote_code", *names))
    return await studio.model(made.id)
