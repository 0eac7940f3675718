"""Puts the OpenAPI 3.1 document together from the table of endpoints."""

import re
from collections.abc import Mapping
from functools import cache
from typing import Any

import orjson
from pydantic import BaseModel
from pydantic.json_schema import GenerateJsonSchema, models_json_schema

from app import __version__
from app.errors import InvalidApiKey, WorkerLost
from app.gateway.openapi import failures
from app.gateway.openapi.endpoint import MODEL_PLACEHOLDER, Endpoint, Parameter, Reply
from app.gateway.openapi.endpoints import ENDPOINTS
from app.gateway.openapi.replies import ErrorReply
from app.gateway.openapi.request_endpoints import REQUEST_ENDPOINTS
from app.openai_api.sse import DONE_EVENT

DESCRIPTION = """\
One base_url for all models, speaking the OpenAI API: point the `openai` SDK, LangChain or curl at
it.

Each request is stored before it is worked on, and waits if the model is busy. Bytes pass through:
fields that this page does not know reach the upstream, and its reply the client.

Every address under `/v1` also works under `/api/v1`. An upstream's own error comes back with its
status and body. After the first byte of a stream an error is an event `data: {"error": ...}`, and
the stream ends without `[DONE]`.

Models now:
"""

_SCHEMA_REF = "#/components/schemas/{model}"


def build_document(models: list[str]) -> dict[str, Any]:
    """The OpenAPI document. Its examples name the first of `models`, or the built-in `echo` if
    there is none.
    """
    names = models or ["echo"]
    paths: dict[str, dict[str, Any]] = {}
    for endpoint in (*ENDPOINTS, *REQUEST_ENDPOINTS):
        paths.setdefault(endpoint.path, {})[endpoint.method] = _operation(endpoint)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "LLM gateway",
            "version": __version__,
            "description": DESCRIPTION + ", ".join(f"`{name}`" for name in names) + ".",
        },
        "paths": _fill_model_name(paths, names[0]),
        "components": {
            "schemas": _schemas(),
            "headers": failures.HEADERS,
            "securitySchemes": {
                "key": {
                    "type": "http",
                    "scheme": "bearer",
                    "description": "Needed where the server has API keys.",
                }
            },
        },
    }


def _fill_model_name(example: Any, model: str) -> Any:
    """The same with a model's name in the place of MODEL."""
    if isinstance(example, dict):
        return {
            name.replace(MODEL_PLACEHOLDER, model): _fill_model_name(value, model)
            for name, value in example.items()
        }
    if isinstance(example, (list, tuple)):
        return [_fill_model_name(value, model) for value in example]
    return example.replace(MODEL_PLACEHOLDER, model) if isinstance(example, str) else example


def _operation(endpoint: Endpoint) -> dict[str, Any]:
    requires_key = InvalidApiKey in endpoint.errors
    operation: dict[str, Any] = {
        "operationId": re.sub(r"\W+", "_", f"{endpoint.method}{endpoint.path}").strip("_"),
        "tags": [endpoint.tag],
        "summary": endpoint.summary,
        "description": endpoint.description,
        "security": [{}, {"key": []}] if requires_key else [],
        "responses": _responses(endpoint),
    }
    if endpoint.path_examples:
        operation["parameters"] = [
            _path_parameter(name, *about) for name, about in endpoint.path_examples.items()
        ]
    if endpoint.path_values:
        operation["parameters"][0]["schema"]["enum"] = list(endpoint.path_values)
    if endpoint.parameters:
        operation.setdefault("parameters", []).extend(map(_parameter, endpoint.parameters))
    if endpoint.request_schema:
        content = {
            "application/json": {
                "schema": _schema_ref(endpoint.request_schema),
                "examples": _examples(endpoint.examples),
            }
        }
        if endpoint.form_schema:
            content["multipart/form-data"] = {"schema": _schema_ref(endpoint.form_schema)}
        operation["requestBody"] = {"required": True, "content": content}
    return operation


def _parameter(parameter: Parameter) -> dict[str, Any]:
    return {
        "name": parameter.name,
        "in": parameter.location,
        "schema": {"type": parameter.json_type},
        "description": parameter.description,
    }


def _path_parameter(name: str, description: str, values: tuple[str, ...]) -> dict[str, Any]:
    return {
        "name": name,
        "in": "path",
        "required": True,
        "schema": {"type": "string"},
        "description": description,
        "examples": _examples({value: value for value in values}),
    }


def _examples(values: Mapping[str, Any]) -> dict[str, Any]:
    return {name: {"summary": name, "value": value} for name, value in values.items()}


def _responses(endpoint: Endpoint) -> dict[str, Any]:
    responses = {
        str(status): _reply(reply) for status, reply in endpoint.replies.items()
    } | failures.error_responses(endpoint.errors)
    if endpoint.request_schema:
        responses["200"]["headers"] = failures.header_refs("x-request-id", "server-timing")
        responses["default"] = {
            "description": "The upstream's own error, as it came.",
            "content": {"application/json": {}},
        }
    return responses


def _reply(reply: Reply) -> dict[str, Any]:
    content: dict[str, Any] = {
        "application/json": {"schema": _schema_ref(reply.schema), "example": reply.example}
    }
    if reply.chunk_schema:
        content["text/event-stream"] = _stream_content(reply.chunk_schema, reply)
    return {"description": reply.description, "content": content}


def _stream_content(chunk: type[BaseModel], reply: Reply) -> dict[str, Any]:
    """A streamed reply: text whose events each hold one chunk as JSON."""
    events = [b"data: " + orjson.dumps(event) + b"\n\n" for event in reply.example_chunks]
    lost = next(sample for sample in failures.SAMPLE_ERRORS if isinstance(sample, WorkerLost))
    broken = b"".join(events[:-1]) + b"data: " + lost.encode_body() + b"\n\n"
    return {
        "schema": {
            "type": "string",
            "contentMediaType": "text/event-stream",
            "contentSchema": {"type": "array", "items": _schema_ref(chunk)},
            "description": f"Events: each one's data is a {chunk.__name__}, the last one's "
            f"is [DONE].",
        },
        "examples": _examples(
            {
                "complete": (b"".join(events) + DONE_EVENT).decode(),
                "broken off by an error": broken.decode(),
            }
        ),
    }


def _schema_ref(schema: type[BaseModel]) -> dict[str, str]:
    return {"$ref": _SCHEMA_REF.format(model=schema.__name__)}


class _UntitledJsonSchema(GenerateJsonSchema):
    """Without titles that only repeat the fields' names."""

    def field_title_should_be_set(self, schema: Any) -> bool:
        return False


@cache
def _schemas() -> dict[str, Any]:
    """The schemas that the table names, and those that they name."""
    named: dict[type[BaseModel], None] = {ErrorReply: None}
    for endpoint in (*ENDPOINTS, *REQUEST_ENDPOINTS):
        named.update(dict.fromkeys(filter(None, (endpoint.request_schema, endpoint.form_schema))))
        for reply in endpoint.replies.values():
            named[reply.schema] = None
            if reply.chunk_schema:
                named[reply.chunk_schema] = None
    _, found = models_json_schema(
        [(schema, "validation") for schema in named],
        schema_generator=_UntitledJsonSchema,
        ref_template=_SCHEMA_REF,
    )
    definitions: dict[str, Any] = found["$defs"]
    return definitions
