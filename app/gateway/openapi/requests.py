"""Schemas of request bodies, for the document only: what is validated is the table in
`app/openai_api/bodies.py`.
"""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field


class Schema(BaseModel):
    model_config = ConfigDict(extra="allow")


def optional_field(description: str) -> Any:
    """A field that may be left out or null."""
    return Field(default=None, description=description)


class ImageUrl(Schema):
    url: str = Field(description="An address, or the image itself as a data: URL.")
    detail: str | None = optional_field("How closely to look: low, high or auto.")


class ContentPart(Schema):
    """One piece of a message: text, a picture, sound or a file."""

    type: str = Field(
        description="text, image_url, input_audio, file, or what else the model takes."
    )
    text: str | None = optional_field("The text of a text part.")
    image_url: ImageUrl | None = optional_field("The picture of an image_url part.")
    input_audio: dict[str, Any] | None = optional_field(
        "Base64 data and format of an input_audio part."
    )
    file: dict[str, Any] | None = optional_field("Id or data of a file part.")


class Message(Schema):
    """One turn of the conversation."""

    role: str = Field(description="system, developer, user, assistant or tool.")
    content: str | list[ContentPart] | None = optional_field("What is said.")
    name: str | None = optional_field("Tells apart speakers of the same role.")
    tool_calls: list[dict[str, Any]] | None = optional_field("Assistant: the calls it made.")
    tool_call_id: str | None = optional_field("Tool: the call that this answers.")


class FunctionDefinition(Schema):
    name: str = Field(description="What the model calls it by.")
    description: str | None = optional_field("What it does; the model chooses by this.")
    parameters: dict[str, Any] | None = optional_field("Its arguments, as JSON Schema.")
    strict: bool | None = optional_field("Hold the arguments to the schema exactly.")


class Tool(Schema):
    type: str = Field(default="function", description="The kind of tool.")
    function: FunctionDefinition | None = optional_field("The function, for that kind.")


class ResponseFormat(Schema):
    type: Literal["text", "json_object", "json_schema"] = Field(
        description="How free the form of the reply is."
    )
    json_schema: dict[str, Any] | None = optional_field("Name and schema, for json_schema.")


class StreamOptions(Schema):
    include_usage: bool | None = optional_field(
        "Send a chunk with the token counts, without choices, before [DONE]."
    )
    include_obfuscation: bool | None = optional_field(
        "Pad the chunks, so that their sizes tell nothing."
    )


class SamplingRequest(Schema):
    """What chat and text completions have in common."""

    model: str = Field(description="A model's id or alias; GET /v1/models lists them.")
    stream: bool | None = optional_field("Send the reply as server-sent events while it is made.")
    stream_options: StreamOptions | None = optional_field("Only together with stream.")
    max_tokens: int | None = optional_field("Longest reply, in tokens.")
    temperature: float | None = optional_field(
        "0 picks the likeliest token; up to 2 is ever more random."
    )
    top_p: float | None = optional_field(
        "Draw from the likeliest tokens that make up this share of the probability."
    )
    n: int | None = optional_field("How many replies to make for one prompt.")
    stop: str | list[str] | None = optional_field("Text that ends the reply; it is not part of it.")
    seed: int | None = optional_field(
        "Same seed and parameters: the same reply, as far as the model can."
    )
    frequency_penalty: float | None = optional_field(
        "-2 to 2: above 0, tokens used often become less likely."
    )
    presence_penalty: float | None = optional_field(
        "-2 to 2: above 0, tokens used at all become less likely."
    )
    logit_bias: dict[str, float] | None = optional_field(
        "Token id to a number from -100 (never) to 100 (always)."
    )
    user: str | None = optional_field("An opaque name of the end user.")


