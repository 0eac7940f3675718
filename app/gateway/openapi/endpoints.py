"""The endpoints, one row each."""

from typing import Any

from app.gateway.openapi import replies, requests
from app.gateway.openapi.endpoint import MODEL_PLACEHOLDER, Endpoint, Example, Reply
from app.gateway.openapi.failures import (
    COMMON_ERRORS,
    INFERENCE_ERRORS,
    KEY_ERRORS,
    MODEL_ERRORS,
    OPTIONAL_ENDPOINT_ERRORS,
)
from app.gateway.openapi.request_endpoints import ACCEPTED, INFERENCE_HEADERS
from app.openai_api.endpoints import ENDPOINTS as INFERENCE

CREATED = 1767225600
QUESTION = [{"role": "user", "content": "Say hello in five words."}]
CHAT_REPLY = {
    "id": "chatcmpl-1",
    "object": "chat.completion",
    "created": CREATED,
    "model": MODEL_PLACEHOLDER,
}
CHAT_CHUNK = CHAT_REPLY | {"object": "chat.completion.chunk"}
TEXT_REPLY = {
    "id": "cmpl-1",
    "object": "text_completion",
    "created": CREATED,
    "model": MODEL_PLACEHOLDER,
}
MODEL_EXAMPLE = {
    "id": MODEL_PLACEHOLDER,
    "object": "model",
    "created": CREATED,
    "owned_by": "llm-gateway",
    "aliases": [],
    "workers": 1,
    "capacity": 32,
    "in_flight": 0,
    "queue_depth": 0,
}


def _choices(finish_reason: str | None = None, **fields: Any) -> list[Example]:
    return [{"index": 0, **fields, "finish_reason": finish_reason}]


def _usage(prompt: int, completion: int) -> Example:
    return {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
    }


_DOCUMENTED_SEPARATELY = ("/chat/completions", "/completions", "/embeddings")
PASSTHROUGH_PATHS = tuple(path[1:] for path in INFERENCE if path not in _DOCUMENTED_SEPARATELY)

