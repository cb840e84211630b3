"""All routes as one HTTP application, with health, readiness and one shape of errors."""

from collections.abc import Callable, Sequence
from typing import Any

from fastapi import APIRouter, Depends, FastAPI, Request

from finery_contracts.errors import Unavailable
from finery_studio.edge.answers import answer_errors

WRITES = ("POST", "PUT", "PATCH", "DELETE")
MENDS = ("/api/v1/dead", "/api/v1/bus")
"""What an operator does against the pressure is not kept out by it."""


def site(
    routers: Sequence[APIRouter], *, bus_is_there: Callable[[], bool], pressure: Callable[[], Unavailable | None]
) -> FastAPI:
    """The application; ``openapi.json`` is rendered from it. Under ``pressure`` it reads, and takes on nothing new."""

    async def relieved(request: Request) -> None:
        if request.method in WRITES and not request.url.path.startswith(MENDS):
            fault = pressure()
            if fault is not None:
                raise fault

    app = FastAPI(
        dependencies=[Depends(relieved)],
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
