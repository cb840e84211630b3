"""A small healthy model folder, made once: a random llama with a byte-level tokenizer of its own."""

from __future__ import annotations

import os

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import shutil
from pathlib import Path

import pytest
from folder_builders import write_healthy_folder


@pytest.fixture(scope="session")
def pristine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder as it was made; tests do not change it."""
    folder = tmp_path_factory.mktemp("pristine") / "healthy"
    write_healthy_folder(folder)
    return folder


@pytest.fixture
def model(pristine: Path, tmp_path: Path) -> Path:
    """A copy of it to be damaged."""
    return Path(shutil.copytree(pristine, tmp_path / "model"))
