"""Typed ids. They sort by time of birth, carry their kind as prefix, and never contain a name that a person chose."""

from __future__ import annotations

from typing import NewType

from ulid import ULID

ProjectId = NewType("ProjectId", str)
UserId = NewType("UserId", str)
KeyId = NewType("KeyId", str)
TaskId = NewType("TaskId", str)
DatasetId = NewType("DatasetId", str)
ModelId = NewType("ModelId", str)
DeploymentId = NewType("DeploymentId", str)
EventId = NewType("EventId", str)
TopicId = NewType("TopicId", str)
SubscriptionId = NewType("SubscriptionId", str)
DeliveryId = NewType("DeliveryId", str)


def new_id(prefix: str) -> str:
    """A fresh id such as ``task_01k9…``: 26 characters of ULID after the prefix, all lower case."""
    return f"{prefix}_{str(ULID()).lower()}"


def openai_id(finery_id: str, prefix: str) -> str:
    """The same noun under OpenAI's name for it: ``task_01k9…`` → ``ftjob-01k9…``."""
    return f"{prefix}-{finery_id.split('_', 1)[1]}"


def finery_id(openai: str, prefix: str) -> str:
    """The way back: ``ftjob-01k9…`` → ``task_01k9…``. A text of another shape comes back as an id nobody has."""
    return f"{prefix}_{openai.split('-', 1)[-1].lower()}"
