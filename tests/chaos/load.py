"""People at work while the house breaks: they submit tasks of every kind, pause, resume and terminate, and try again.

Each wish has a tag, which is the name of its task, and an idempotency key of its own: however often it is asked for, it
may make one task. It refuses to give up before its time is over.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import time
from dataclasses import dataclass, field
from typing import Any

import httpx

from tests.chaos.house import ChaosHouse
from tests.chaos.receiver import Receiver

GALLERY = "smollm2-135m-instruct"
TOPIC = "chaos"
CHOSEN = ("succeeded", "failed", "terminated")
NOTIFY = {"topic": TOPIC, "events": list(CHOSEN)}
PATIENCE_S = 120.0
KINDS = {"ingest": 4, "bad": 1, "again": 2, "tune": 8, "evaluate": 3, "validate": 2, "import": 2}
MOVES = {None: 6, "terminate": 1, "pause": 2}


class Refused(Exception):
    """An answer that trying again would not change."""


@dataclass
class Project:
    """One customer."""

    name: str
    id: str
    client: httpx.AsyncClient
    dataset: str = ""
    model: str = ""


@dataclass(frozen=True)
class Wish:
    """What is submitted, when, and what is done to it afterwards."""

    tag: str
    kind: str
    project: int
    at: float
    move: str | None
    move_after_s: float

    @property
    def ends(self) -> frozenset[str]:
        """The states it may end in."""
        if self.kind == "bad":
            return frozenset({"failed"})
        return frozenset({"succeeded", "terminated"} if self.move == "terminate" else {"succeeded"})


@dataclass
class Load:
    """All wishes and what became of the asking."""

    house: ChaosHouse
    receiver: Receiver
    wishes: list[Wish]
    projects: list[Project] = field(default_factory=list[Project])
    accepted: dict[str, str] = field(default_factory=dict[str, str])
    """tag → task id, of everything that was answered with yes."""
    repeated: int = 0

    async def prepare(self, projects: int) -> None:
        """Before anything breaks: projects with a confirmed subscriber, a data set and a model each."""
        async with self.house.client() as operator:
            for number in range(projects):
                made = await self.ask(operator, "POST", "/api/v1/projects", f"p{number}", json={"name": f"p{number}"})
                client = self.house.client(made["key"]["secret"])
                project = Project(f"p{number}", made["id"], client)
                self.projects.append(project)
                await self.ask(client, "POST", "/api/v1/topics", "topic", json={"name": TOPIC})
                hook = {"topic": TOPIC, "url": f"{self.receiver.url}/{project.id}"}
                subscription = await self.ask(client, "POST", "/api/v1/subscriptions", "hook", json=hook)
                await self._until(client, f"/api/v1/subscriptions/{subscription['id']}", "state", {"confirmed"})
                data = await self._upload(project, f"{project.name}-first", b'{"messages": []}\n')
                project.dataset = data["id"]
                body = {"name": "base", "source": {"gallery": GALLERY}}
                model = await self.ask(client, "POST", "/api/v1/models", "base", json=body)
                project.model = model["id"]
                await self._until(client, f"/api/v1/datasets/{project.dataset}", "state", {"ready"})
                await self._until(client, f"/api/v1/models/{project.model}", "state", {"ready", "published"})

    async def run(self) -> None:
        """Every wish at its time, each with its own patience."""
        began = time.monotonic()

        async def one(wish: Wish) -> None:
            await asyncio.sleep(max(0.0, began + wish.at - time.monotonic()))
            await self._submit(wish)
            if wish.move is not None:
                await asyncio.sleep(wish.move_after_s)
                await self._move(wish)

        async with asyncio.TaskGroup() as group:
            for wish in self.wishes:
                group.create_task(one(wish))

    async def close(self) -> None:
        """Let the connections go."""
        for project in self.projects:
            await project.client.aclose()

    async def ask(self, client: httpx.AsyncClient, method: str, path: str, key: str | None = None, **said: Any) -> Any:
        """Until there is an answer that counts: faults of the house are met by trying again under the same key."""
        until = time.monotonic() + PATIENCE_S
        headers = {"idempotency-key": key} if key else {}
        last: object = None
        while time.monotonic() < until:
            try:
                answer = await client.request(method, path, headers=headers, **said)
            except httpx.TransportError as fault:
                last = fault
            else:
                if answer.is_success:
                    return answer.json()
                last = answer.text
                code = answer.json().get("error", {}).get("code", "") if answer.status_code < 500 else ""
                busy = code == "request_in_progress" or answer.status_code in (408, 429)
                if answer.status_code < 500 and not busy:
                    raise Refused(f"{method} {path}: {answer.status_code} {answer.text[:500]}")
            self.repeated += 1
            await asyncio.sleep(0.3)
        raise TimeoutError(f"{method} {path} was not answered for {PATIENCE_S} s: {last}")

    async def _submit(self, wish: Wish) -> None:
        project = self.projects[wish.project]
        if wish.kind in ("ingest", "bad"):
            start = b"bad" if wish.kind == "bad" else b""
            made = await self._upload(project, wish.tag, start + json.dumps({"messages": [wish.tag]}).encode())
            self.accepted[wish.tag] = made["task"]
            return
        body: dict[str, Any] = {"name": wish.tag, "notify": NOTIFY}
        body |= {
            "again": {"kind": "ingest", "dataset": project.dataset},
            "tune": {"kind": "tune", "model": project.model, "dataset": project.dataset, "output": wish.tag},
            "evaluate": {"kind": "evaluate", "model": project.model, "dataset": project.dataset},
            "validate": {"kind": "validate", "model": project.model},
            "import": {"kind": "import", "model": wish.tag, "source": {"gallery": GALLERY}},
        }[wish.kind]
        made = await self.ask(project.client, "POST", "/api/v1/tasks", wish.tag, json=body)
        self.accepted[wish.tag] = made["id"]

    async def _upload(self, project: Project, tag: str, body: bytes) -> dict[str, Any]:
        said = {"name": tag, "task": json.dumps({"name": tag}), "notify": json.dumps(NOTIFY)}
        files = {"file": (f"{tag}.jsonl", body)}
        return await self.ask(project.client, "POST", "/api/v1/datasets", tag, files=files, data=said)

    async def _move(self, wish: Wish) -> None:
        """It may have ended meanwhile, or be about to stop: that is an answer too."""
        project = self.projects[wish.project]
        place = f"/api/v1/tasks/{self.accepted[wish.tag]}"
        with contextlib.suppress(Refused):
            await self.ask(project.client, "POST", f"{place}/{wish.move}", f"{wish.tag}-{wish.move}")
        if wish.move == "pause":
            await self._resume(project, place, wish.tag)

    async def _resume(self, project: Project, place: str, tag: str) -> None:
        """As soon as it rests."""
        for number in range(1000):
            task = await self.ask(project.client, "GET", place)
            if task["state"] in ("succeeded", "failed", "terminated"):
                return
            if task["phase"] == "paused":
                try:
                    await self.ask(project.client, "POST", f"{place}/resume", f"{tag}-resume-{number}")
                except Refused:
                    continue
                return
            await asyncio.sleep(0.3)

    async def _until(self, client: httpx.AsyncClient, path: str, field_name: str, wanted: set[str]) -> None:
        until = time.monotonic() + 60
        while (found := (await self.ask(client, "GET", path))[field_name]) not in wanted:
            assert time.monotonic() < until, f"{path} is {found}"
            await asyncio.sleep(0.1)


def make_wishes(rng: random.Random, *, tasks: int, projects: int, within_s: float) -> list[Wish]:
    """A mixture of all kinds, spread over the time in which things break."""
    wishes = list[Wish]()
    for number in range(tasks):
        kind = rng.choices(list(KINDS), list(KINDS.values()))[0]
        move = rng.choices(list(MOVES), list(MOVES.values()))[0] if kind == "tune" else None
        at, after = rng.random() * within_s, rng.uniform(0.3, 4.0)
        wishes.append(Wish(f"{kind}-{number}", kind, rng.randrange(projects), at, move, after))
    return wishes
