"""Which function does which step; a step of the contract that stands in neither table cannot run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from finery_contracts import cleansing
from finery_dataset_ingest.engine.steps import chance
from finery_dataset_ingest.engine.steps.contamination import EvaluationIndex, contamination_judge
from finery_dataset_ingest.engine.steps.duplicates import choose_distinct
from finery_dataset_ingest.engine.steps.languages import language_judge
from finery_dataset_ingest.engine.steps.lengths import CountTokens, length_judge
from finery_dataset_ingest.engine.steps.missing import missing_judge
from finery_dataset_ingest.engine.steps.near_duplicates import choose_dissimilar
from finery_dataset_ingest.engine.steps.personal import personal_judge
from finery_dataset_ingest.engine.steps.quality import quality_judge
from finery_dataset_ingest.engine.steps.verdicts import Chooser, Judge
from finery_dataset_ingest.engine.steps.words import blocked_judge, relevance_judge


@dataclass(frozen=True)
class Ground:
    """What steps know beside the records and their own parameters."""

    seed: int = 42
    inputs: list[str] = field(default_factory=list[str])
    """Names of the datasets, in their order."""
    count_tokens: CountTokens | None = None
    evaluations: Callable[[cleansing.Contamination], EvaluationIndex] | None = None


def judge_of(step: Any, ground: Ground) -> Judge:
    """A step that looks at one record at a time; raises KeyError for one that does not."""
    return _JUDGES[type(step)](step, ground)


def chooser_of(step: Any, ground: Ground) -> Chooser | None:
    """A step that must see all records; None for one that need not."""
    make = _CHOOSERS.get(type(step))
    return None if make is None else make(step, ground)


def _contamination(step: cleansing.Contamination, ground: Ground) -> Judge:
    assert ground.evaluations is not None
    return contamination_judge(step, ground.evaluations(step))


_JUDGES: dict[type, Callable[[Any, Ground], Judge]] = {
    cleansing.Length: lambda step, ground: length_judge(step, ground.count_tokens),
    cleansing.Languages: lambda step, _: language_judge(step),
    cleansing.Missing: lambda step, _: missing_judge(step),
    cleansing.Personal: lambda step, _: personal_judge(step),
    cleansing.Quality: lambda step, _: quality_judge(step),
    cleansing.Blocked: lambda step, _: blocked_judge(step),
    cleansing.Relevance: lambda step, _: relevance_judge(step),
    cleansing.Contamination: _contamination,
}
_CHOOSERS: dict[type, Callable[[Any, Ground], Chooser]] = {
    cleansing.ExactDuplicates: lambda step, _: lambda view: choose_distinct(view, step),
    cleansing.NearDuplicates: lambda step, _: lambda view: choose_dissimilar(view, step),
    cleansing.Sample: lambda step, ground: lambda view: chance.choose_sample(view, step, ground.seed),
    cleansing.Shuffle: lambda step, ground: lambda view: chance.choose_order(view, step, ground.seed),
    cleansing.Mix: lambda step, ground: lambda view: chance.choose_mixture(view, step, ground.seed, ground.inputs),
    cleansing.Split: lambda step, ground: lambda view: chance.choose_sides(view, step, ground.seed),
}