class ChatCompletionRequest(SamplingRequest):
    """A conversation to be continued. Any further field is passed on unchanged."""

    messages: list[Message] = Field(
        min_length=1, description="The conversation so far, oldest first."
    )
    max_completion_tokens: int | None = optional_field(
        "Longest reply in tokens, reasoning included; the newer max_tokens."
    )
    tools: list[Tool] | None = optional_field("What the model may call.")
    tool_choice: str | dict[str, Any] | None = optional_field(
        "none, auto, required, or the one tool that must be called."
    )
    parallel_tool_calls: bool | None = optional_field("Allow several calls in one reply.")
    response_format: ResponseFormat | None = optional_field(
        "Text, any JSON, or JSON of a given schema."
    )
    logprobs: bool | None = optional_field("Return the log probability of each token of the reply.")
    top_logprobs: int | None = optional_field(
        "0 to 20: as many likely alternatives for each token; needs logprobs."
    )
    reasoning_effort: str | None = optional_field(
        "How much to think first: none, minimal, low, medium, high ..."
    )
    verbosity: str | None = optional_field("How wordy to be: low, medium or high.")
    modalities: list[str] | None = optional_field("Kinds of output: text, audio.")
    audio: dict[str, Any] | None = optional_field("Voice and format, for audio output.")
    prediction: dict[str, Any] | None = optional_field(
        "Text that much of the reply is expected to equal, to save time."
    )
    web_search_options: dict[str, Any] | None = optional_field(
        "How a model that searches the web does so."
    )
    moderation: dict[str, Any] | None = optional_field(
        "How prompt and reply are checked against a policy."
    )
    service_tier: str | None = optional_field("The upstream's class of service.")
    store: bool | None = optional_field("Let the upstream keep the reply.")
    metadata: dict[str, str] | None = optional_field("Labels kept with a stored reply.")
    prompt_cache_key: str | None = optional_field(
        "Requests with equal beginnings share the upstream's cache under this name."
    )
    prompt_cache_options: dict[str, Any] | None = optional_field("How the upstream caches prompts.")
    prompt_cache_retention: str | None = optional_field(
        "How long the upstream keeps a cached prompt."
    )
    safety_identifier: str | None = optional_field(
        "A stable, opaque name of the end user, for the upstream's abuse checks."
    )
    functions: list[FunctionDefinition] | None = Field(
        default=None, deprecated=True, description="Now: tools."
    )
    function_call: str | dict[str, Any] | None = Field(
        default=None, deprecated=True, description="Now: tool_choice."
    )


class CompletionRequest(SamplingRequest):
    """A text to be continued. Any further field is passed on unchanged."""

    prompt: str | list[str] | list[int] | list[list[int]] = Field(
        description="Text or token ids, one prompt or several."
    )
    suffix: str | None = optional_field("Text behind the gap that is to be filled.")
    echo: bool | None = optional_field("Begin the reply with the prompt.")
    best_of: int | None = optional_field("Make so many replies and return the best n.")
    logprobs: int | None = optional_field(
        "0 to 5: log probabilities of each token and of as many alternatives."
    )


class EmbeddingRequest(Schema):
    """Texts to be turned into vectors. Any further field is passed on unchanged."""

    model: str = Field(description="A model's id or alias; GET /v1/models lists them.")
    input: str | list[str] | list[int] | list[list[int]] = Field(
        description="Text or token ids, one input or several."
    )
    encoding_format: Literal["float", "base64"] | None = optional_field(
        "How each vector is written."
    )
    dimensions: int | None = optional_field(
        "Length of the vectors, where the model can shorten them."
    )
    user: str | None = optional_field("An opaque name of the end user.")


class AnyRequest(Schema):
    """A body for an endpoint that the gateway only passes on: every field goes to the model's
    upstream unchanged.
    """

    model: str = Field(description="A model's id or alias; GET /v1/models lists them.")
    stream: bool | None = optional_field(
        "Send the reply as server-sent events, where the upstream can."
    )


class AnyForm(Schema):
    """A form for an endpoint that takes files: every part goes to the model's upstream
    unchanged.
    """

    model: str = Field(description="A model's id or alias; GET /v1/models lists them.")
    stream: bool | None = optional_field(
        "Send the reply as server-sent events, where the upstream can."
    )
    file: bytes = Field(
        description="A file; endpoints have names of their own for it, such as image."
    )
