"""Studio's HTTP surface: which desk answers which routes. It decides nothing and wires nothing else."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fastapi import FastAPI

from finery_studio.connections import http as connection_http
from finery_studio.datasets import http as dataset_http
from finery_studio.datasets import openai_files, token_pages
from finery_studio.edge import billing, forward, notifications
from finery_studio.edge.site import site
from finery_studio.events import dead, rebuild
from finery_studio.events import deployments as deployment_events
from finery_studio.events import http as event_http
from finery_studio.grants import http as grant_http
from finery_studio.inbound import http as inbound_http
from finery_studio.labelling import http as labelling_http
from finery_studio.models import bundle_http
from finery_studio.models import http as model_http
from finery_studio.models.bundles import Carrier
from finery_studio.pools import http as pool_http
from finery_studio.projects import http as project_http
from finery_studio.tasks import http as task_http
from finery_studio.tuning import openai as tuning_openai
from finery_studio.uploads import http as upload_http

if TYPE_CHECKING:
    from finery_studio.app import Studio


def surface(studio: Studio) -> FastAPI:
    """All routes, each with what it needs."""
    gate, database, settings, ask = studio.gate, studio.database, studio.settings, studio._ask  # pyright: ignore[reportPrivateUsage] - the composition root's own
    most, hours = settings.max_upload_bytes, settings.retention.restore_hours
    datasets = dataset_http.DatasetRoutes(gate, database, studio.storage, studio.datasets, most, studio.changed, hours)
    labelling = labelling_http.LabellingRoutes(gate, database, studio.storage, studio.specs, most, studio.changed)
    models = model_http.ModelRoutes(gate, database, studio.models, studio.deployments, studio.changed, studio.publisher)
    carrier = Carrier(studio.models, studio.registrar, settings.max_bundle_bytes)
    routers = (
        project_http.routes(gate, database, studio.keys, studio.tell_keys),
        grant_http.routes(gate, database),
        connection_http.routes(gate, database, studio.connections),
        upload_http.routes(gate, database, studio.uploads),
        dataset_http.routes(datasets),
        openai_files.routes(datasets),
        labelling_http.routes(labelling),
        bundle_http.routes(gate, carrier, studio.changed),
        model_http.routes(models),
        model_http.openai_routes(models),
        event_http.routes(gate, database, settings.spans_file),
        deployment_events.routes(gate, database, ask, settings.retention),
        rebuild.routes(gate, ask),
        dead.routes(gate, lambda: studio.service.jetstream),
        task_http.routes(studio.task_routes),
        token_pages.routes(gate, database, studio.storage),
        pool_http.routes(gate, database, studio.pools, studio.loops.pools_changed),
        inbound_http.routes(studio.task_routes),
        tuning_openai.routes(studio.task_routes),
        forward.routes(gate, ask, studio.resolve, studio.servable),
        billing.routes(gate, ask, studio.gallery),
        notifications.routes(gate, ask),
        notifications.link_routes(ask),
    )
    app = site(routers, bus_is_there=lambda: studio.service.client.is_connected, pressure=studio.service.pressure)
    app.add_middleware(upload_http.MeantMethod)
    return app
