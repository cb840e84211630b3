"""What a caller may ask of a served model: the requests of OpenAI's completion API with vLLM's additions (SPEC DE3).

Gateway and engine judge a request here, by the same rules, without a model. It refuses to know tokens: whether a prompt
fits the context is for the engine to say.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Annotated, Any, Literal, Self, cast

from pydantic import BeforeValidator, ConfigDict, Field, TypeAdapter, ValidationError
from pydantic_core import ErrorDetails, from_json

from finery_contracts.errors import InvalidRequest
from finery_contracts.model import Record, Request

MAX_CHOICES = 10
MAX_STOPS = 16
MAX_STOP_CHARACTERS = 1024

IGNORED = frozenset({
    "user", "metadata", "store", "service_tier", "safety_identifier", "prompt_cache_key", "prompt_cache_retention",
    "parallel_tool_calls", "reasoning_effort", "verbosity", "prediction", "priority", "request_id",
})  # fmt: skip
"""Parameters that other servers know and that change nothing here."""

UNSUPPORTED: dict[str, tuple[object, ...]] = {
    "tools": ([],),
    "tool_choice": ("none", "auto"),
    "functions": ([],),
    "function_call": ("none", "auto"),
    "response_format": ({"type": "text"},),
    "modalities": (["text"],),
    "audio": (),
    "web_search_options": (),
    "logprobs": (False,),
    "top_logprobs": (0,),
    "prompt_logprobs": (),
    "logit_bias": ({},),
    "best_of": (1,),
    "echo": (False,),
    "suffix": ("",),
    "min_p": (0,),
    "min_tokens": (0,),
    "repetition_penalty": (1,),
    "stop_token_ids": ([],),
    "bad_words": ([],),
    "allowed_token_ids": (),
    "include_stop_str_in_output": (False,),
    "skip_special_tokens": (True,),
    "spaces_between_special_tokens": (True,),
    "add_special_tokens": (),
    "add_generation_prompt": (True,),
    "continue_final_message": (False,),
    "chat_template": (),
    "chat_template_kwargs": ({},),
    "truncate_prompt_tokens": (),
    "structured_outputs": (),
    "guided_json": (),
    "guided_regex": (),
    "guided_choice": (),
    "guided_grammar": (),
}
"""Parameters that would change the answer and that no engine of ours obeys yet, each with its values of no effect."""


class Fault(Record):
    """One thing that is wrong with a request."""

    param: str = Field(description="the parameter, such as messages[0].content; empty for the body as a whole")
    code: str
    message: str


class TextPart(Record):
    """A piece of a message's content; the only kind that is supported."""

    type: Literal["text"]
    text: str


_PARTS = TypeAdapter(list[TextPart])


def _stops(value: object) -> object:
    return [value] if isinstance(value, str) else value


def _text_of(content: object) -> object:
    """A message's text: the string itself, or its text parts with a line break between them, as vLLM joins them."""
    if isinstance(content, str):
        return content
    try:
        return "\n".join(part.text for part in _PARTS.validate_python(content))
    except ValidationError as wrong:
        raise ValueError(
            'give a string or a list of {"type": "text", "text": "…"}; no images, audio or files'
        ) from wrong


def _one_prompt(value: object) -> object:
    """A text or a list of token numbers; a list that holds exactly one of these stands for it."""
    if isinstance(value, str):
        return value
    items = cast("list[object]", value) if isinstance(value, list) else []
    if len(items) == 1 and isinstance(items[0], str):
        return items[0]
    if len(items) == 1 and isinstance(items[0], list):
        items = cast("list[object]", items[0])
    if items and all(isinstance(item, int) and not isinstance(item, bool) and item >= 0 for item in items):
        return items
    raise ValueError("give one prompt: a string or a list of token numbers; send several prompts as several requests")


def _top_k(value: object) -> object:
    if isinstance(value, int) and not isinstance(value, bool) and value != -1 and value < 1:
        raise ValueError("give -1 (all tokens) or a number from 1")
    return value


