"""What a URL answers, as one file."""

from __future__ import annotations

from urllib.parse import unquote, urlsplit

from finery_contracts.sources import HttpSource, Origin
from finery_ml.sources.download import Place, download
from finery_ml.sources.landing import Landing, name_of


def fetch(source: HttpSource, origin: Origin, landing: Landing) -> None:
    """One GET; the name is the last part of the path."""
    split = urlsplit(source.url)
    target = (split.path or "/") + (f"?{split.query}" if split.query else "")
    name = name_of(unquote(split.path).rstrip("/").rpartition("/")[2] or split.netloc)
    download(Place(f"{split.scheme}://{split.netloc}", origin.limits), target, landing, name=name)
