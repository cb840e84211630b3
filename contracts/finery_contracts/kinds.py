"""What a task does: the one list that streams, permissions, jobs and requests are derived from."""

from __future__ import annotations

from enum import StrEnum


class TaskKind(StrEnum):
    """What a task does; each kind has one service that does it."""

    INGEST = "ingest"
    PREPARE = "prepare"
    COUNT = "count"
    IMPORT = "import"
    VALIDATE = "validate"
    TUNE = "tune"
    EVALUATE = "evaluate"
    JUDGE = "judge"
    DISTILL = "distill"
    COMPRESS = "compress"
    MERGE = "merge"