class Message(Record):
    """One message of a conversation; ``developer`` is OpenAI's newer word for ``system``."""

    role: Literal["system", "developer", "user", "assistant"]
    content: Annotated[str, BeforeValidator(_text_of)]


class StreamOptions(Record):
    """What a stream carries besides the text."""

    model_config = ConfigDict(strict=True)

    include_usage: bool = Field(default=False, description="a last chunk, without choices, counts the tokens")


Stop = Annotated[str, Field(min_length=1, max_length=MAX_STOP_CHARACTERS)]


class GenerationRequest(Request):
    """What both kinds of completion have in common."""

    model_config = ConfigDict(frozen=True, extra="ignore", allow_inf_nan=False, strict=True)

    model: str = Field(min_length=1, description="name of the deployment, or an ft: name")
    max_tokens: int | None = Field(default=None, ge=1, description="absent: what is left of the context")
    max_completion_tokens: int | None = Field(default=None, ge=1, description="OpenAI's newer name of max_tokens")
    top_k: Annotated[int, BeforeValidator(_top_k)] = Field(
        default=-1, description="sample from so many tokens; -1: from all"
    )
    top_p: float = Field(default=1.0, gt=0, le=1, description="sample from the likeliest tokens of this share")
    temperature: float = Field(default=1.0, ge=0, le=2, description="0: always the likeliest token")
    stop: Annotated[list[Stop], BeforeValidator(_stops)] = Field(
        default_factory=list[str], max_length=MAX_STOPS, description="texts that end the answer, cut from it"
    )
    stream: bool = False
    stream_options: StreamOptions | None = None
    n: int = Field(default=1, ge=1, le=MAX_CHOICES, description="choices")
    use_beam_search: bool = Field(default=False, description="the n likeliest answers as a whole")
    presence_penalty: float = Field(default=0.0, ge=-2, le=2, description="against tokens that were used at all")
    frequency_penalty: float = Field(default=0.0, ge=-2, le=2, description="against tokens, for each time of use")
    length_penalty: float = Field(default=1.0, ge=-10, le=10, description="beam search: above 1 favours long answers")
    ignore_eos: bool = Field(default=False, description="go on past the model's end-of-text token")
    seed: int | None = Field(default=None, ge=-(2**63), le=2**63 - 1, description="same seed, same answer")

    @property
    def token_budget(self) -> int | None:
        """The most tokens one choice may have, under either of its names; None: what is left of the context."""
        return self.max_tokens if self.max_completion_tokens is None else self.max_completion_tokens

    @classmethod
    def validate(cls, value: Any) -> Self:
        """Judge a request body: JSON bytes, or the object read from them. This replaces pydantic's old method.

        Raises:
            InvalidRequest: with one entry in ``details`` for each fault that was found.
        """
        fields = {name: given for name, given in _read(value).items() if given is not None}
        faults = [*_unsupported(fields), *_unknown(fields, known=cls.model_fields.keys())]
        try:
            request = cls.model_validate(fields)
        except ValidationError as wrong:
            faults += [_fault_of(error) for error in wrong.errors(include_url=False)]
            raise _refusal(faults) from wrong
        faults += impossible(request)
        if faults:
            raise _refusal(faults)
        return request


class ChatCompletionRequest(GenerationRequest):
    """``POST /v1/chat/completions``."""

    messages: list[Message] = Field(min_length=1)


class CompletionRequest(GenerationRequest):
    """``POST /v1/completions``: one prompt, as text or as token numbers."""

    prompt: Annotated[str | list[int], BeforeValidator(_one_prompt)]


