"""Storage, tails, home and logs: nothing half-written, nothing outside, nothing secret."""

from __future__ import annotations

import json
import logging
import stat
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from finery_contracts.errors import Conflict, FineryError, NotFound, TooLarge
from finery_kit.home import lock_home, operator_key, prepare_home
from finery_kit.logs import JsonLines, set_up_logs
from finery_kit.storage import Storage
from finery_kit.tail import Tail


async def chunks(*parts: bytes) -> AsyncIterator[bytes]:
    for part in parts:
        yield part


async def test_the_same_bytes_twice_make_no_second_copy(tmp_path: Path) -> None:
    storage = Storage(tmp_path)
    first = await storage.put_stream("prj_1", chunks(b"ab", b"c"), max_bytes=10)
    second = await storage.put_stream("prj_1", chunks(b"abc"), max_bytes=10)
    assert first == second
    assert storage.path(first.url).read_bytes() == b"abc"
    assert len([p for p in tmp_path.rglob("*") if p.is_file()]) == 1


async def test_what_is_too_large_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(TooLarge):
        await Storage(tmp_path).put_stream("prj_1", chunks(b"abc", b"def"), max_bytes=5)
    assert [p for p in tmp_path.rglob("*") if p.is_file()] == []


@pytest.mark.parametrize("url", ["store://../x", "store:///etc/passwd", "file:///etc/passwd", "store://a/../../x"])
def test_a_url_that_leaves_the_store_is_refused(tmp_path: Path, url: str) -> None:
    with pytest.raises(FineryError) as refused:
        Storage(tmp_path / "store").path(url)
    assert refused.value.error_code in ("url_invalid", "artefact_missing")


def test_a_tree_is_moved_in_once(tmp_path: Path) -> None:
    storage = Storage(tmp_path / "store")
    for _ in range(2):
        (tmp_path / "made").mkdir(exist_ok=True)
        (tmp_path / "made" / "file").write_text("x")
        url = storage.put_tree(tmp_path / "made", "prj_1/tasks/t/1/left")
    assert (storage.path(url) / "file").read_text() == "x"
    storage.delete(url)
    with pytest.raises(NotFound):
        storage.path(url)


def test_a_tail_gives_whole_lines_once(tmp_path: Path) -> None:
    path = tmp_path / "log"
    tail = Tail(path)
    assert tail.read() == []
    with path.open("a") as file:
        file.write("one\ntw")
        file.flush()
        assert tail.read() == ["one"]
        file.write("o\n\nthree\n")
        file.flush()
        assert tail.read() == ["two", "three"]
    assert tail.read() == []


def test_a_home_is_private_and_has_one_owner(tmp_path: Path) -> None:
    home = prepare_home(tmp_path / "home")
    key = operator_key(home)
    assert operator_key(prepare_home(home)) == key
    assert stat.S_IMODE(home.stat().st_mode) == 0o700
    assert stat.S_IMODE((home / "secret").stat().st_mode) == 0o600
    assert stat.S_IMODE((home / "api_key").stat().st_mode) == 0o600
    with lock_home(home), pytest.raises(Conflict, match="another finery"):
        lock_home(home)
    lock_home(home).close()


def test_logs_are_json_and_cut_what_looks_secret(tmp_path: Path) -> None:
    handler = set_up_logs(tmp_path / "log", "INFO")
    try:
        logging.getLogger("finery.test").info(
            "told", extra={"key": "fk-abcdefgh_THE_REST_OF_IT", "url": "nats://me:hidden@bus", "hook": "whsec_hidden"}
        )
    finally:
        logging.getLogger().removeHandler(handler)
        handler.close()
    line = (tmp_path / "log").read_text()
    assert json.loads(line)["event"] == "told"
    assert "THE_REST" not in line
    assert "hidden" not in line
    assert isinstance(handler.formatter, JsonLines)
