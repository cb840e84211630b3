"""Files, object stores and logs as sources: what is read, in which order, and what no path, key or pattern reaches."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import boto3
import pytest
from moto.server import ThreadedMotoServer
from sources_rig import fetched, says, server

from finery_contracts.errors import DataInvalid, Forbidden, InvalidRequest, TooLarge, Unavailable
from finery_contracts.sources import Endpoint
from finery_ml.sources import download, files, s3

KEYS = {"access_key": "AKIAEXAMPLE", "secret_key": "wJalrXUtnFEMI/K7MDENG"}


def tree(folder: Path, **content: bytes) -> Path:
    for name, said in content.items():
        path = folder / name.replace("__", "/").replace("_", ".")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(said)
    return folder


# --- files -----------------------------------------------------------------------------------------------------------


def test_a_folder_comes_in_the_order_of_names_without_links_and_hidden_files(tmp_path: Path) -> None:
    root = tree(tmp_path / "data", b_jsonl=b"2\n", a_jsonl=b"1\n", sub__c_jsonl=b"3\n", _hidden=b"no")
    (tmp_path / "secret").write_text("secret")
    (root / "link.jsonl").symlink_to(tmp_path / "secret")
    (root / "out").symlink_to(tmp_path)
    os.mkfifo(root / "pipe")
    came = fetched(tmp_path, f"file://{root}", roots=[str(root)])
    assert list(came.files.items()) == [("a.jsonl", b"1\n"), ("b.jsonl", b"2\n"), ("sub/c.jsonl", b"3\n")]
    listed = "".join(
        f"{hashlib.sha256(said).hexdigest()}  {name}\n"
        for name, said in (("a.jsonl", b"1\n"), ("b.jsonl", b"2\n"), ("sub/c.jsonl", b"3\n"))
    )
    assert came.summary is not None
    assert (came.summary.files, came.summary.sha256) == (3, hashlib.sha256(listed.encode()).hexdigest())


def test_one_file_has_the_hash_of_its_bytes(tmp_path: Path) -> None:
    root = tree(tmp_path / "data", a_jsonl=b"1\n")
    came = fetched(tmp_path, f"file://{root}/a.jsonl", roots=[str(root)], filename="mine.jsonl")
    assert came.files == {"mine.jsonl": b"1\n"}
    assert came.summary is not None
    assert came.summary.sha256 == hashlib.sha256(b"1\n").hexdigest()


@pytest.mark.parametrize("place", ["link", "inner/a.jsonl", "pipe"])
def test_what_became_a_link_or_a_pipe_after_it_was_checked_is_not_opened(tmp_path: Path, place: str) -> None:
    root = tree(tmp_path / "data", a_jsonl=b"1\n")
    (root / "link").symlink_to(root / "a.jsonl")
    (root / "inner").symlink_to(tmp_path)
    os.mkfifo(root / "pipe")
    with pytest.raises(Forbidden) as refused:
        fetched(tmp_path, f"file://{root}/{place}", roots=[str(root)])
    assert refused.value.error_code == "path_not_allowed"


@pytest.mark.parametrize("place", ["/etc/passwd", "{root}-beside/x", "{root}.txt"])
def test_nothing_outside_a_root_is_opened(tmp_path: Path, place: str) -> None:
    root = tree(tmp_path / "data", a_jsonl=b"1\n")
    tree(tmp_path / "data-beside", x=b"1\n")
    with pytest.raises(Forbidden):
        fetched(tmp_path, f"file://{place.format(root=root)}", roots=[str(root)])


def test_too_many_files_and_too_many_bytes_are_refused(tmp_path: Path) -> None:
    root = tree(tmp_path / "data", a=b"1" * 600, b=b"2" * 600)
    for number, (limit, code) in enumerate(
        [({"max_files": 1}, "too_many_files"), ({"max_bytes": 1000}, "source_too_large")]
    ):
        (tmp_path / str(number)).mkdir()
        with pytest.raises(TooLarge) as refused:
            fetched(tmp_path / str(number), f"file://{root}", roots=[str(root)], **limit)
        assert refused.value.error_code == code


def test_folders_without_end_are_refused(tmp_path: Path) -> None:
    deep = tmp_path / "data" / Path(*["d"] * (files.MAX_DEPTH + 2))
    deep.mkdir(parents=True)
    (deep / "x").write_text("1")
    with pytest.raises(InvalidRequest) as refused:
        fetched(tmp_path, f"file://{tmp_path}/data", roots=[str(tmp_path)])
    assert refused.value.error_code == "too_deep"


# --- object stores ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def store() -> Iterator[tuple[str, Any]]:
    at = ThreadedMotoServer(port=0, verbose=False)
    at.start()
    host, port = at.get_host_and_port()
    url = f"http://{'127.0.0.1' if host == '0.0.0.0' else host}:{port}"
    client = boto3.client(
        "s3", endpoint_url=url, region_name="us-east-1", aws_access_key_id=KEYS["access_key"],
        aws_secret_access_key=KEYS["secret_key"],
    )  # fmt: skip
    client.create_bucket(Bucket="lake")
    yield url, client
    client.close()
    at.stop()


def lake(url: str, place: str) -> dict[str, Any]:
    return {"source": {"kind": "s3", "url": f"s3://lake/{place}"}, "endpoint": Endpoint(kind="s3", url=url)}


def test_an_object_comes_by_its_key_whatever_signs_are_in_it(tmp_path: Path, store: tuple[str, Any]) -> None:
    url, client = store
    for number, key in enumerate(["a b/train+1.jsonl", "数据/训练.jsonl", "x=1&y/2?.jsonl"]):
        client.put_object(Bucket="lake", Key=key, Body=key.encode())
        (tmp_path / str(number)).mkdir()
        assert fetched(tmp_path / str(number), **lake(url, key), secret=KEYS).only == key.encode()


def test_a_prefix_comes_in_the_order_of_keys_over_several_pages(
    tmp_path: Path, store: tuple[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    url, client = store
    monkeypatch.setattr(s3, "LISTED_AT_ONCE", 2)
    for number in range(5):
        client.put_object(Bucket="lake", Key=f"day/{number}.jsonl", Body=b"%d\n" % number)
    client.put_object(Bucket="lake", Key="day/", Body=b"")
    client.put_object(Bucket="lake", Key="daylight/other.jsonl", Body=b"no")
    came = fetched(tmp_path, **lake(url, "day"), secret=KEYS)
    assert list(came.files.items()) == [(f"{number}.jsonl", b"%d\n" % number) for number in range(5)]


def test_keys_of_a_prefix_are_what_they_are_however_they_are_listed(tmp_path: Path, store: tuple[str, Any]) -> None:
    url, client = store
    names = ["%41+b c&d.jsonl", "\x02.jsonl", "数据.jsonl"]
    for name in names:
        client.put_object(Bucket="lake", Key=f"odd/{name}", Body=name.encode())
    came = fetched(tmp_path, **lake(url, "odd"), secret=KEYS)
    shown = [name.replace("\x02", "\ufffd") for name in names]
    assert came.files == {said: name.encode() for said, name in zip(shown, names, strict=True)}


def test_a_key_that_is_not_there_is_named(tmp_path: Path, store: tuple[str, Any]) -> None:
    with pytest.raises(InvalidRequest) as refused:
        fetched(tmp_path, **lake(store[0], "nothing/here"), secret=KEYS)
    assert (refused.value.error_code, "s3://lake/nothing/here" in refused.value.message) == ("source_not_found", True)


def test_the_signature_is_the_one_that_amazon_publishes() -> None:
    """The GET Object example of its documentation of Signature Version 4."""
    secret = {"access_key": "AKIAIOSFODNN7EXAMPLE", "secret_key": "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY"}
    headers = {"Host": "examplebucket.s3.amazonaws.com", "Range": "bytes=0-9"}
    when = datetime(2013, 5, 24, tzinfo=UTC)
    sent = s3.signed("GET", "/test.txt", headers, region="us-east-1", secret=secret, now=when)
    assert sent["Authorization"].endswith("f0e8bdb87c964420e857bd35b5d6ed310bd44f0170aba48dd91039c6036bdb41")
    listing = {"Host": "examplebucket.s3.amazonaws.com"}
    sent = s3.signed("GET", "/?max-keys=2&prefix=J", listing, region="us-east-1", secret=secret, now=when)
    assert sent["Authorization"].endswith("34b48302e7b5fa45bde8084f4b7868a86f0a534bc59db6670ed5711ef69dc6f7")


@pytest.mark.parametrize(
    "body",
    [
        b"<html>hello</html>",
        b"not xml",
        b'<!DOCTYPE x [<!ENTITY a "aaaa">]><ListBucketResult><Contents><Key>&a;</Key></Contents></ListBucketResult>',
    ],
)
def test_what_is_no_object_store_is_told_so(tmp_path: Path, body: bytes) -> None:
    with server(says(body)) as at, pytest.raises(Unavailable) as refused:
        fetched(tmp_path, **lake(at.url(""), ""), secret=KEYS)
    assert "object store" in refused.value.message


def test_a_list_that_never_ends_is_cut_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(s3, "MAX_LIST_BYTES", 10_000)
    with server(says(b"<ListBucketResult>" + b"x" * 100_000)) as at, pytest.raises(TooLarge):
        fetched(tmp_path, **lake(at.url(""), "day/"), secret=KEYS)


def test_an_endpoint_is_judged_like_any_other_address(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(download, "PAUSE_S", 0.0)
    with server(says(b"x")) as at, pytest.raises(InvalidRequest) as refused:
        fetched(tmp_path, **lake(at.url(""), "key"), secret=KEYS, allow_networks=[])
    assert refused.value.error_code == "address_not_allowed"
    assert at.asked == []


# --- logs ------------------------------------------------------------------------------------------------------------


def test_named_groups_become_columns_and_other_lines_are_counted(tmp_path: Path) -> None:
    root = tree(
        tmp_path / "log", b_log=b"noise\nQ: two A: zwei\n", a_log=b'Q: one A: "eins", ja\n', c_txt=b"Q: x A: y\n"
    )
    source = {"kind": "logs", "url": f"file://{root}/*.log", "pattern": r"Q: (?P<human>\S+) A: (?P<assistant>.+)"}
    came = fetched(tmp_path, source, roots=[str(root)])
    head = "conversation_id,human,assistant\n"
    assert list(came.files.items()) == [
        ("a.log", f'{head}1,one,"""eins"", ja"\n'.encode()), ("b.log", f"{head}1,two,zwei\n".encode()),
    ]  # fmt: skip
    assert came.summary is not None
    assert came.summary.skipped == 1


