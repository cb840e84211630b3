"""Publishing another form of a tuned model: a kept checkpoint, or adapter and base merged into one.

Each is a model of its own with new bytes; what it was made from stays as it is. Bytes come before the row that names
them, and their place is marked first, so that whoever dies in between leaves nothing for ever.
"""

from __future__ import annotations

import asyncio
import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from finery_contracts.access import Actor
from finery_contracts.errors import InvalidRequest, NotFound
from finery_contracts.ids import new_id
from finery_contracts.jobs import MergeSpec, TaskKind
from finery_contracts.models import ModelCreated, ModelPublished, ModelState, ModelView
from finery_contracts.tasks import TaskView
from finery_kit.db import Transaction
from finery_kit.storage import SCHEME, Storage
from finery_studio.edge.auth import Gate
from finery_studio.edge.wishes import Wish
from finery_studio.models import store, versions
from finery_studio.models.findings import allowed_for
from finery_studio.models.handlers import ModelDesk
from finery_studio.models.requests import MergeRequest, PublishRequest
from finery_studio.removal.store import MADE_LATER, let_go, settled
from finery_studio.tasks import store as task_store
from finery_studio.tasks.submit import NewTask, submit

ADAPTER_FILES = ("adapter_config.json", "adapter_model.safetensors")


