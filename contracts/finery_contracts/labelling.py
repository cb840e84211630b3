"""Labelling: people, and models as judges, say which answers are good; what they said becomes a dataset (SPEC DS7)."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Any, Literal

from pydantic import Field, StringConstraints

from finery_contracts.envelope import Event
from finery_contracts.model import Record, Request, UtcTime

MAX_RECORDS = 100_000
MAX_TEXT = 100_000
Seen = Literal["like", "dislike", "a", "b", "tie", "written"]
"""A verdict in the letters that its labeller saw."""
User = Annotated[str, StringConstraints(min_length=1, max_length=128)]


class LabelMode(StrEnum):
    """What is asked of a labeller for each record."""

    LIKE = "like"
    """Is this answer good? Makes a dataset of likes and dislikes (KTO)."""
    PAIR = "pair"
    """Which of two answers is better? Makes a dataset of preferences (DPO, reward models)."""
    WRITE = "write"
    """What should the answer be? Makes a dataset of messages."""


class LabellingState(StrEnum):
    """Verdicts are taken while it is open."""

    OPEN = "open"
    CLOSED = "closed"
    DELETED = "deleted"


class Verdict(StrEnum):
    """``first`` and ``second`` are the dataset's own order, whatever order a labeller saw."""

    LIKE = "like"
    DISLIKE = "dislike"
    FIRST = "first"
    SECOND = "second"
    TIE = "tie"
    WRITTEN = "written"


class LabellingRequest(Request):
    """Have a dataset labelled."""

    name: str
    dataset: str = Field(description="id or name of a dataset that is ready")
    against: str | None = Field(
        default=None, description="pair: a second dataset with other answers to the same prompts, record by record"
    )
    mode: LabelMode
    guidelines: str = Field(default="", max_length=4000, description="what labellers are to look at")
    labellers: list[User] | None = Field(
        default=None, min_length=1, max_length=200, description="users who may label; null: whoever may use the project"
    )
    per_record: int = Field(default=1, ge=1, le=9, description="verdicts of different people that a record gets")
    sample: int | None = Field(default=None, ge=1, le=MAX_RECORDS, description="so many records; null: all")
    seed: int = Field(default=0, ge=0, le=2**31 - 1, description="of the order in which records come")


class LabellingView(Record):
    """A labelling's whole public state."""

    id: str
    project: str
    name: str
    dataset: str
    against: str | None = None
    mode: LabelMode
    state: LabellingState
    version: int
    guidelines: str = ""
    labellers: list[str] | None = None
    per_record: int = 1
    records: int = Field(description="to be labelled")
    seed: int = 0
    finished: bool = Field(default=False, description="every record has its verdicts")
    created_by: str
    created_at: UtcTime


class Candidate(Record):
    """An answer that is to be judged, under the letter that this labeller sees."""

    key: Literal["a", "b"]
    messages: list[dict[str, Any]]


class ItemView(Record):
    """A record as its labeller sees it."""

    labelling: str
    record: int = Field(description="its place in the dataset, from 0")
    until: UtcTime | None = Field(default=None, description="kept for this labeller until then")
    prompt: list[dict[str, Any]]
    answers: list[Candidate] = Field(default_factory=list[Candidate])
    verdict: Seen | None = None
    text: str | None = None
    comment: str = ""
    skipped: bool = False


class NextItem(Record):
    """``item`` is null when nothing is left for this labeller now."""

    item: ItemView | None = None


class AssignmentRequest(Request):
    """Keep the next records of the queue for somebody."""

    user: User
    records: int = Field(default=20, ge=1, le=500)
    hours: float = Field(default=24, gt=0, le=24 * 90)


class VerdictRequest(Request):
    """What a labeller says of a record; said again, it replaces what the same labeller said before."""

    verdict: Literal["like", "dislike", "a", "b", "tie"] | None = None
    text: str | None = Field(default=None, min_length=1, max_length=MAX_TEXT, description="write: the answer")
    skip: bool = Field(default=False, description="it cannot be judged; it goes to somebody else")
    comment: str = Field(default="", max_length=1000)


class Judgement(Record):
    """One verdict, as it is kept."""

    record: int
    labeller: str
    judge: bool = Field(default=False, description="a model said it")
    verdict: Verdict | None = None
    text: str | None = None
    comment: str = ""
    skipped: bool = False
    at: UtcTime


class LabellerShare(Record):
    """One labeller's part."""

    labeller: str
    judge: bool = False
    judgements: int
    skipped: int
    with_majority: float | None = Field(
        default=None, description="share of the records with a majority of the others in which they agree with it"
    )


class Agreement(Record):
    """How far labellers agree. ``alpha``: Krippendorff's, nominal; 1 is perfect, 0 is chance, null: too little."""

    records: int
    judged: int = Field(description="with at least one verdict")
    complete: int = Field(description="with all the verdicts they are to get")
    overlapping: int = Field(description="with at least two verdicts")
    observed: float | None = Field(default=None, description="share of pairs of verdicts on a record that are equal")
    alpha: float | None = None
    verdicts: dict[str, int] = Field(default_factory=dict[str, int])
    labellers: list[LabellerShare] = Field(default_factory=list[LabellerShare])


class LabelExport(Request):
    """Make a dataset of what was said. A record counts when its majority is large enough; ties are left out."""

    name: str = Field(min_length=1, max_length=255, description="of the dataset")
    minimum: int = Field(default=1, ge=1, le=9, description="verdicts that a record needs")
    majority: float = Field(default=0.5, ge=0.5, le=1, description="share of its verdicts that must exceed this, or 1")
    judges: bool = Field(default=True, description="count what models said, too")


class LabellingFact(Event):
    """A fact about a labelling."""

    NOUN = "labelling"
    SAID_BY = "studio"
    data: LabellingView


class LabellingCreated(LabellingFact):
    """A dataset is to be labelled."""

    FACT = "created"


class LabellingFinished(LabellingFact):
    """Every record has the verdicts that it was to get; a further verdict may still replace one."""

    FACT = "finished"


class LabellingClosed(LabellingFact):
    """No more verdicts are taken."""

    FACT = "closed"


class LabellingDeleted(LabellingFact):
    """The labelling and its verdicts are gone; datasets made of them stay."""

    FACT = "deleted"