def test_json_lines_keep_their_fields_or_give_those_that_are_named(tmp_path: Path) -> None:
    root = tree(
        tmp_path / "log",
        a_log=b'{"level": "info", "req": {"q": ["x", "hi"]}, "res": "ho"}\nbroken\n[1]\n{"level": "debug"}\n',
    )
    source: dict[str, Any] = {"kind": "logs", "url": f"file://{root}/a.log"}
    for folder in ("plain", "named"):
        (tmp_path / folder).mkdir()
    plain = fetched(tmp_path / "plain", source, roots=[str(root)])
    named = fetched(
        tmp_path / "named", {**source, "fields": {"human": "req.q.1", "assistant": "res"}}, roots=[str(root)]
    )
    assert [row["level"] for row in plain.rows] == ["info", "debug"]
    assert named.only == b"conversation_id,human,assistant\n1,hi,ho\n"
    assert (plain.summary.skipped, named.summary.skipped) == (2, 3)  # type: ignore[union-attr]


def test_a_pattern_that_searches_in_circles_is_stopped(tmp_path: Path) -> None:
    root = tree(tmp_path / "log", a_log=b"a" * 60 + b"!\n")
    source = {"kind": "logs", "url": f"file://{root}/a.log", "pattern": "(?P<human>(a+)+)$"}
    began = time.monotonic()
    with pytest.raises(InvalidRequest) as refused:
        fetched(tmp_path, source, roots=[str(root)])
    assert refused.value.error_code == "pattern_too_slow"
    assert time.monotonic() - began < 20


def test_lines_without_end_and_logs_without_records_are_told(tmp_path: Path) -> None:
    root = tree(tmp_path / "log", a_log=b"x" * 3_000_000 + b"\nnothing\n")
    source = {"kind": "logs", "url": f"file://{root}/a.log", "pattern": "(?P<human>q)"}
    with pytest.raises(DataInvalid) as refused:
        fetched(tmp_path, source, roots=[str(root)])
    assert refused.value.error_code == "no_record_found"
    assert "2 were read" in refused.value.message