ENDPOINTS = (
    Endpoint(
        "post",
        "/v1/chat/completions",
        "Inference",
        "Continue a conversation",
        "Every field goes to the model's upstream unchanged, known to this page or not; "
        "so does every field of the reply.",
        {
            200: Reply(
                replies.ChatCompletion,
                "The reply, whole or as server-sent events.",
                CHAT_REPLY
                | {
                    "choices": _choices(
                        "stop", message={"role": "assistant", "content": "Hello, nice to meet you!"}
                    ),
                    "usage": _usage(12, 6),
                },
                replies.ChatCompletionChunk,
                (
                    CHAT_CHUNK | {"choices": _choices(delta={"role": "assistant", "content": ""})},
                    CHAT_CHUNK | {"choices": _choices(delta={"content": "Hello"})},
                    CHAT_CHUNK | {"choices": _choices("stop", delta={})},
                ),
            ),
            202: ACCEPTED,
        },
        INFERENCE_ERRORS,
        requests.ChatCompletionRequest,
        {
            "whole": {"model": MODEL_PLACEHOLDER, "messages": QUESTION, "max_tokens": 64},
            "streamed": {
                "model": MODEL_PLACEHOLDER,
                "messages": QUESTION,
                "max_tokens": 64,
                "stream": True,
                "stream_options": {"include_usage": True},
            },
        },
        parameters=INFERENCE_HEADERS,
    ),
    Endpoint(
        "post",
        "/v1/completions",
        "Inference",
        "Continue a text",
        "Every field goes to the model's upstream unchanged, known to this page or not; "
        "so does every field of the reply.",
        {
            200: Reply(
                replies.Completion,
                "The reply, whole or as server-sent events.",
                TEXT_REPLY
                | {"choices": _choices("length", text=" there was a king"), "usage": _usage(5, 4)},
                replies.Completion,
                (
                    TEXT_REPLY | {"choices": _choices(text=" there")},
                    TEXT_REPLY | {"choices": _choices("length", text=" was")},
                ),
            ),
            202: ACCEPTED,
        },
        INFERENCE_ERRORS,
        requests.CompletionRequest,
        {
            "whole": {"model": MODEL_PLACEHOLDER, "prompt": "Once upon a time", "max_tokens": 32},
            "streamed": {
                "model": MODEL_PLACEHOLDER,
                "prompt": "Once upon a time",
                "max_tokens": 32,
                "stream": True,
            },
        },
        parameters=INFERENCE_HEADERS,
    ),
    Endpoint(
        "post",
        "/v1/embeddings",
        "Inference",
        "Turn texts into vectors",
        "For models that have embeddings; from one that has not, its upstream's own "
        "error comes back.",
        {
            200: Reply(
                replies.EmbeddingList,
                "One vector for each input.",
                {
                    "object": "list",
                    "data": [
                        {"object": "embedding", "index": 0, "embedding": [0.018, -0.25, 0.77]}
                    ],
                    "model": MODEL_PLACEHOLDER,
                    "usage": {"prompt_tokens": 4, "total_tokens": 4},
                },
            ),
            202: ACCEPTED,
        },
        OPTIONAL_ENDPOINT_ERRORS,
        requests.EmbeddingRequest,
        {"floats": {"model": MODEL_PLACEHOLDER, "input": "The sea was calm."}},
        parameters=INFERENCE_HEADERS,
    ),
    Endpoint(
        "post",
        "/v1/{path}",
        "Inference",
        "Any other inference endpoint of the model's upstream",
        "A body that names a `model`: JSON for `responses`, `messages`, `audio/speech`, "
        "`rerank`, `tokenize` and more, a form "
        "for `audio/transcriptions`, `images/edits` and what else takes files. It "
        "reaches the same path at the model's "
        "upstream, streamed replies included. What the upstream has not is its own 404. "
        "A model's entry may add paths "
        "(`paths` in MODELS_FILE); any other path is a 404 here.",
        {
            200: Reply(
                replies.UpstreamReply,
                "What the upstream answered.",
                {"count": 4, "tokens": [785, 9396, 572, 19300]},
            ),
            202: ACCEPTED,
        },
        OPTIONAL_ENDPOINT_ERRORS,
        requests.AnyRequest,
        {
            "tokenize": {"model": MODEL_PLACEHOLDER, "prompt": "The sea was calm."},
            "rerank": {
                "model": MODEL_PLACEHOLDER,
                "query": "calm sea",
                "documents": ["The sea was calm.", "It rained."],
            },
        },
        {"path": ("The endpoint's path; it may hold slashes.", ("tokenize", "rerank"))},
        form_schema=requests.AnyForm,
        parameters=INFERENCE_HEADERS,
        path_values=PASSTHROUGH_PATHS,
    ),
    Endpoint(
        "get",
        "/v1/models",
        "Models",
        "List the models",
        "Every known model; one whose workers are all away stays known, and its requests wait.",
        {200: Reply(replies.ModelList, "The models.", {"object": "list", "data": [MODEL_EXAMPLE]})},
        KEY_ERRORS,
    ),
    Endpoint(
        "get",
        "/v1/models/{model}",
        "Models",
        "Describe a model",
        "One model, by its id or alias.",
        {200: Reply(replies.Model, "The model.", MODEL_EXAMPLE)},
        MODEL_ERRORS,
        path_examples={
            "model": ("The model's id or alias; it may hold slashes.", (MODEL_PLACEHOLDER,))
        },
    ),
    Endpoint(
        "get",
        "/healthz",
        "Health",
        "Is the process alive?",
        "Answers as long as the process runs. Needs no key.",
        {200: Reply(replies.Alive, "Alive.", {"status": "alive"})},
        COMMON_ERRORS,
    ),
    Endpoint(
        "get",
        "/readyz",
        "Health",
        "Can it take requests?",
        "Ready once the bus is connected and a reply partition is assigned. Needs no key.",
        {
            200: Reply(
                replies.Readiness,
                "Ready.",
                {"ready": True, "reasons": [], "dependencies": {"bus": "ok", "store": "ok"}},
            ),
            503: Reply(
                replies.Readiness,
                "Not ready.",
                {
                    "ready": False,
                    "reasons": ["bus: no broker answers"],
                    "dependencies": {"bus": "no broker answers", "store": "ok"},
                },
            ),
        },
        COMMON_ERRORS,
    ),
)
