"""Checkpoints are whole or absent."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from finery_ml.checkpoints import MANIFEST, prune_checkpoints, publish_checkpoint, published_checkpoints
from finery_ml.checkpoints import verify_checkpoint as verify


def published(folder: Path, step: int = 4, content: bytes = b"weights") -> Path:
    """A checkpoint with two files, one in a folder."""
    staged = folder / ".staging" / "one"
    (staged / "inner").mkdir(parents=True)
    (staged / "adapter.safetensors").write_bytes(content)
    (staged / "inner" / "state.json").write_text("{}")
    return publish_checkpoint(staged, folder, step=step)


def test_a_published_checkpoint_verifies_and_its_staging_is_gone(tmp_path: Path) -> None:
    folder = published(tmp_path)
    assert (folder.name, verify(folder)) == ("checkpoint-4", True)
    assert not (tmp_path / ".staging" / "one").exists()


def _flip(folder: Path) -> None:
    (folder / "adapter.safetensors").write_bytes(b"weighty")


def _cut(folder: Path) -> None:
    (folder / "adapter.safetensors").write_bytes(b"w")


def _drop(folder: Path) -> None:
    (folder / "inner" / "state.json").unlink()


def _add(folder: Path) -> None:
    (folder / "optimizer.pt").write_bytes(b"not promised")


def _link(folder: Path) -> None:
    (folder / "adapter.safetensors").rename(folder.parent / "elsewhere")
    (folder / "adapter.safetensors").symlink_to(folder.parent / "elsewhere")


def _no_manifest(folder: Path) -> None:
    (folder / MANIFEST).unlink()


def _bad_manifest(folder: Path) -> None:
    (folder / MANIFEST).write_text("{}")


@pytest.mark.parametrize("damage", [_flip, _cut, _drop, _add, _link, _no_manifest, _bad_manifest])
def test_any_damage_is_found(damage, tmp_path: Path) -> None:
    folder = published(tmp_path)
    damage(folder)
    assert not verify(folder)


def test_a_folder_that_is_not_there_does_not_verify(tmp_path: Path) -> None:
    assert not verify(tmp_path / "checkpoint-9")


def test_publishing_a_step_again_keeps_a_whole_checkpoint_and_replaces_a_damaged_one(tmp_path: Path) -> None:
    folder = published(tmp_path, content=b"first")
    published(tmp_path, content=b"second")
    assert (folder / "adapter.safetensors").read_bytes() == b"first"
    _cut(folder)
    published(tmp_path, content=b"third")
    assert (folder / "adapter.safetensors").read_bytes() == b"third"


def test_pruning_keeps_the_newest_by_step_and_not_by_name(tmp_path: Path) -> None:
    for step in (2, 10, 9):
        published(tmp_path, step=step)
    prune_checkpoints(tmp_path, keep=2)
    assert [path.name for path in published_checkpoints(tmp_path)] == ["checkpoint-9", "checkpoint-10"]


def test_who_is_killed_while_pruning_leaves_no_checkpoint_half_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for step in (1, 2, 3):
        published(tmp_path, step=step)

    def killed(path: Path, **_: object) -> None:
        for file in path.rglob("adapter.safetensors"):
            file.unlink()
            raise KeyboardInterrupt

    monkeypatch.setattr(shutil, "rmtree", killed)
    with pytest.raises(KeyboardInterrupt):
        prune_checkpoints(tmp_path, keep=1)
    left = published_checkpoints(tmp_path)
    assert [path.name for path in left] == ["checkpoint-2", "checkpoint-3"]
    assert all(verify(path) for path in left)
