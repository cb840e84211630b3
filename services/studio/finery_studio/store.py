"""Studio's database: its metadata, and the one way a decision is stored together with what is said of it."""

from __future__ import annotations

from sqlalchemy import MetaData
from sqlalchemy.orm import registry
from sqlmodel import SQLModel

STUDIO_METADATA = MetaData()


class StudioTable(SQLModel, registry=registry(metadata=STUDIO_METADATA)):
    """All of studio's tables share one metadata, apart from other services' in the same process."""

    metadata = STUDIO_METADATA
