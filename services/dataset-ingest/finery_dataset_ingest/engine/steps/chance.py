"""Steps that choose by the seed: sample, shuffle, mix, split. Nothing but the seed and the records' order decides."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pyarrow as pa

from finery_contracts.cleansing import Mix, Sample, Shuffle, Split
from finery_contracts.errors import DataInvalid
from finery_dataset_ingest.engine.steps.duplicates import firsts, keys_of
from finery_dataset_ingest.engine.steps.hashes import chances, fingerprints
from finery_dataset_ingest.engine.steps.texts import normalised, texts_of
from finery_dataset_ingest.engine.steps.verdicts import Chosen
from finery_dataset_ingest.engine.tables import INPUT, View

_SPLIT_KEYS = 5


def choose_sample(view: View, step: Sample, seed: int) -> Chosen:
    """So many records, or a share of them (rounded), in their order."""
    return sample_of(view.records, step, seed)


def sample_of(records: int, step: Sample, seed: int) -> Chosen:
    """The same, when only their number is known."""
    wanted = step.records if step.records is not None else round((step.share or 0) * records)
    notes = [f"There are {records} records, {wanted} were asked for."] if wanted > records else []
    kept = np.sort(_drawn(np.arange(records), wanted, seed, "sample"))
    return Chosen(kept, _counted("not_sampled", records - len(kept)), notes=notes)


def choose_order(view: View, step: Shuffle, seed: int) -> Chosen:
    """All of them, in another order."""
    return order_of(view.records, step, seed)


def order_of(records: int, step: Shuffle, seed: int) -> Chosen:
    """The same, when only their number is known."""
    return Chosen(_drawn(np.arange(records), records, seed, step.step))


def choose_mixture(view: View, step: Mix, seed: int, names: list[str]) -> Chosen:
    """From each source its share; see ``Mix`` for the rule when one is short.

    Raises DataInvalid ``source_empty`` when a source that has a weight has no records (left).
    """
    return mixture_of(_inputs(view), step, seed, names)


def mixture_of(inputs: np.ndarray, step: Mix, seed: int, names: list[str]) -> Chosen:
    """The same, when only the source of each record is known (its number)."""
    pools = [np.flatnonzero(inputs == number) for number in range(len(step.weights))]
    for name, pool in zip(names, pools, strict=True):
        if not len(pool):
            raise DataInvalid(
                f"{name} has no records left to mix; take it out, or cleanse it less.", code="source_empty", param=name
            )
    quotas = shares([len(pool) for pool in pools], step)
    picked, notes, repeated = list[np.ndarray](), list[str](), 0
    for name, pool, quota in zip(names, pools, quotas, strict=True):
        whole, rest = divmod(quota, len(pool))
        drawn = np.sort(_drawn(pool, rest, seed, f"mix {name}"))
        picked.append(np.concatenate([np.tile(pool, whole), drawn]))
        repeated += max(0, quota - len(pool))
        again = (
            f", each {whole} or {whole + 1} times" if whole and rest else f", each {whole} times" if whole > 1 else ""
        )
        notes.append(f"{name}: {quota} of {len(pool)} records{again}")
    if step.records is not None and sum(quotas) < step.records:
        notes.append(f"{step.records} records were asked for; the sources allow {sum(quotas)} without repetition")
    kept = np.concatenate(picked)
    if step.shuffle:
        kept = kept[np.argsort(chances(seed, "mix order", np.arange(len(kept))), kind="stable")]
    gone = len(inputs) - len(np.unique(kept))
    return Chosen(kept, _counted("not_in_the_mixture", gone), notes=[*notes, *_repeats(repeated)])


def shares(sizes: list[int], step: Mix) -> list[int]:
    """How many records each source gives; the ratio of the weights, rounded by the largest remainder."""
    total_weight = sum(step.weights)
    at_most = min(size / weight for size, weight in zip(sizes, step.weights, strict=True)) * total_weight
    at_least_one_whole = max(size / weight for size, weight in zip(sizes, step.weights, strict=True)) * total_weight
    allowed = at_least_one_whole if step.when_short == "repeat" else at_most
    total = step.records if step.records is not None else int(allowed + 1e-9)
    if step.when_short == "shrink":
        total = min(total, int(at_most + 1e-9))
    exact = [total * weight / total_weight for weight in step.weights]
    quotas = [int(share + 1e-9) for share in exact]
    by_remainder = sorted(range(len(exact)), key=lambda n: (quotas[n] - exact[n], n))
    for number in by_remainder[: total - sum(quotas)]:
        quotas[number] += 1
    if step.when_short == "shrink":
        quotas = [min(quota, size) for quota, size in zip(quotas, sizes, strict=True)]
    return quotas


def choose_sides(view: View, step: Split, seed: int) -> Chosen:
    """Train and validation; see ``sides_of``."""
    return sides_of(_concatenated([split_keys(batch, step) for batch in view.batches()], _SPLIT_KEYS), step, seed)


def split_keys(batch: pa.RecordBatch, step: Split) -> np.ndarray:
    """Five uint64 a record: what it stays together with (two), its stratum (two), and what its draw follows from."""
    identity = keys_of(batch, "record", normalise=True)
    group = identity if step.group == "record" else keys_of(batch, "prompt", normalise=True)
    return np.concatenate([group, _stratum_keys(batch, step), identity[:, :1]], axis=1)


def sides_of(keys: np.ndarray, step: Split, seed: int) -> Chosen:
    """What is the same stays on one side; within a stratum whole groups go over, in an order that the seed decides, as
    long as that brings the share nearer.

    Raises DataInvalid ``split_empty`` when one side would hold nothing.
    """
    groups, strata = firsts(keys[:, 0:2]), firsts(keys[:, 2:4])
    members, sizes = np.unique(groups, return_counts=True)
    drawn = chances(seed, "split", keys[members, 4])
    aside = np.zeros(len(keys), bool)
    owed = 0.0
    for stratum in np.unique(strata):
        inside = np.flatnonzero(strata[members] == stratum)
        inside = inside[np.argsort(drawn[inside], kind="stable")]
        owed += step.validation * int(sizes[inside].sum())
        for group in inside:
            if owed >= sizes[group] / 2:
                aside[members[group]] = True
                owed -= int(sizes[group])
    side = aside[groups]
    taken = int(side.sum())
    if not 0 < taken < len(keys):
        raise DataInvalid(
            f"a share of {step.validation:g} of {len(keys)} records leaves one side empty; give more records (alike "
            "ones stay together) or another share.",
            code="split_empty", param="validation",
        )  # fmt: skip
    notes = [f"{taken} of {len(keys)} records are laid aside ({taken / len(keys):.2%})."]
    return Chosen(np.flatnonzero(~side), notes=notes, validation=np.flatnonzero(side))


def _stratum_keys(batch: pa.RecordBatch, step: Split) -> np.ndarray:
    if step.stratify == "answer":
        return fingerprints([normalised(text) for text in texts_of(batch, "answer")])
    if step.stratify == "label":
        return fingerprints([str(label) for label in batch.column("label").to_pylist()])
    return np.zeros((batch.num_rows, 2), np.uint64)


def _concatenated(parts: list[np.ndarray], width: int) -> np.ndarray:
    return np.concatenate(parts) if parts else np.empty((0, width), np.uint64)


def _inputs(view: View) -> np.ndarray:
    parts = [batch.column(INPUT).to_numpy() for batch in view.batches()]
    return np.concatenate(parts) if parts else np.empty(0, np.int16)


def _drawn(pool: np.ndarray, count: int, seed: int, name: str) -> np.ndarray:
    return pool[np.argsort(chances(seed, name, pool), kind="stable")][:count]


def _counted(reason: str, count: int) -> Counter[str]:
    return Counter({reason: count} if count else {})


def _repeats(repeated: int) -> list[str]:
    return [f"{repeated} records are repetitions of others in their source."] if repeated else []
