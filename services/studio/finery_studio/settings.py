"""Studio's settings."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field
from pydantic_settings import NoDecode

from finery_kit.settings import Networks, Paths, Settings


def digests(value: object) -> object:
    """A JSON list of SHA-256 in hex, as an environment holds it.

    Raises:
        ValueError: it is none, or an entry is none; the entry is named.
    """
    example = f'give a JSON list of SHA-256 in hex, such as ["{"0123456789abcdef" * 4}"]'
    try:
        said = json.loads(value) if isinstance(value, str) else value
    except ValueError as fault:
        raise ValueError(f"it is no JSON ({fault}); {example}") from fault
    if not isinstance(said, list | tuple):
        raise ValueError(f"it is {type(said).__name__}, no list; {example}")
    for entry in said:
        if not isinstance(entry, str) or re.fullmatch("[0-9a-fA-F]{64}", entry) is None:
            raise ValueError(f"{str(entry)[:80]!r} is no SHA-256: 64 hexadecimal digits, as sha256sum prints them")
    return tuple(sorted({entry.lower() for entry in said}))


class StudioSettings(Settings):
    """See the README for what each knob does."""

    studio_host: str = "127.0.0.1"
    studio_port: int = Field(default=8081, ge=0, le=65535)
    max_upload_bytes: int = Field(default=100 * 2**30, ge=1, description="of one file, however it comes")
    allowed_roots: Paths = Field(
        default_factory=list[Path],
        description="folders that data and models may come from; an operator's models from any",
    )
    sources_allow_networks: Networks = Field(
        default=(), description="internal networks that data and weights may be fetched from: 10.1.0.0/16"
    )
    sources_timeout_s: float = Field(default=3600.0, gt=0, description="for fetching one source")
    sources_statement_s: float = Field(default=600.0, gt=0, description="for one query")
    upload_quota_bytes: int = Field(
        default=200 * 2**30, ge=1, description="of a project's uploads that no dataset was made of yet"
    )
    upload_reserve_bytes: int = Field(default=2**30, ge=0, description="of the store's disk, never given to uploads")
    gallery_file: Path | list[Path] | None = Field(
        default=None, description="more gallery entries: a file or folder of the shipped files' shape, or a JSON list"
    )
    heartbeat_limit_s: float = Field(default=10.0, gt=0, description="an attempt without heartbeat is lost after this")
    allowed_code: Annotated[tuple[str, ...], NoDecode, BeforeValidator(digests)] = Field(
        default=(), description="SHA-256 of Python files in model folders that may run, as they are or repaired"
    )
    hang_factor: float = Field(default=20.0, gt=1, description="a hang is suspected after this many median steps")
    hang_floor_s: float = Field(default=60.0, gt=0, description="and never sooner than this")
    flavours_file: Path | None = Field(default=None, description="more flavours, same shape as the shipped file")
    quota_running_slots: int = Field(default=64, ge=0, description="of a project for which an operator set none")
    quota_waiting_tasks: int = Field(default=10_000, ge=0, description="likewise")
    max_attempts: int = Field(default=3, ge=1, le=100)
    verify_before_deploy: Literal["refuse", "warn", "off"] = Field(
        default="refuse", description="a model whose files are not those that were signed at its birth"
    )
    withdrawn_inputs: Literal["refuse", "warn", "off"] = Field(
        default="warn", description="deploying a model that descends from a withdrawn dataset"
    )
    trusted_keys: Paths = Field(
        default_factory=list[Path], description="public keys (PEM files) of others whose model bundles are taken"
    )
    max_bundle_bytes: int = Field(
        default=200 * 2**30, ge=1, description="of a model from elsewhere: a bundle, or a folder of an object store"
    )
    operator_key: str | None = Field(
        default=None, description="first key of the default project; default: home/api_key"
    )
