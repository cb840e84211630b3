"""Objects of an S3-compatible store, by signed GETs over the guarded connection (path-style addresses).

Sources: AWS Signature Version 4 (docs.aws.amazon.com/AmazonS3/latest/API/sig-v4-header-based-auth.html) and
ListObjectsV2. No client library is used, because none lets its caller choose the address that it connects to.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from urllib.parse import parse_qsl, quote, unquote_plus
from xml.etree import ElementTree

from finery_contracts.errors import FineryError, InvalidRequest, Unavailable
from finery_contracts.sources import Endpoint, Origin, S3Source
from finery_ml.sources.download import Place, download, fetch_small
from finery_ml.sources.landing import Landing, gone, name_of

EMPTY = hashlib.sha256(b"").hexdigest()
MAX_LIST_BYTES = 16 * 2**20
LISTED_AT_ONCE = 1000
_SIZE = re.compile("[0-9]{1,18}")


@dataclass(frozen=True)
class Bucket:
    """One bucket of a store."""

    place: Place
    name: str

    def listed(self, prefix: str) -> Iterator[tuple[str, int]]:
        """Keys that begin with the prefix and their sizes, in order, page by page; empty objects that stand for a
        folder are left out.

        Raises:
            InvalidRequest, Unavailable, TooLarge: it cannot be listed.
        """
        after = ""
        while True:
            query = {"list-type": "2", "max-keys": str(LISTED_AT_ONCE), "prefix": prefix, "encoding-type": "url"}
            query |= {"continuation-token": after} if after else {}
            asked = "&".join(f"{name}={quote(value, safe='-_.~')}" for name, value in sorted(query.items()))
            page = _parsed(fetch_small(self.place, f"/{self.name}?{asked}", MAX_LIST_BYTES))
            encoded = page.findtext("EncodingType") == "url"
            for entry in page.iterfind("Contents"):
                key, size = entry.findtext("Key", ""), entry.findtext("Size", "0")
                key = unquote_plus(key) if encoded else key
                if key.startswith(prefix) and not key.endswith("/"):
                    yield key, int(size) if _SIZE.fullmatch(size) else 0
            following = page.findtext("NextContinuationToken", "")
            if page.findtext("IsTruncated") != "true" or not following or following == after:
                return
            after = following

    def fetch(self, key: str, landing: Landing, *, name: str) -> None:
        """One object; raises as ``download``."""
        download(self.place, target_of(self.name, key), landing, name=name)


def opened(source: S3Source, origin: Origin) -> Bucket:
    """The bucket that a source names, with what opens it."""
    assert origin.endpoint is not None
    assert origin.endpoint.url is not None
    place = Place(origin.endpoint.url, origin.limits, signer(origin.endpoint, origin.secret or {}))
    return Bucket(place, source.place[0])


def fetch(source: S3Source, origin: Origin, landing: Landing) -> None:
    """The object of that key, or every object below it."""
    bucket, key = opened(source, origin), source.place[1]
    if key and not key.endswith("/"):
        try:
            bucket.fetch(key, landing, name=name_of(key.rpartition("/")[2]))
            return
        except InvalidRequest as fault:
            if fault.error_code != "source_not_found":
                raise
    prefix = below(key)
    for found, size_bytes in bucket.listed(prefix):
        landing.expect(size_bytes)
        bucket.fetch(found, landing, name=name_of(found.removeprefix(prefix)))
    if not landing.landed:
        raise gone(source.url)


def below(key: str) -> str:
    """What the keys of a folder's objects begin with."""
    return key if not key or key.endswith("/") else f"{key}/"


def target_of(bucket: str, key: str) -> str:
    """Path-style: S3 escapes everything but unreserved characters and the slash, once."""
    return f"/{bucket}/{quote(key, safe='/-_.~')}"


def signer(endpoint: Endpoint, secret: Mapping[str, str]):
    """Signs requests for this store at the moment they are sent."""

    def sign(method: str, target: str, headers: Mapping[str, str]) -> Mapping[str, str]:
        token = {"x-amz-security-token": secret["session_token"]} if "session_token" in secret else {}
        now = datetime.now(UTC)
        return signed(method, target, {**headers, **token}, region=endpoint.region, secret=secret, now=now)

    return sign


def signed(
    method: str, target: str, headers: Mapping[str, str], *, region: str, secret: Mapping[str, str], now: datetime
) -> dict[str, str]:
    """The headers with a signature of version 4 over method, target, host and all that begins with x-amz- or Range."""
    moment, day = now.strftime("%Y%m%dT%H%M%SZ"), now.strftime("%Y%m%d")
    sent = {**headers, "x-amz-date": moment, "x-amz-content-sha256": EMPTY}
    counted = {
        name.lower(): " ".join(value.split())
        for name, value in sent.items()
        if name.lower().startswith("x-amz-") or name.lower() in ("host", "range")
    }
    names = ";".join(sorted(counted))
    path, _, query = target.partition("?")
    asked = "&".join(
        f"{quote(name, safe='-_.~')}={quote(value, safe='-_.~')}"
        for name, value in sorted(parse_qsl(query, keep_blank_values=True))
    )
    lines = "".join(f"{name}:{counted[name]}\n" for name in sorted(counted))
    canonical = "\n".join((method, path, asked, lines, names, EMPTY))
    scope = f"{day}/{region}/s3/aws4_request"
    text = "\n".join(("AWS4-HMAC-SHA256", moment, scope, hashlib.sha256(canonical.encode()).hexdigest()))
    key = f"AWS4{secret['secret_key']}".encode()
    for part in (day, region, "s3", "aws4_request"):
        key = hmac.new(key, part.encode(), hashlib.sha256).digest()
    signature = hmac.new(key, text.encode(), hashlib.sha256).hexdigest()
    who = f"Credential={secret['access_key']}/{scope}"
    return {**sent, "Authorization": f"AWS4-HMAC-SHA256 {who}, SignedHeaders={names}, Signature={signature}"}


def _parsed(body: bytes) -> ElementTree.Element:
    """A list without its namespace; a document type is refused, so no entity is ever expanded."""
    if b"<!DOCTYPE" in body or b"<!ENTITY" in body:
        raise _not_a_list()
    try:
        root = ElementTree.fromstring(body)
    except ElementTree.ParseError as fault:
        raise _not_a_list() from fault
    for element in root.iter():
        element.tag = element.tag.rpartition("}")[2]
    if root.tag != "ListBucketResult":
        raise _not_a_list()
    return root


def _not_a_list() -> FineryError:
    return Unavailable("what answers there is no S3-compatible object store", code="source_unreachable")
