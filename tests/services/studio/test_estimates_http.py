"""An estimate names a pool as a task does, and the billing meter hears its id: only by that it knows shared pools."""

from __future__ import annotations

from typing import Any

from studio_posts import BILLED
from studio_rig import Rig

from finery_studio.edge import forward


async def test_a_pool_is_named_by_name_or_id_and_must_be_there(studio: Rig) -> None:
    asked: list[dict[str, Any]] = []

    async def meter(_owner: str, _verb: str, body: Any, _answer: Any, **_: Any) -> forward.Anything:
        asked.append(body.root)
        return forward.Anything(BILLED["estimate"])

    studio.studio._ask = forward.Ask(meter)
    async with studio.http() as api:
        shared = {"name": "shared", "flavours": {"cpu": 1}, "public": True}
        pool = (await api.post("/api/v1/pools", json=shared)).json()["id"]

        for name in ("shared", pool, "public"):
            assert (await api.post("/api/v1/estimates", json={"seconds": 60, "pool": name})).status_code == 200
        missing = await api.post("/api/v1/estimates", json={"seconds": 60, "pool": "nowhere"})

    assert [body["pool"] for body in asked] == [pool, pool, "public"]
    assert (missing.status_code, missing.json()["error"]["code"]) == (404, "pool_not_found")
