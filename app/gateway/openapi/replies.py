"""Schemas of replies, for the document only: an upstream's replies pass through as they are."""

from typing import Any, Literal

from pydantic import Field

from app.gateway.openapi.requests import Schema, optional_field


class Usage(Schema):
    """Token counts."""

    prompt_tokens: int
    completion_tokens: int = 0
    total_tokens: int


class FunctionCall(Schema):
    name: str | None = optional_field("The function that is called.")
    arguments: str | None = optional_field(
        "Its arguments as JSON text; in a stream, the next piece of it."
    )


class ToolCall(Schema):
    id: str | None = optional_field("What the tool's answer refers to.")
    type: str | None = optional_field("The kind of tool: function.")
    function: FunctionCall | None = optional_field("The call, for that kind.")
    index: int | None = optional_field("Streams: which of the calls this belongs to.")


class ReplyMessage(Schema):
    """What the model said; in a stream, the next piece of it."""

    role: str | None = optional_field("assistant")
    content: str | None = optional_field("The text.")
    refusal: str | None = optional_field("Why the model declined, if it did.")
    tool_calls: list[ToolCall] | None = optional_field("What the model wants called.")


class Choice(Schema):
    index: int
    finish_reason: str | None = optional_field(
        "stop, length, tool_calls or content_filter; null while a stream goes on."
    )
    logprobs: dict[str, Any] | None = optional_field("Log probabilities, if asked for.")


class ChatChoice(Choice):
    message: ReplyMessage


class ChatChunkChoice(Choice):
    delta: ReplyMessage


class TextChoice(Choice):
    text: str


class GeneratedObject(Schema):
    id: str
    created: int = Field(description="Seconds since the epoch.")
    model: str


class ChatCompletion(GeneratedObject):
    """A whole chat reply."""

    object: Literal["chat.completion"] = "chat.completion"
    choices: list[ChatChoice]
    usage: Usage | None = None


class ChatCompletionChunk(GeneratedObject):
    """One event of a streamed chat reply."""

    object: Literal["chat.completion.chunk"] = "chat.completion.chunk"
    choices: list[ChatChunkChoice]
    usage: Usage | None = optional_field(
        "On the last chunk, if stream_options.include_usage asked for it."
    )


class Completion(GeneratedObject):
    """A text reply, whole or one event of a stream."""

    object: Literal["text_completion"] = "text_completion"
    choices: list[TextChoice]
    usage: Usage | None = None


class Embedding(Schema):
    object: Literal["embedding"] = "embedding"
    index: int = Field(description="Which of the inputs this is.")
    embedding: list[float] | str = Field(
        description="The vector; with base64, its 32-bit floats, little-endian."
    )


class EmbeddingList(Schema):
    object: Literal["list"] = "list"
    data: list[Embedding]
    model: str
    usage: Usage


class Model(Schema):
    """A model that is known, whether or not a worker for it lives."""

    id: str
    object: Literal["model"] = "model"
    created: int = Field(description="When it was first known, seconds since the epoch.")
    owned_by: str
    aliases: list[str] = Field(default=[], description="Its other names.")
    workers: int = Field(default=0, description="Workers that live.")
    capacity: int = Field(default=0, description="Requests that its workers take at once.")
    in_flight: int = Field(default=0, description="Requests that are being worked on.")
    queue_depth: int = Field(default=0, description="Requests that wait.")


class ModelList(Schema):
    object: Literal["list"] = "list"
    data: list[Model]


class Alive(Schema):
    """The process lives."""

    status: Literal["alive"] = "alive"


class Readiness(Schema):
    """Whether the process takes requests."""

    ready: bool
    reasons: list[str] = Field(description="Why it is not ready.")
    dependencies: dict[str, str] = Field(
        description="What it depends on: `ok`, or why not. It serves without its `store`."
    )


class UpstreamReply(Schema):
    """Whatever the model's upstream answered, byte for byte."""


class Error(Schema):
    message: str = Field(description="One sentence for people.")
    type: str = Field(description="The error's family.")
    param: str | None = optional_field("Which field is wrong, as a path: messages[0].role")
    code: str | None = optional_field("The error's name for programs.")


class ErrorReply(Schema):
    """OpenAI's error body."""

    error: Error


class RequestResource(Schema):
    """A request, found by its id."""

    id: str
    object: Literal["request"]
    status: Literal["queued", "running", "completed", "failed", "cancelled", "expired"]
    model: str
    created_at: int = Field(description="Seconds since the epoch.")
    queue_position: int | None = optional_field(
        "About how many come before it, while it is queued."
    )
    estimated_wait_seconds: float | None = optional_field(
        "Until it begins, at the measured rate, while it is queued."
    )
    attempts: int = Field(description="Workers that have begun on it.")
    worker: str | None = optional_field("The worker that has it, or had it last.")
    timings: dict[str, float] = Field(description="queue_ms and upstream_ms, once it has ended.")
    usage: dict[str, Any] | None = optional_field("Token counts, if the upstream gave them.")
    error: dict[str, Any] | None = optional_field("OpenAI's error object, if it failed.")
