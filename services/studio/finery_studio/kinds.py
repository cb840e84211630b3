"""Which module does what for each kind of task: who builds the engine's spec, who registers what came of it."""

from __future__ import annotations

from functools import partial

from finery_contracts.jobs import TaskKind
from finery_kit.storage import Storage
from finery_studio.datasets import handlers as datasets
from finery_studio.datasets.preparing import PreparingDesk, on_prepare_ended
from finery_studio.labelling.judging import Judging, on_judge_ended
from finery_studio.models.handlers import ModelDesk
from finery_studio.models.publication import Publisher
from finery_studio.tasks.handlers import Outcome
from finery_studio.tasks.submit import SpecMaker
from finery_studio.tuning.handlers import TuningDesk


def spec_makers(
    models: ModelDesk, tuning: TuningDesk, preparing: PreparingDesk, publisher: Publisher
) -> dict[TaskKind, SpecMaker]:
    """By kind."""
    return {
        TaskKind.INGEST: datasets.ingest_spec,
        TaskKind.PREPARE: preparing.prepare_spec,
        TaskKind.COUNT: preparing.count_spec,
        TaskKind.IMPORT: models.import_spec,
        TaskKind.VALIDATE: models.validate_spec,
        TaskKind.TUNE: tuning.tune_spec,
        TaskKind.EVALUATE: tuning.evaluate_spec,
        TaskKind.JUDGE: Judging(models).judge_spec,
        TaskKind.MERGE: publisher.merge_spec,
    }


def outcomes(models: ModelDesk, storage: Storage) -> dict[TaskKind, Outcome]:
    """By kind."""
    return {
        TaskKind.INGEST: partial(datasets.on_ingest_ended, storage=storage),
        TaskKind.PREPARE: partial(on_prepare_ended, storage=storage),
        TaskKind.COUNT: lambda tx, task: {},
        TaskKind.IMPORT: models.on_import_ended,
        TaskKind.VALIDATE: models.on_validate_ended,
        TaskKind.TUNE: models.on_tune_ended,
        TaskKind.EVALUATE: lambda tx, task: {},
        TaskKind.JUDGE: on_judge_ended,
        TaskKind.MERGE: models.on_import_ended,
    }
