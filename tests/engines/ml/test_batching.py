"""Batches: their order, their padding, and the loss that must not change when logits are left out."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
import torch

from finery_ml.batching import Collator, LengthGroupedSampler
from finery_ml.conversation import IGNORED
from finery_ml.loading import load_model

LENGTHS = random.Random(1).choices(range(5, 200), k=403)


def order(*, seed: int = 3, epoch: int = 0) -> list[int]:
    """The sampler's order of LENGTHS in batches of eight."""
    sampler = LengthGroupedSampler(LENGTHS, 8, seed=seed)
    sampler.set_epoch(epoch)
    return list(sampler)


def test_every_sample_comes_once_and_the_order_hangs_on_seed_and_epoch_alone() -> None:
    assert sorted(order()) == list(range(403))
    assert order(epoch=2) == order(epoch=2)
    assert order(epoch=2) != order(epoch=1)
    assert order(seed=4) != order(seed=3)


def test_grouping_leaves_little_padding_and_keeps_batches_shuffled() -> None:
    # given
    batches = [order(epoch=1)[at : at + 8] for at in range(0, 400, 8)]
    # when
    longest = [max(LENGTHS[index] for index in batch) for batch in batches]
    padding = 1 - sum(LENGTHS[index] for batch in batches for index in batch) / sum(8 * size for size in longest)
    # then
    assert padding < 0.04
    assert longest not in (sorted(longest), sorted(longest, reverse=True))


@pytest.mark.parametrize("seed", range(5))
def test_the_longest_sample_is_in_the_very_first_batch(seed: int) -> None:
    assert max(LENGTHS[index] for index in order(seed=seed)[:8]) == max(LENGTHS)


def test_leaving_out_logits_that_train_nothing_changes_neither_loss_nor_gradient(tiny_model: Path) -> None:
    # given
    model = load_model(tiny_model, dtype=torch.float32, device=torch.device("cpu"))
    rows = [
        {"input_ids": [5, 6, 7, 8, 9], "labels": [IGNORED, IGNORED, 7, 8, IGNORED]},
        {"input_ids": [10, 11, 12], "labels": [IGNORED, 11, 12]},
    ]
    # when
    results = []
    for trained_logits_only in (False, True):
        batch = Collator(pad_id=2, trained_logits_only=trained_logits_only)(rows)
        model.zero_grad()
        output = model(**batch)
        output.loss.backward()
        results.append((output.logits.shape[1], output.loss.item(), model.model.layers[0].mlp.up_proj.weight.grad))
    # then
    (every, loss, gradient), (kept, same_loss, same_gradient) = results
    assert (every, kept) == (5, 3)
    assert same_loss == pytest.approx(loss, rel=1e-6)
    torch.testing.assert_close(same_gradient, gradient)
