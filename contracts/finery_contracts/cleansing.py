"""The steps that make a good dataset of a raw one: range, default and help of each parameter (SPEC DS6, DS8).

Nothing is done here; an unknown step or parameter is refused where it was said, all of them at once.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from finery_contracts.model import Request

Part = Literal["record", "prompt", "answer"]
"""What of a record is looked at: all of its text, what stands before the last answer, or the last answer."""
PersonalKind = Literal[
    "email", "phone", "chinese_id", "credit_card", "bank_card", "iban", "ip_address",
]  # fmt: skip
PERSONAL_KINDS: tuple[PersonalKind, ...] = (
    "email", "phone", "chinese_id", "credit_card", "bank_card", "iban", "ip_address",
)  # fmt: skip
Word = Annotated[str, Field(min_length=1, max_length=200)]
Pattern = Annotated[str, Field(min_length=1, max_length=1000)]
Language = Annotated[str, Field(pattern=r"^[a-z]{2}$", description="ISO 639-1 code, such as zh or en")]
Region = Annotated[str, Field(pattern=r"^[A-Z]{2}$", description="ISO 3166 code of a country, such as CN")]


class ExactDuplicates(Request):
    """Keeps the first of records that say the same."""

    step: Literal["exact_duplicates"]
    of: Part = Field(default="record", description="what must be the same")
    normalise: bool = Field(default=True, description="differences of case, width and white space do not count")


class NearDuplicates(Request):
    """Keeps the first of records that say nearly the same: MinHash finds, the true Jaccard similarity decides."""

    step: Literal["near_duplicates"]
    of: Part = Field(default="record", description="what must be nearly the same")
    threshold: float = Field(default=0.8, ge=0.3, le=1, description="least Jaccard similarity of a duplicate")
    ngram: int = Field(default=5, ge=1, le=32, description="characters (or words) in one shingle")
    unit: Literal["characters", "words"] = Field(
        default="characters", description="what a shingle is made of; Chinese characters are words of their own"
    )
    permutations: int = Field(default=128, ge=32, le=512, description="more find more surely and take longer")


class Length(Request):
    """Keeps records of a length."""

    step: Literal["length"]
    of: Part = "record"
    unit: Literal["characters", "words", "tokens", "turns"] = Field(
        default="characters", description="tokens are those of the task's model"
    )
    min: int | None = Field(default=None, ge=0, description="shorter ones go")
    max: int | None = Field(default=None, ge=1, description="longer ones go")

    @model_validator(mode="after")
    def _is_a_range(self) -> Length:
        if self.min is None and self.max is None:
            raise ValueError("give min, max or both")
        if self.min is not None and self.max is not None and self.min > self.max:
            raise ValueError(f"min {self.min} is more than max {self.max}")
        return self


class Languages(Request):
    """Keeps records in some languages."""

    step: Literal["language"]
    keep: list[Language] = Field(min_length=1, max_length=50)
    of: Part = "record"
    min_confidence: float = Field(default=0.5, ge=0, le=1, description="a guess less sure than this is no guess")
    unknown: Literal["keep", "drop"] = Field(
        default="keep", description="what becomes of records whose language nobody can tell, such as numbers alone"
    )


class Missing(Request):
    """Removes records in which something is missing: an empty side, or a field that is asked for."""

    step: Literal["missing"]
    fields: list[Literal["tools", "label", "reward", "answer", "system"]] = Field(
        default_factory=list[Literal["tools", "label", "reward", "answer", "system"]],
        description="must be there, beside the sides that every record needs",
    )
    placeholders: list[Word] = Field(
        default=["null", "none", "nan", "n/a", "undefined", "无", "暂无", "空"], max_length=1000,
        description="texts that stand for nothing when they are all that a side says",
    )  # fmt: skip


class Personal(Request):
    """Masks personal data, or removes the records that hold some."""

    step: Literal["personal"]
    action: Literal["mask", "drop"] = "mask"
    kinds: list[PersonalKind] = Field(default=list(PERSONAL_KINDS), min_length=1, description="what is looked for")
    regions: list[Region] = Field(
        default=["CN", "US", "GB"], max_length=30,
        description="whose national way of writing phone numbers is known, beside +… and 00… of every country",
    )  # fmt: skip
    numbered: bool = Field(
        default=False, description="the same value has the same number within a record: [EMAIL_1], [EMAIL_2]"
    )


class Quality(Request):
    """Removes texts that are hardly language, and lines that every page carries."""

    step: Literal["quality"]
    max_symbol_ratio: float | None = Field(
        default=0.4, ge=0, le=1, description="share of characters that are neither letter, digit nor white space"
    )
    max_repeated_line_ratio: float | None = Field(default=0.5, ge=0, le=1, description="share of lines said before")
    max_repeated_ngram_ratio: float | None = Field(
        default=0.6, ge=0, le=1, description="share of the text's 8-character pieces said before; from 64 characters"
    )
    boilerplate: Literal["remove_lines", "drop", "ignore"] = Field(
        default="remove_lines", description="lines such as cookie notices, copyright, 版权所有, 点击查看更多"
    )
    boilerplate_lines: list[Word] = Field(default_factory=list[str], max_length=1000, description="lines of your own")


class Blocked(Request):
    """Removes records that hold words that must not be taught."""

    step: Literal["blocked"]
    words: list[Word] = Field(default_factory=list[str], max_length=10_000, description="words of your own")
    shipped: list[Literal["zh", "en"]] = Field(
        default=["zh", "en"], description="the short lists of toxic words that come with Finery"
    )
    of: Part = "record"
    min_hits: int = Field(default=1, ge=1, le=1000, description="so many words must be found")

    @model_validator(mode="after")
    def _has_words(self) -> Blocked:
        if not self.words and not self.shipped:
            raise ValueError("give words, or take a shipped list")
        return self


class Relevance(Request):
    """Keeps what speaks of something, or removes it: by keywords and patterns."""

    step: Literal["relevance"]
    mode: Literal["keep", "drop"] = Field(default="keep", description="what becomes of records that match")
    of: Part = "record"
    keywords: list[Word] = Field(
        default_factory=list[str], max_length=10_000, description="any of them; case is nothing"
    )
    patterns: list[Pattern] = Field(default_factory=list[str], max_length=100, description="regular expressions")

    @model_validator(mode="after")
    def _looks_for_something(self) -> Relevance:
        if not self.keywords and not self.patterns:
            raise ValueError("give keywords or patterns")
        return self


class Contamination(Request):
    """Removes records that an evaluation set holds, too, so that a score measures learning and not remembering."""

    step: Literal["contamination"]
    against: list[Annotated[str, Field(min_length=1, max_length=255)]] = Field(
        min_length=1, max_length=20, description="evaluation datasets, by id or name"
    )
    ngram: int = Field(default=8, ge=2, le=50, description="words in a piece; Chinese characters are words")
    overlap: float = Field(
        default=0.5, gt=0, le=1, description="share of an evaluation record's pieces that is too much"
    )


class Sample(Request):
    """Keeps some of the records, chosen by the seed."""

    step: Literal["sample"]
    records: int | None = Field(default=None, ge=1, description="so many; all when there are fewer")
    share: float | None = Field(default=None, gt=0, le=1)

    @model_validator(mode="after")
    def _one_of_two(self) -> Sample:
        if (self.records is None) == (self.share is None):
            raise ValueError("give records or share, one of them")
        return self


class Shuffle(Request):
    """Puts the records in an order that the seed decides."""

    step: Literal["shuffle"]


class Mix(Request):
    """Takes from each of the task's datasets by weight, such as 1 of the industry to 3 of general data.

    Without repetition the scarcest source decides how many there are. With repetition the most plentiful one is taken
    whole and scarce ones are repeated evenly: every record k or k + 1 times.
    """

    step: Literal["mix"]
    weights: list[Annotated[float, Field(gt=0, le=1_000_000)]] = Field(
        min_length=1, max_length=20, description="one for each dataset of the task, in their order"
    )
    records: int | None = Field(default=None, ge=1, description="so many in all; default: as many as the rule allows")
    when_short: Literal["shrink", "repeat"] = Field(
        default="shrink", description="what happens when a source has too few: take less of all, or repeat its records"
    )
    shuffle: bool = Field(default=True, description="sources change by turns; otherwise one follows the other")


class Split(Request):
    """Lays a share of the records aside for validation; records that say the same stay on one side."""

    step: Literal["split"]
    validation: float = Field(default=0.1, gt=0, lt=1, description="share that is laid aside")
    group: Literal["record", "prompt"] = Field(default="record", description="what stays together when it is the same")
    stratify: Literal["none", "answer", "label"] = Field(
        default="none", description="the share holds within each last answer (or label), too"
    )


Step = Annotated[
    ExactDuplicates | NearDuplicates | Length | Languages | Missing | Personal | Quality | Blocked | Relevance
    | Contamination | Sample | Shuffle | Mix | Split,
    Field(discriminator="step"),
]  # fmt: skip


def faults_of(steps: list[Step], *, datasets: int, has_model: bool) -> list[tuple[int, str, str]]:
    """What a chain cannot be, beside what each step says of itself: (place, field, reason)."""
    faults: list[tuple[int, str, str]] = []
    for place, step in enumerate(steps):
        if isinstance(step, Split) and place != len(steps) - 1:
            faults.append((place, "step", "split is the last step: what follows would not know which side is meant"))
        if isinstance(step, Mix):
            if any(isinstance(other, Mix) for other in steps[:place]):
                faults.append((place, "step", "mix was said before; one mixture is enough"))
            if len(step.weights) != datasets:
                faults.append((place, "weights", f"there are {len(step.weights)} weights for {datasets} datasets"))
        if isinstance(step, Length) and step.unit == "tokens" and not has_model:
            faults.append((place, "unit", "tokens are counted by a model: name one in `model`"))
    return faults
