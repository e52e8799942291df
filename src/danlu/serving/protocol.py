"""What may be asked over the API, and what is answered: OpenAI's shapes.

A field of OpenAI's that would be left undone is taken only with the value that asks for nothing; an unknown one is
refused. See https://platform.openai.com/docs/api-reference.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, field_validator

MAX_STOPS = 16
_EXACT = 2**53 - 1  # larger numbers are rounded by many readers of JSON, the validators among them
# In JSON 3.0 is a whole number too.
_WHOLE_NUMBERS = (
    *("max_tokens", "max_completion_tokens", "top_k", "seed", "n", "top_logprobs", "logprobs", "best_of"),
    *("requests_per_minute", "tokens_per_day"),
)


def _whole(text: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ValueError("half a character (a surrogate alone) is no text") from None
    return text


_Text = Annotated[str, AfterValidator(_whole)]
_Stop = Annotated[str, Field(min_length=1, max_length=256)]
_Nothing = Annotated[list[Any], Field(max_length=0)]


class _Asked(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)

    @field_validator(*_WHOLE_NUMBERS, mode="before", check_fields=False)
    @classmethod
    def _number(cls, value: Any) -> Any:
        return int(value) if isinstance(value, float) and value.is_integer() else value


class TextPart(_Asked):
    """One part of a message."""

    type: Literal["text"]
    text: _Text


class Turn(_Asked):
    """One message."""

    role: Literal["system", "developer", "user", "assistant"]
    content: _Text | Annotated[list[TextPart], Field(min_length=1)]
    name: str | None = None
    refusal: None = None
    tool_calls: _Nothing | None = None

    def message(self) -> dict[str, Any]:
        """The message as the chat template takes it."""
        parts = self.content
        text = parts if isinstance(parts, str) else "".join(part.text for part in parts)
        return {"role": "system" if self.role == "developer" else self.role, "content": text}


class StreamOptions(_Asked):
    """What else a stream tells."""

    include_usage: bool = False
    include_obfuscation: bool = False


class Question(_Asked):
    """What both kinds of question have."""

    model: Annotated[str, Field(min_length=1, max_length=256)]
    max_tokens: Annotated[int, Field(ge=1, le=2**31)] | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    top_k: Annotated[int, Field(ge=0, le=2**31, description="of the likeliest tokens; 0: all")] | None = None
    seed: Annotated[int, Field(ge=-_EXACT, le=_EXACT)] | None = None
    stop: _Stop | Annotated[list[_Stop], Field(max_length=MAX_STOPS)] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    n: Annotated[int, Field(ge=1, le=1)] | None = None
    frequency_penalty: Annotated[float, Field(ge=0, le=0)] | None = None
    presence_penalty: Annotated[float, Field(ge=0, le=0)] | None = None
    logit_bias: Annotated[dict[str, Any], Field(max_length=0)] | None = None
    user: str | None = None
    metadata: dict[str, str] | None = None
    store: bool | None = None

    @field_validator("stop", mode="before")
    @classmethod
    def _whole_stops(cls, value: Any) -> Any:
        for text in value if isinstance(value, list) else [value]:
            if isinstance(text, str):
                _whole(text)
        return value

    @property
    def stops(self) -> tuple[str, ...]:
        """The stop strings."""
        return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ())

    @property
    def wanted_tokens(self) -> int | None:
        """The longest answer that was asked for."""
        return self.max_tokens

    @property
    def num_likeliest(self) -> int | None:
        """So many likeliest tokens with their probabilities; None: nothing of probabilities."""
        raise NotImplementedError


class AnyFormat(_Asked):
    """The form of the answer: only text."""

    type: Literal["text"]


class ChatQuestion(Question):
    """Body of `/v1/chat/completions`."""

    messages: Annotated[list[Turn], Field(min_length=1, max_length=4096)]
    max_completion_tokens: Annotated[int, Field(ge=1, le=2**31)] | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    response_format: AnyFormat | None = None
    tools: _Nothing | None = None
    tool_choice: Literal["none", "auto"] | None = None
    parallel_tool_calls: bool | None = None

    @property
    def wanted_tokens(self) -> int | None:
        """The longest answer that was asked for, by the new name or the old."""
        return self.max_completion_tokens or self.max_tokens

    @property
    def num_likeliest(self) -> int | None:
        """So many likeliest tokens with their probabilities; None: nothing of probabilities."""
        return (self.top_logprobs or 0) if self.logprobs else None


class TextQuestion(Question):
    """Body of `/v1/completions`: a text that goes on, without a chat template."""

    prompt: Annotated[str, Field(min_length=1), AfterValidator(_whole)]
    logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    echo: Literal[False] | None = None
    best_of: Annotated[int, Field(ge=1, le=1)] | None = None
    suffix: None = None

    @property
    def num_likeliest(self) -> int | None:
        """So many likeliest tokens with their probabilities; None: nothing of probabilities."""
        return self.logprobs


_Tag = Annotated[str, Field(min_length=1, max_length=100), AfterValidator(_whole)]


class FeedbackGiven(_Asked):
    """Body of `/v1/feedback`; one of rating, correction, comment and tags at least."""

    answer: Annotated[str, Field(min_length=1, max_length=100, description="The answer's id.")]
    rating: Literal["up", "down"] | None = None
    correction: Annotated[str, Field(min_length=1, max_length=100_000), AfterValidator(_whole)] | None = None
    comment: Annotated[str, Field(min_length=1, max_length=10_000), AfterValidator(_whole)] | None = None
    tags: Annotated[list[_Tag], Field(max_length=20)] = []

    def is_empty(self) -> bool:
        """Whether nothing is said."""
        return not (self.rating or self.correction or self.comment or self.tags)


class FeedbackTaken(BaseModel):
    """That it was kept; `masked` is the number of places where personal data stood."""

    id: str
    object: Literal["feedback"]
    answer: str
    masked: int


class Promotion(_Asked):
    """Body of `/admin/promote`."""

    reference: Annotated[str, Field(min_length=1, max_length=256, description="NAME@VERSION")]
    alias: Annotated[str, Field(min_length=1, max_length=100)]


class Rollback(_Asked):
    """Body of `/admin/rollback`."""

    name: Annotated[str, Field(min_length=1, max_length=256)]
    alias: Annotated[str, Field(min_length=1, max_length=100)]


class NewKey(_Asked):
    """Body of `POST /admin/keys`."""

    name: Annotated[str, Field(min_length=1, max_length=100), AfterValidator(_whole)]
    roles: Annotated[list[Literal["use", "feedback", "operate", "admin"]], Field(min_length=1, max_length=4)]
    models: Annotated[list[_Tag], Field(max_length=100)] = []
    requests_per_minute: Annotated[int, Field(ge=1, le=2**31)] | None = None
    tokens_per_day: Annotated[int, Field(ge=1, le=2**53 - 1)] | None = None
    expires: Annotated[str, Field(max_length=40, json_schema_extra={"format": "date"})] | None = None


class ErrorContent(BaseModel):
    """What went wrong, as OpenAI says it."""

    message: str
    type: str
    param: str | None
    code: str | None


class ErrorBody(BaseModel):
    """Body of every answer with a status from 400 on."""

    error: ErrorContent


class Usage(BaseModel):
    """Tokens of one answer."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: dict[str, int]


class Completion(BaseModel):
    """An answer; `model` and `system_fingerprint` say which version made it."""

    id: str
    object: Literal["chat.completion", "text_completion"]
    created: int
    model: str
    system_fingerprint: str
    choices: list[dict[str, Any]]
    usage: Usage


class Model(BaseModel):
    """What may stand in `model`."""

    id: str
    object: Literal["model"]
    created: int
    owned_by: str
    version: str


class Models(BaseModel):
    """All of them."""

    object: Literal["list"]
    data: list[Model]


class Health(BaseModel):
    """Whether the gateway is well, and what is not."""

    status: str
    faults: list[str] = []
