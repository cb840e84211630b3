"""The compressor put together. It answers that compression is not offered yet, and refuses to pretend anything else."""

from __future__ import annotations

from collections.abc import Callable

from finery_compressor.settings import CompressorSettings
from finery_contracts.envelope import Event
from finery_contracts.errors import NotOffered
from finery_contracts.model import Record
from finery_kit.bus import Call, Rpc, answer_requests
from finery_kit.service import Service

NAME = "compressor"
NOT_YET = (
    "compression is not offered yet: it will make a quantised copy of a model (W8A8, AWQ) and check what that"
    " cost in quality; until then, choose a smaller model from the gallery, or register weights that were "
    "compressed elsewhere"
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


def build(settings: CompressorSettings) -> Service:
    """The service, ready to be started."""
    service = Service(NAME, settings)
    answer_requests(service.broker, NAME, REQUESTS)
    return service