@dataclass
class Publisher:
    """Everything that makes a new model of one that is there."""

    desk: ModelDesk
    storage: Storage

    async def publish(self, gate: Gate, wish: Wish, ref: str, asked: PublishRequest) -> ModelView:
        """Keep it as it is, or another form of it.

        Raises:
            InvalidRequest: ``not_tuned``; ``checkpoint_not_found``, with the steps that were kept.
            Conflict: ``name_taken``, ``already_published``.
        """
        actor = wish.actor
        if asked.form == "merged":
            merge = MergeRequest(
                kind="merge", model=ref, output=asked.name, step=asked.step, new_version=asked.new_version
            )
            return await gate.once(wish, ModelView, lambda tx: self._merging(tx, merge, actor)[0])
        if asked.step is None:
            return await gate.once(
                wish, ModelView,
                lambda tx: versions.publish(tx, actor.project, ref, asked.name, new_version=asked.new_version),
            )  # fmt: skip
        model_id = new_id("mdl")
        place = f"{SCHEME}{actor.project}/models/{model_id}"

        def begin(tx: Transaction) -> str:
            let_go(tx, actor.project, [place], at=tx.now + MADE_LATER)
            return self._adapter_of(tx, store.load(tx.session, actor.project, ref), asked.step)

        kept = await gate.database.write(begin)
        try:
            await asyncio.to_thread(self._copy, kept, f"{place}/adapter")
            return await gate.once(
                wish, ModelView, lambda tx: self._of_step(tx, ref, asked, actor, model_id, f"{place}/adapter")
            )
        finally:
            await gate.database.write(lambda tx: settled(tx, [place]))

    def merge(self, tx: Transaction, asked: MergeRequest, actor: Actor) -> TaskView:
        """``POST /api/v1/tasks`` with kind merge."""
        return self._merging(tx, asked, actor)[1]

    def merge_spec(self, tx: Transaction, task: TaskView) -> MergeSpec:
        """The engine's spec."""
        base = store.load(tx.session, task.project, task.request["base"])
        if base.weights is None:
            raise InvalidRequest(f"model {base.name} has no weights to merge into", code="weights_missing")
        allowed = allowed_for(base, self.desk.allowed_code)
        return MergeSpec(model=base.weights, adapter=task.request["adapter"], allowed_code=allowed)

    def _merging(self, tx: Transaction, asked: MergeRequest, actor: Actor) -> tuple[ModelView, TaskView]:
        """A model whose weights a task makes; validation follows by itself.

        As a new version of a name it becomes current when it is ready, so that the name works meanwhile.
        """
        source = store.mine(tx, actor.project, asked.model)
        adapter = self._adapter_of(tx, source, asked.step)
        assert source.base is not None
        base = store.find(tx.session, actor.project, source.base)
        name = _name_for(source, asked.output, "merged", new_version=asked.new_version)
        holder = versions.ask_for_place(tx, actor.project, name, new_version=asked.new_version)
        number = store.next_number(tx.session, actor.project, name)
        model_id, task_id = new_id("mdl"), new_id("task")
        step = {"step": str(asked.step)} if asked.step is not None else {}
        lineage = {**source.lineage, "base": source.base, "merged_from": source.id, **step}
        openai_name = source.openai_name
        view = source.model_copy(
            update={
                **versions.born(actor, tx, model_id, name, number), "state": ModelState.IMPORTING,
                "current": holder is None, "base": None, "weights": None, "adapter": None, "lineage": lineage,
                "tasks": [*source.tasks, task_id], "repairs": base.repairs if base else [],
                "openai_name": openai_name and f"{openai_name.rpartition(':')[0]}:{model_id[-8:]}",
            }
        )  # fmt: skip
        store.save(tx, view, ModelCreated)
        request = {
            "model": model_id, "base": source.base, "source": source.id, "adapter": adapter, "step": asked.step,
            "validate": True, "promote": holder is not None,
        }  # fmt: skip
        new = NewTask(
            TaskKind.MERGE, f"merge-{name}", request, asked, result={"model": model_id}, task_id=task_id,
            model_parameters=self.desk.size_of(source),
        )  # fmt: skip
        return view, submit(tx, new, actor, self.desk.specs)

    def _of_step(
        self, tx: Transaction, ref: str, asked: PublishRequest, actor: Actor, model_id: str, adapter: str
    ) -> ModelView:
        source = store.mine(tx, actor.project, ref)
        name = _name_for(source, asked.name, f"step-{asked.step}", new_version=asked.new_version)
        number = versions.take_place(tx, actor.project, name, new_version=asked.new_version)
        openai_name = f"{source.openai_name}:ckpt-step-{asked.step}" if source.openai_name else None
        view = source.model_copy(
            update={
                **versions.born(actor, tx, model_id, name, number), "adapter": adapter, "openai_name": openai_name,
                "lineage": {**source.lineage, "step": str(asked.step), "published_from": source.id},
            }
        )  # fmt: skip
        return store.save(tx, view, ModelPublished)

    def _adapter_of(self, tx: Transaction, view: ModelView, step: int | None) -> str:
        """Where the adapter lies: the final one, or a kept checkpoint's."""
        if view.adapter is None or view.base is None:
            raise InvalidRequest(
                f"model {view.name} is no adapter on a base; only what a tuning left has checkpoints and can be merged",
                code="not_tuned", param="model",
            )  # fmt: skip
        if step is None:
            return view.adapter
        row = tx.session.get(task_store.TaskRow, view.lineage.get("task", ""))
        kept = {found.step: found.path for found in task_store.view_of(row).checkpoints} if row is not None else {}
        if step not in kept or self.storage.find(kept[step]) is None:
            there = ", ".join(str(found) for found in sorted(kept)) or "none; its task was deleted"
            raise InvalidRequest(
                f"no checkpoint of step {step} was kept for {view.name}; kept are: {there}",
                code="checkpoint_not_found", param="step",
            )  # fmt: skip
        return kept[step]

    def _copy(self, checkpoint: str, target: str) -> None:
        """The adapter alone: optimizer and trainer state of a checkpoint are no part of a model."""
        source, beside = self.storage.path(checkpoint), self.storage.place(f"{target}.part")
        shutil.rmtree(beside, ignore_errors=True)
        beside.mkdir()
        for name in ADAPTER_FILES:
            if not (source / name).is_file():
                raise NotFound(f"the checkpoint has no {name}", code="artefact_missing", param="step")
            _link(source / name, beside / name)
        os.replace(beside, self.storage.place(target))


def _name_for(source: ModelView, wanted: str | None, form: str, *, new_version: bool) -> str:
    """Without one that was asked for: its own, as the next version, or one that says what was made of it."""
    return wanted or (source.name if new_version else f"{source.name[:48]}-{form}")


def _link(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)
