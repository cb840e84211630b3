"""The typed Python client of an installation. Completions are OpenAI's client's business: give it ``<url>/v1``.

    from finery.client import Finery

    with Finery("http://127.0.0.1:8080", "fk-…") as finery:
        data = finery.datasets.upload("train.jsonl")
        task = finery.tasks.submit({"kind": "tune", "model": "smollm2-135m-instruct", "dataset": data.id})
        print(finery.tasks.wait(task.id).result)

Every method raises a FineryAPIError when the answer is an error; ``finery.errors`` draws the tree.
"""

from __future__ import annotations

from types import TracebackType

import httpx

from finery.resources.access import Keys, Projects
from finery.resources.billing import Billing, Budgets, Packages
from finery.resources.datasets import Datasets
from finery.resources.dead import Dead
from finery.resources.deployments import Deployments
from finery.resources.events import Events
from finery.resources.gallery import Gallery
from finery.resources.grants import Connections, Grants
from finery.resources.labellings import Labellings
from finery.resources.models import Models
from finery.resources.notifications import Deliveries, Subscriptions, Topics
from finery.resources.pools import Flavours, Pools, Quotas
from finery.resources.rebuild import Rebuild
from finery.resources.tasks import Tasks
from finery.resources.uploads import Uploads
from finery.transport import Transport
from finery_contracts.access import Actor


class Finery:
    """One installation, seen with one key."""

    def __init__(
        self, url: str, api_key: str, *, transport: httpx.BaseTransport | None = None, timeout_s: float = 60.0
    ) -> None:
        self._transport = Transport(url, api_key, transport=transport, timeout_s=timeout_s)
        self.tasks = Tasks(self._transport)
        self.datasets = Datasets(self._transport)
        self.gallery = Gallery(self._transport)
        self.labellings = Labellings(self._transport)
        self.models = Models(self._transport)
        self.deployments = Deployments(self._transport)
        self.topics = Topics(self._transport)
        self.subscriptions = Subscriptions(self._transport)
        self.deliveries = Deliveries(self._transport)
        self.events = Events(self._transport)
        self.dead = Dead(self._transport)
        self.rebuild = Rebuild(self._transport)
        self.bill = Billing(self._transport)
        self.budgets = Budgets(self._transport)
        self.packages = Packages(self._transport)
        self.keys = Keys(self._transport)
        self.projects = Projects(self._transport)
        self.pools = Pools(self._transport)
        self.flavours = Flavours(self._transport)
        self.quotas = Quotas(self._transport)
        self.grants = Grants(self._transport)
        self.connections = Connections(self._transport)
        self.uploads = Uploads(self._transport)

    def me(self) -> Actor:
        """Whose key this is, of which project, in which role."""
        return self._transport.view(Actor, "GET", "/api/v1/me")

    def close(self) -> None:
        """Close the connection."""
        self._transport.close()

    def __enter__(self) -> Finery:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, fault: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
