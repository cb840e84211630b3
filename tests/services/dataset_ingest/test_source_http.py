"""URLs as sources: what hostile servers and names try, and what a broken transfer costs."""

from __future__ import annotations

import gzip
import hashlib
import json
import socket
from pathlib import Path

import pytest
from sources_rig import Server, fetched, says, server

from finery_contracts.errors import InvalidRequest, TooLarge, Unavailable
from finery_ml.sources import download, guard

BODY = b'{"messages": []}\n' * 40_000


@pytest.fixture(autouse=True)
def no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(download, "PAUSE_S", 0.0)


def http(at: Server, path: str = "/a/train.jsonl?sig=1") -> dict[str, str]:
    return {"kind": "http", "url": at.url(path)}


def test_what_a_url_answers_comes_whole_and_is_hashed(tmp_path: Path) -> None:
    with server(says(BODY)) as at:
        came = fetched(tmp_path, http(at), filename="train.jsonl")
    assert came.files == {"train.jsonl": BODY}
    assert came.summary is not None
    assert (came.summary.sha256, came.summary.size_bytes) == (hashlib.sha256(BODY).hexdigest(), len(BODY))
    head = at.asked[0].decode().lower()
    assert head.startswith("get /a/train.jsonl?sig=1 http/1.1")
    assert "accept-encoding: identity" in head
    told = [json.loads(line) for line in (came.work.folder / "progress.jsonl").read_text().splitlines()]
    assert (told[-1]["step"], told[-1]["metrics"]["fetched_files"]) == (len(BODY), 1)


@pytest.mark.parametrize("status", ["301 Moved", "302 Found", "303 See Other", "307 Temporary", "308 Permanent"])
def test_no_redirect_is_followed_wherever_it_leads(tmp_path: Path, status: str) -> None:
    with (
        server(says(BODY)) as inner,
        server(says(status=status, Location=inner.url("/x?token=1"))) as outer,
        pytest.raises(InvalidRequest) as refused,
    ):
        fetched(tmp_path, http(outer))
    assert refused.value.error_code == "redirect_refused"
    assert "token" not in refused.value.message
    assert inner.asked == []


