"""Real training that is killed at random moments: each time the newest verified checkpoint is the way on.

The engine is the real program in a process of its own and gets no warning (SIGKILL); what follows must be the curve of
a run that nobody broke, number for number. ``SEED=`` repeats the moments.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from finery_contracts.jobs import TuneSpec
from finery_contracts.tuning import TuneParameters
from finery_ml.checkpoints import published_checkpoints, verify_checkpoint

USEFUL = 0.95
RECORDS = [
    {"messages": [{"role": "user", "content": f"What is {n} plus {'one ' * (n % 5)}?"},
                  {"role": "assistant", "content": f"It is {n + n % 5}."}]}
    for n in range(24)
]  # fmt: skip
MakeJob = Callable[..., Path]
Curve = dict[int, tuple[float, float, float]]


@dataclass
class Killed:
    """What the lives of one training left."""

    curve: Curve = field(default_factory=dict[int, tuple[float, float, float]])
    executed: int = 0
    repeated: list[int] = field(default_factory=list[int])
    """Steps done again after each kill."""
    kills: int = 0
    folders: list[Path] = field(default_factory=list[Path])


def curve_of(folder: Path) -> Curve:
    """(loss, gradient norm, learning rate) at each step; a line that was cut short is none."""
    points = Curve()
    for line in (folder / "progress.jsonl").read_bytes().splitlines(keepends=True):
        told = json.loads(line) if line.endswith(b"\n") else {}
        if "loss" in told.get("metrics", {}):
            seen = told["metrics"]
            points[told["step"]] = (seen["loss"], seen["grad_norm"], seen["learning_rate"])
    return points


def newest_first(folders: Sequence[Path]) -> list[Path]:
    """All checkpoints that any life has published, as the studio keeps them."""
    found = [path for folder in folders for path in published_checkpoints(folder / "checkpoints")]
    return sorted(found, key=lambda path: int(path.name.rpartition("-")[2]), reverse=True)


@contextlib.contextmanager
def started(folder: Path) -> Iterator[subprocess.Popen[bytes]]:
    """The engine as the executor starts it; it does not outlive the test."""
    command = [sys.executable, "-W", "ignore", "-m", "finery_trainer.engine.sft", str(folder)]
    with (folder / "log.txt").open("wb") as log, subprocess.Popen(command, stdout=log, stderr=log) as program:
        try:
            yield program
        finally:
            program.kill()


def kill_after(program: subprocess.Popen[bytes], folder: Path, step: int, more_s: float) -> bool:
    """SIGKILL some moments after a step; False when the program was quicker."""
    while program.poll() is None:
        if (folder / "progress.jsonl").exists() and max(curve_of(folder), default=0) >= step:
            time.sleep(more_s)
            program.kill()
            break
        time.sleep(0.01)
    return program.wait() != 0


def train_with_kills(spec: TuneSpec, engine_job: MakeJob, *, kills: int, seed: int) -> Killed:
    """Kill it at random moments, resume it each time, let the last life end."""
    rng = random.Random(seed)
    steps = spec.parameters.iterations or 0
    moments = sorted(rng.sample(range(1, steps - 2), kills))
    done = Killed()
    for moment in [*moments, steps + 1]:
        resume = newest_first(done.folders)
        assert all(verify_checkpoint(path) for path in resume)
        folder = engine_job(spec, resume_from=resume)
        with started(folder) as program:
            killed = kill_after(program, folder, moment, rng.uniform(0, 0.15))
        mine = curve_of(folder)
        done.repeated += [max(done.curve, default=0) - (min(mine, default=1) - 1)] if done.folders and mine else []
        assert all(done.curve[step] == mine[step] for step in done.curve.keys() & mine.keys())
        done.curve |= mine
        done.executed += len(mine)
        done.kills += killed
        done.folders.append(folder)
        if not killed:
            break
    return done


def check(spec: TuneSpec, engine_job: MakeJob, *, kills: int) -> None:
    seed = int(os.environ.get("SEED", "0")) or random.SystemRandom().randrange(1, 10**6)
    unbroken = engine_job(spec)
    with started(unbroken) as program:
        assert program.wait() == 0, (unbroken / "log.txt").read_text()[-2000:]

    killed = train_with_kills(spec, engine_job, kills=kills, seed=seed)

    steps, interval = spec.parameters.iterations, spec.parameters.checkpoint_interval
    said = f"SEED={seed} kills={killed.kills} repeated={killed.repeated} executed={killed.executed} of {steps}"
    print(said)
    assert killed.kills == kills, said
    assert killed.curve == curve_of(unbroken), said
    assert len(killed.curve) == steps, said
    assert all(0 <= again <= (interval or 0) for again in killed.repeated), said
    assert len(killed.curve) / killed.executed >= USEFUL, said
    weights = [load_file(folder / "out" / "adapter" / "adapter_model.safetensors")
               for folder in (unbroken, killed.folders[-1])]  # fmt: skip
    assert weights[0].keys() == weights[1].keys()
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


def spec_of(model: Path, train: Path, **given: Any) -> TuneSpec:
    parameters = TuneParameters(
        **{"batch_size": 2, "lora_rank": 4, "precision": "fp32", "learning_rate": 1e-3, "max_length": 64,
           "lora_dropout": 0.1, "log_interval": 1, "epochs": None} | given
    )  # fmt: skip
    return TuneSpec(model=str(model), train=str(train), parameters=parameters)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_killed_training_goes_on_along_the_very_same_curve(
    tiny_model: Path, canonical: Callable[..., Path], engine_job: MakeJob
) -> None:
    spec = spec_of(tiny_model, canonical(RECORDS), iterations=200, checkpoint_interval=2)
    check(spec, engine_job, kills=4)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_real_weights_go_on_along_the_very_same_curve(
    smollm2: Path, canonical: Callable[..., Path], engine_job: MakeJob
) -> None:
    spec = spec_of(smollm2, canonical(RECORDS), iterations=24, checkpoint_interval=1)
    check(spec, engine_job, kills=1)
