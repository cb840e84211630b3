"""Storage beyond the plain way: other filesystems, links that lead out, what cannot be removed."""

from __future__ import annotations

import errno
import hashlib
import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from finery_contracts.errors import InvalidRequest
from finery_kit.storage import Storage, tree_bytes


async def chunks(*parts: bytes) -> AsyncIterator[bytes]:
    for part in parts:
        yield part


@pytest.fixture
def storage(tmp_path: Path) -> Storage:
    return Storage(tmp_path.resolve() / "store")


def a_tree(folder: Path, text: str = "x") -> Path:
    (folder / "deep").mkdir(parents=True)
    (folder / "deep" / "file").write_text(text)
    return folder


async def test_bytes_lie_under_their_hash_and_their_project(storage: Storage) -> None:
    blob = await storage.put_stream("prj_1", chunks(b"ab", b"", b"c"), max_bytes=3)
    other = await storage.put_stream("prj_2", chunks(b"abc"), max_bytes=3)
    hashed = hashlib.sha256(b"abc").hexdigest()
    assert (blob.url, blob.sha256, blob.size_bytes) == (f"store://prj_1/blobs/{hashed}", hashed, 3)
    assert other.url == f"store://prj_2/blobs/{hashed}"


async def test_a_sender_that_breaks_off_leaves_nothing(storage: Storage) -> None:
    async def broken() -> AsyncIterator[bytes]:
        yield b"ab"
        raise ConnectionResetError

    with pytest.raises(ConnectionResetError):
        await storage.put_stream("prj_1", broken(), max_bytes=10)
    assert tree_bytes(storage.root) == 0


def test_trees_of_another_filesystem_are_copied_in_even_when_a_copy_was_cut_off_before(
    storage: Storage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rename = os.rename

    def across(source: Path | str, target: Path | str) -> None:
        if not Path(source).is_relative_to(storage.root):
            raise OSError(errno.EXDEV, "another filesystem")
        rename(source, target)

    monkeypatch.setattr(os, "rename", across)
    (storage.root / ".incoming" / f"tree-{os.getpid()}-left").mkdir()

    urls = [storage.put_tree(a_tree(tmp_path / f"work{n}", str(n)), f"prj_1/tasks/t{n}/1/left") for n in range(2)]

    assert [(storage.path(url) / "deep" / "file").read_text() for url in urls] == ["0", "1"]
    assert not (tmp_path / "work0").exists()


@pytest.mark.parametrize(
    "url", ["store://../x", "store:///etc/passwd", "store://a/../../x", "file:///x", "", "store:/x"]
)
def test_what_is_no_place_in_the_store_is_neither_read_nor_removed(storage: Storage, tmp_path: Path, url: str) -> None:
    (tmp_path / "x").write_text("precious")
    for action in (storage.path, storage.delete):
        with pytest.raises(InvalidRequest) as refused:
            action(url)
        assert refused.value.error_code == "url_invalid"
    assert (tmp_path / "x").read_text() == "precious"


def test_a_tree_is_not_moved_out_of_the_store(storage: Storage, tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest, match="leaves the store"):
        storage.put_tree(a_tree(tmp_path / "made"), "prj_1/../../out")
    assert not (tmp_path / "out").exists()


def test_a_link_that_leads_out_of_the_store_is_not_followed(storage: Storage, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("s")
    url = storage.put_tree(a_tree(tmp_path / "made"), "prj_1/t")
    (storage.path(url) / "way-out").symlink_to(tmp_path / "secret")
    with pytest.raises(InvalidRequest, match="leaves the store"):
        storage.path(f"{url}/way-out")


def test_removing_what_is_gone_is_fine(storage: Storage, tmp_path: Path) -> None:
    url = storage.put_tree(a_tree(tmp_path / "made"), "prj_1/t")
    for _ in range(2):
        storage.delete(url)
    assert tree_bytes(storage.root) == 0
