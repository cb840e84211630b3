"""Labellings: records handed out one by one, verdicts, agreement, and a dataset of what was said."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Literal

from finery.transport import Page, Transport
from finery_contracts.datasets import DatasetView
from finery_contracts.labelling import Agreement, ItemView, Judgement, LabellingView, NextItem

PATH = "/api/v1/labellings"


class Labellings:
    """``client.labellings``."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def create(self, name: str, dataset: str, mode: Literal["like", "pair", "write"], **said: Any) -> LabellingView:
        """Have a dataset labelled; ``against``, ``guidelines``, ``labellers``, ``per_record``, ``sample``, ``seed``."""
        body = {"name": name, "dataset": dataset, "mode": mode, **said}
        return self._transport.view(LabellingView, "POST", PATH, json=body)

    def get(self, ref: str) -> LabellingView:
        """One, by id or name."""
        return self._transport.view(LabellingView, "GET", f"{PATH}/{ref}")

    def list(self, *, limit: int = 20, after: str | None = None) -> Page[LabellingView]:
        """Newest first."""
        return self._transport.page(LabellingView, PATH, limit=limit, after=after)

    def next(self, ref: str) -> ItemView | None:
        """The next record for whoever asks; None when nothing is left."""
        return self._transport.view(NextItem, "POST", f"{PATH}/{ref}/next").item

    def judge(
        self, item: ItemView, verdict: Literal["like", "dislike", "a", "b", "tie"] | None = None, *,
        text: str | None = None, skip: bool = False, comment: str = "",
    ) -> ItemView:  # fmt: skip
        """Say what you think of a record that you were given; said again, it replaces."""
        said = {"verdict": verdict, "text": text, "skip": skip, "comment": comment}
        place = f"{PATH}/{item.labelling}/records/{item.record}/verdict"
        return self._transport.view(ItemView, "POST", place, json=said)

    def assign(self, ref: str, user: str, *, records: int = 20, hours: float = 24) -> Sequence[int]:
        """Keep the next records of the queue for somebody; which ones."""
        body = {"user": user, "records": records, "hours": hours}
        return self._transport.send("POST", f"{PATH}/{ref}/assignments", json=body).json()["records"]

    def agreement(self, ref: str) -> Agreement:
        """How far labellers agree."""
        return self._transport.view(Agreement, "GET", f"{PATH}/{ref}/agreement")

    def judgements(self, ref: str) -> Iterator[Judgement]:
        """Everything that was said, record by record."""
        after: int | None = -1
        while after is not None:
            answer = self._transport.send("GET", f"{PATH}/{ref}/judgements", params={"after": after}).json()
            yield from map(Judgement.model_validate, answer["data"])
            after = answer["next"]

    def export(
        self, ref: str, name: str, *, minimum: int = 1, majority: float = 0.5, judges: bool = True
    ) -> DatasetView:
        """Make a dataset of what was decided; ingest begins at once, as the task ``task`` of the answer."""
        body = {"name": name, "minimum": minimum, "majority": majority, "judges": judges}
        return self._transport.view(DatasetView, "POST", f"{PATH}/{ref}/export", json=body)

    def close(self, ref: str) -> LabellingView:
        """Take no more verdicts."""
        return self._transport.view(LabellingView, "POST", f"{PATH}/{ref}/close")

    def delete(self, ref: str) -> LabellingView:
        """Drop the queue and its verdicts; datasets made of them stay. This cannot be undone."""
        return self._transport.view(LabellingView, "DELETE", f"{PATH}/{ref}", params={"confirm": "DELETE"})
