"""All routes as one HTTP application, with health, readiness and one shape of errors."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from fastapi import APIRouter, FastAPI

from finery_studio.edge.answers import answer_errors


def site(routers: Sequence[APIRouter], *, bus_is_there: Callable[[], bool]) -> FastAPI:
    """The application; ``openapi.json`` is rendered from it."""
    app = FastAPI(
        title="Finery", version="0.1.0", description="A model studio that a company runs itself.",
        docs_url="/docs", redoc_url=None, openapi_url="/openapi.json",
    )  # fmt: skip
    answer_errors(app)

    @app.get("/healthz", tags=["operations"])
    async def healthz() -> dict[str, str]:
        return {"status": "ok"}

    @app.get("/readyz", tags=["operations"])
    async def readyz() -> dict[str, Any]:
        return {"status": "ok" if bus_is_there() else "bus away"}

    for router in routers:
        app.include_router(router)
    return app
