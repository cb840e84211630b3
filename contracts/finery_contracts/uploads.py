"""Resumable uploads (tus 1.0): bytes on their way in, before anything is made of them."""

from __future__ import annotations

from enum import StrEnum

from pydantic import Field

from finery_contracts.model import Record, UtcTime


class UploadState(StrEnum):
    """From the first byte to its use."""

    RECEIVING = "receiving"
    RECEIVED = "received"


class UploadView(Record):
    """An upload."""

    id: str
    project: str
    filename: str
    size_bytes: int = Field(description="what was announced")
    offset: int = Field(description="bytes that are safely on disk")
    state: UploadState
    metadata: dict[str, str] = Field(default_factory=dict)
    sha256: str | None = Field(default=None, description="once all has come")
    dataset: str | None = Field(default=None, description="what was made of it")
    location: str = Field(description="where the bytes are sent")
    created_by: str
    created_at: UtcTime
    expires_at: UtcTime