@pytest.mark.parametrize("address", ["127.0.0.1", "10.0.0.7", "169.254.169.254", "::1", "::ffff:127.0.0.1"])
def test_a_name_that_stands_for_an_internal_address_is_not_connected_to(
    tmp_path: Path, address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(guard, "system_lookup", lambda host, port: ["93.184.215.14", address])
    with pytest.raises(InvalidRequest) as refused:
        fetched(tmp_path, {"kind": "http", "url": "http://data.example.com/x"}, allow_networks=[])
    assert refused.value.error_code == "address_not_allowed"


def test_the_connection_goes_to_the_address_that_was_judged_not_to_what_the_name_says_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = list[str]()
    opened = list[tuple[str, int]]()

    def rebinding(host: str, port: int) -> list[str]:
        asked.append(host)
        return ["93.184.215.14"] if len(asked) == 1 else ["127.0.0.1"]

    def note(address: tuple[str, int], timeout: float) -> socket.socket:
        opened.append(address)
        raise ConnectionRefusedError(111, "Connection refused")

    monkeypatch.setattr(guard, "system_lookup", rebinding)
    monkeypatch.setattr(guard.socket, "create_connection", note)
    with pytest.raises(Unavailable):
        fetched(tmp_path, {"kind": "http", "url": "http://data.example.com/x"}, allow_networks=[])
    assert (asked, opened) == (["data.example.com"], [("93.184.215.14", 80)])


def test_a_transfer_that_broke_goes_on_where_it_stopped_while_it_is_the_same_object(tmp_path: Path) -> None:
    half = len(BODY) // 2

    def breaks(connection: socket.socket, _: bytes) -> None:
        connection.sendall(b'HTTP/1.1 200 OK\r\nETag: "v1"\r\nContent-Length: %d\r\n\r\n' % len(BODY) + BODY[:half])

    rest = says(
        BODY[half:], "206 Partial Content", Content_Range=f"bytes {half}-{len(BODY) - 1}/{len(BODY)}", ETag='"v1"'
    )
    with server(breaks, rest) as at:
        came = fetched(tmp_path, http(at))
    assert came.only == BODY
    assert b'If-Range: "v1"' in at.asked[1]
    assert f"Range: bytes={half}-".encode() in at.asked[1]


def test_another_object_meanwhile_is_fetched_from_its_beginning(tmp_path: Path) -> None:
    def breaks(connection: socket.socket, _: bytes) -> None:
        connection.sendall(b'HTTP/1.1 200 OK\r\nETag: "v1"\r\nContent-Length: 900\r\n\r\n' + b"old" * 100)

    with server(breaks, says(BODY, ETag='"v2"')) as at:
        came = fetched(tmp_path, http(at))
    assert came.only == BODY
    assert came.summary is not None
    assert came.summary.sha256 == hashlib.sha256(BODY).hexdigest()


def test_another_part_than_the_one_asked_for_is_refused(tmp_path: Path) -> None:
    def breaks(connection: socket.socket, _: bytes) -> None:
        connection.sendall(b'HTTP/1.1 200 OK\r\nETag: "v1"\r\nContent-Length: 900\r\n\r\n' + b"old" * 100)

    wrong = says(b"x" * 600, "206 Partial Content", Content_Range="bytes 0-599/900", ETag='"v1"')
    with server(breaks, wrong) as at, pytest.raises(InvalidRequest) as refused:
        fetched(tmp_path, http(at))
    assert refused.value.error_code == "source_refused"


def test_less_than_announced_is_never_taken_for_the_whole(tmp_path: Path) -> None:
    short = says(b"abc", Content_Length=400)
    with server(short) as at, pytest.raises(Unavailable) as failed:
        fetched(tmp_path, http(at))
    assert "397 of 400" in failed.value.message
    assert len(at.asked) == download.TRIES


def test_an_announcement_over_the_limit_ends_it_before_a_byte_comes(tmp_path: Path) -> None:
    with server(says(b"", Content_Length=10**15)) as at, pytest.raises(TooLarge):
        fetched(tmp_path, http(at), max_bytes=1000)


def test_an_endless_body_ends_at_the_limit(tmp_path: Path) -> None:
    def endless(connection: socket.socket, _: bytes) -> None:
        connection.sendall(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        while True:
            connection.sendall(b"10000\r\n" + b"x" * 65536 + b"\r\n")

    with server(endless) as at, pytest.raises(TooLarge) as stopped:
        fetched(tmp_path, http(at), max_bytes=3_000_000)
    assert stopped.value.error_code == "source_too_large"
    kept = sum(path.stat().st_size for path in (tmp_path / "job" / "fetched").iterdir())
    assert kept < 4_000_000


def test_a_server_that_only_drips_ends_at_the_time_limit(tmp_path: Path) -> None:
    def drips(connection: socket.socket, _: bytes) -> None:
        connection.sendall(b"HTTP/1.1 200 OK\r\n")
        while True:
            connection.sendall(b"X-A: b\r\n" if b"slow" in at.asked[0] else b"X")
            connection.settimeout(0.05)
            try:
                connection.recv(1)
            except TimeoutError:
                connection.settimeout(None)

    with server(drips) as at, pytest.raises(Unavailable) as late:
        fetched(tmp_path, http(at, "/slow"), timeout_s=1.0)
    assert late.value.error_code == "source_too_slow"


def test_a_silent_server_is_given_up(tmp_path: Path) -> None:
    def silent(connection: socket.socket, _: bytes) -> None:
        connection.recv(1)

    with server(silent) as at, pytest.raises(Unavailable) as gone:
        fetched(tmp_path, http(at), stall_s=0.2)
    assert "silent" in gone.value.message


def test_an_encoded_answer_is_kept_as_it_came_and_never_unpacked_here(tmp_path: Path) -> None:
    bomb = gzip.compress(b"0" * 50_000_000)
    with server(says(bomb, Content_Encoding="gzip")) as at:
        came = fetched(tmp_path, http(at), max_bytes=10**6)
    assert came.only == bomb


@pytest.mark.parametrize(
    ("status", "code"), [("404 Not Found", "source_not_found"), ("403 Forbidden", "source_refused")]
)
def test_what_the_server_refuses_is_told_without_the_query(tmp_path: Path, status: str, code: str) -> None:
    with server(says(b"secret page", status)) as at, pytest.raises(InvalidRequest) as refused:
        fetched(tmp_path, http(at))
    assert refused.value.error_code == code
    assert "sig" not in refused.value.message


def test_a_server_that_is_busy_is_asked_again(tmp_path: Path) -> None:
    with server(says(status="503 Busy"), says(status="429 Slow"), says(BODY)) as at:
        assert fetched(tmp_path, http(at)).only == BODY


def test_nothing_at_all_is_no_dataset(tmp_path: Path) -> None:
    with server(says(b"")) as at, pytest.raises(InvalidRequest) as empty:
        fetched(tmp_path, http(at))
    assert empty.value.error_code == "source_empty"
