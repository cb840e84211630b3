"""The distiller put together. It answers that distillation is not offered yet, and refuses to pretend anything else."""

from __future__ import annotations

from collections.abc import Callable

from finery_contracts.envelope import Event
from finery_contracts.errors import NotOffered
from finery_contracts.model import Record
from finery_distiller.settings import DistillerSettings
from finery_kit.bus import Call, Rpc, answer_requests
from finery_kit.service import Service

NAME = "distiller"
NOT_YET = (
    "distillation is not offered yet: it will teach a small model from a larger one's answers (a deployed "
    "model, or any OpenAI-compatible endpoint); until then, let the teacher answer your prompts, upload the "
    "answers as a dataset, and start a task of kind tune"
)


class Offer(Record):
    """``offer``: what is asked for is not looked at yet."""


async def offer(_call: Call[Offer]) -> None:
    """``offer``.

    Raises:
        NotOffered: always; the message says what will come and what to use meanwhile.
    """
    raise NotOffered(NOT_YET)


ROUTES: dict[type[Event], Callable[..., None]] = {}
REQUESTS = {"offer": Rpc(Offer, offer)}


def build(settings: DistillerSettings) -> Service:
    """The service, ready to be started."""
    service = Service(NAME, settings)
    answer_requests(service.broker, NAME, REQUESTS)
    return service
