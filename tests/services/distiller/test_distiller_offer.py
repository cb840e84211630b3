"""The distiller is there and says that it is not offered yet."""

from pathlib import Path

import pytest

from finery_contracts.errors import NotOffered
from finery_contracts.model import Record
from finery_distiller.app import build
from finery_distiller.settings import DistillerSettings
from finery_kit.bus import ask
from finery_kit.service import running
from finery_kit.testing import nats_server


async def test_whoever_asks_for_distillation_learns_what_will_come_and_what_to_use_meanwhile(tmp_path: Path):
    with nats_server(tmp_path / "nats") as url:
        service = build(DistillerSettings(nats_url=url, home=tmp_path))
        async with running(service):
            with pytest.raises(NotOffered, match=r"not offered yet.*will.*until then") as caught:
                await ask(service.client, "distiller", "offer", Record(), Record)

    assert caught.value.error_code == "not_offered_yet"
    assert caught.value.status == 501