def impossible(request: GenerationRequest) -> list[Fault]:
    """The combinations of SPEC DE3 that cannot work, each with its reason."""
    faults = _beam_faults(request) if request.use_beam_search else _sampling_faults(request)
    if request.stream_options is not None and not request.stream:
        faults.append(_cannot("stream_options", "stream_options needs stream: true; leave it out or stream"))
    if request.max_tokens not in (None, request.token_budget):
        faults.append(_cannot("max_tokens", "max_tokens and max_completion_tokens differ; give one of them"))
    return faults


def _beam_faults(request: GenerationRequest) -> list[Fault]:
    wanted = {
        "n": (request.n >= 2, f"n between 2 and {MAX_CHOICES}: as many answers are searched as are returned"),
        "temperature": (request.temperature == 0, "temperature 0, because it takes the likeliest and draws nothing"),
        "top_p": (request.top_p == 1, "top_p 1, because it weighs all tokens"),
        "top_k": (request.top_k == -1, "top_k -1, because it weighs all tokens"),
    }
    return [_cannot(param, f"use_beam_search needs {need}") for param, (holds, need) in wanted.items() if not holds]


def _sampling_faults(request: GenerationRequest) -> list[Fault]:
    faults: list[Fault] = []
    if request.length_penalty != 1:
        faults.append(_cannot("length_penalty", "length_penalty other than 1 needs use_beam_search: true"))
    if request.n > 1 and request.temperature == 0:
        faults.append(_cannot("n", "n above 1 at temperature 0 gives n times the same answer; raise temperature"))
    if request.n > 1 and request.top_k == 1:
        faults.append(_cannot("n", "n above 1 with top_k 1 gives n times the same answer; raise top_k"))
    return faults


def _cannot(param: str, message: str) -> Fault:
    return Fault(param=param, code="impossible_combination", message=message)


def _read(value: Any) -> Mapping[str, object]:
    if isinstance(value, bytes | bytearray | str):
        try:
            value = from_json(value, allow_inf_nan=False)
        except ValueError as fault:
            raise InvalidRequest(f"the body is not JSON: {fault}; send one JSON object", code="invalid_json") from fault
    if not isinstance(value, Mapping):
        raise InvalidRequest("the body is not a JSON object; send one with model and messages (or prompt)")
    return cast("Mapping[str, object]", value)


def _unsupported(fields: Mapping[str, object]) -> list[Fault]:
    return [
        Fault(
            param=name,
            code="unsupported_parameter",
            message=f"{name} would change the answer and is not supported yet; leave it out",
        )
        for name, given in fields.items()
        if name in UNSUPPORTED and not any(_same(given, neutral) for neutral in UNSUPPORTED[name])
    ]


def _same(given: object, neutral: object) -> bool:
    """Equal, and not a truth value that happens to equal a number."""
    return given == neutral and isinstance(given, bool) == isinstance(neutral, bool)


def _unknown(fields: Mapping[str, object], *, known: Collection[str]) -> list[Fault]:
    return [
        Fault(param=name, code="unknown_parameter", message=f"there is no parameter {name}; check its spelling")
        for name in fields
        if name not in known and name not in IGNORED and name not in UNSUPPORTED
    ]


def _fault_of(error: ErrorDetails) -> Fault:
    param = ""
    for step in error["loc"]:
        param += f"[{step}]" if isinstance(step, int) else f".{step}" if param else step
    if error["type"] == "missing":
        return Fault(param=param, code="missing_required_parameter", message=f"{param} is missing; it is required")
    reason = error["msg"].removeprefix("Value error, ")
    given = error["input"]
    got = f" (got {given})" if isinstance(given, int | float) else ""
    return Fault(param=param, code="invalid_value", message=f"{param}: {reason[0].lower()}{reason[1:]}{got}")


def _refusal(faults: list[Fault]) -> InvalidRequest:
    codes = {fault.code for fault in faults}
    return InvalidRequest(
        "; ".join(fault.message for fault in faults[:10]),
        code=codes.pop() if len(codes) == 1 else None,
        param=faults[0].param or None,
        details=[fault.model_dump() for fault in faults],
    )
