"""Routes of what leaves and enters a house: card, bill and signature; a model as one file; the key to trust ours."""

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Form, UploadFile
from fastapi.responses import FileResponse, StreamingResponse

from finery_contracts.access import Actor, Role
from finery_contracts.models import ModelView
from finery_studio.edge.auth import Gate
from finery_studio.edge.wishes import Wish
from finery_studio.models.bundles import Carrier

MEDIA = {
    "README.md": "text/markdown", "bom.cdx.json": "application/vnd.cyclonedx+json", "model.sig": "application/json",
}  # fmt: skip


def routes(gate: Gate, carrier: Carrier, changed: Any) -> APIRouter:
    """``/api/v1/models/{ref}/certificate/…``, ``…/export``, ``/api/v1/models/import-bundle``, ``/api/v1/model-key``."""
    router = APIRouter(prefix="/api/v1", tags=["models"])
    reader = Depends(gate.needs(Role.READ))
    writer = Depends(gate.needs(Role.COMMON))
    wisher = gate.wishes(Role.COMMON)

    @router.get("/model-key")
    async def key(_: Actor = reader) -> dict[str, str]:
        signer = carrier.registrar.signer
        return {"key": signer.key, "public_key": signer.public_pem}

    @router.get("/models/{ref}/certificate/{name}", response_class=FileResponse)
    async def certificate(
        ref: str, name: Literal["README.md", "bom.cdx.json", "model.sig"], actor: Actor = reader
    ) -> FileResponse:
        path = await carrier.certificate_file(actor.project, ref, name)
        return FileResponse(path, media_type=MEDIA[name], filename=name)

    @router.get("/models/{ref}/export", response_class=StreamingResponse)
    async def export(
        ref: str, actor: Actor = writer, base: Literal["include", "reference"] = "reference"
    ) -> StreamingResponse:
        bundle = await carrier.export(actor.project, ref, with_base=base == "include")
        headers = {"Content-Length": str(bundle.size_bytes), "Content-Disposition": "attachment"}
        return StreamingResponse(bundle.chunks(), media_type="application/x-tar", headers=headers)

    @router.post("/models/import-bundle", status_code=201)
    async def take_in(
        file: UploadFile,
        wish: Wish = wisher,
        name: Annotated[str | None, Form(description="default: the name it had")] = None,
        new_version: Annotated[bool, Form(description="the name is in use: become its next version")] = False,
    ) -> ModelView:
        view = await carrier.take_in(gate, wish, file.file, name=name, new_version=new_version)
        changed()
        return view

    return router
