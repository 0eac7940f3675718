"""The OpenAPI document: complete, coherent, and its examples work as they stand."""

import json

import orjson
import pytest
from openai.types import completion_create_params, embedding_create_params
from openai.types.chat import completion_create_params as chat_create_params

from app import errors
from app.errors import GatewayError
from app.gateway.openapi import build_document, replies, requests
from app.gateway.openapi.endpoint import MODEL_PLACEHOLDER
from app.gateway.openapi.endpoints import ENDPOINTS
from app.gateway.openapi.failures import SAMPLE_ERRORS
from app.gateway.openapi.request_endpoints import REQUEST_ENDPOINTS
from app.openai_api.bodies import check_body
from app.openai_api.endpoints import ENDPOINTS as INFERENCE
from app.openai_api.sse import extract_event_data, split_events

POSTS = [endpoint.path for endpoint in ENDPOINTS if endpoint.request_schema]
NEVER_WITH_A_BODY = (errors.RequestNotFound, errors.MethodNotAllowed)
HAD_BY_ALL = ("/v1/chat/completions", "/v1/completions")
ALL = [(endpoint.path, endpoint.method) for endpoint in ENDPOINTS]


def nodes(value):
    """Every object in the document, at every depth."""
    if isinstance(value, dict):
        yield value
    for inner in (
        value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    ):
        yield from nodes(inner)


def request_examples(path, model="echo"):
    content = build_document([model])["paths"][path]["post"]["requestBody"]["content"][
        "application/json"
    ]
    return [example["value"] for example in content["examples"].values()]


def tree(root=GatewayError):
    return {kind for child in root.__subclasses__() for kind in {child} | tree(child)}


def test_every_reference_leads_somewhere():
    whole = build_document(["a"])
    references = [node["$ref"] for node in nodes(whole) if "$ref" in node]
    assert len(references) > 50
    for reference in references:
        _, _, kind, name = reference.split("/")
        assert name in whole["components"][kind], reference


def test_the_document_is_json_as_it_stands():
    assert orjson.loads(orjson.dumps(build_document(["a"]))) == build_document(["a"])


def test_every_path_that_is_served_to_all_models_is_in_the_document():
    whole = build_document([])["paths"]
    (parameter,) = (one for one in whole["/v1/{path}"]["post"]["parameters"] if one["in"] == "path")
    others = {f"/v1/{path}" for path in parameter["schema"]["enum"]}
    assert others | {path for path in POSTS if "{" not in path} == {
        f"/v1{path}" for path in INFERENCE
    }
    assert set(parameter["examples"]) <= set(parameter["schema"]["enum"])


def test_operation_ids_differ():
    ids = [
        operation["operationId"]
        for item in build_document([])["paths"].values()
        for operation in item.values()
    ]
    assert len(ids) == len(set(ids)) == len(ENDPOINTS) + len(REQUEST_ENDPOINTS)


@pytest.mark.parametrize("models", [["org/m-1", "b"], []])
def test_examples_name_the_first_model_there_is(models):
    whole = build_document(models)
    text = json.dumps(whole)
    assert MODEL_PLACEHOLDER not in text
    first = models[0] if models else "echo"
    assert whole["paths"]["/v1/models/{model}"]["get"]["parameters"][0]["examples"] == {
        first: {"summary": first, "value": first}
    }
    assert all(f"`{name}`" in whole["info"]["description"] for name in models or ["echo"])


@pytest.mark.parametrize("path", POSTS)
def test_request_examples_pass_our_own_validation_and_their_schema(path):
    schema = next(endpoint.request_schema for endpoint in ENDPOINTS if endpoint.path == path)
    for example in request_examples(path, "org/m"):
        assert check_body(path.removeprefix("/v1"), orjson.dumps(example)).model == "org/m"
        schema.model_validate(example)


@pytest.mark.parametrize("path", HAD_BY_ALL)
def test_there_is_a_whole_and_a_streamed_example(path):
    assert {bool(example.get("stream")) for example in request_examples(path)} == {False, True}


@pytest.mark.parametrize("endpoint", ENDPOINTS, ids=lambda endpoint: endpoint.path)
def test_reply_examples_fit_their_schema(endpoint):
    operation = build_document(["a"])["paths"][endpoint.path][endpoint.method]
    for status, reply in endpoint.replies.items():
        example = operation["responses"][str(status)]["content"]["application/json"]["example"]
        assert set(reply.schema.model_validate(example).model_dump(exclude_unset=True)) == set(
            example
        )
        assert (
            set(example) <= set(reply.schema.model_fields) or reply.schema is replies.UpstreamReply
        )


@pytest.mark.parametrize(
    ("path", "chunk"),
    [
        ("/v1/chat/completions", replies.ChatCompletionChunk),
        ("/v1/completions", replies.Completion),
    ],
)
def test_streamed_examples_are_events_whose_data_fits_the_chunk(path, chunk):
    stream = build_document(["a"])["paths"][path]["post"]["responses"]["200"]["content"][
        "text/event-stream"
    ]
    assert stream["schema"]["contentSchema"]["items"]["$ref"].endswith(f"/{chunk.__name__}")
    *chunks, done = [
        extract_event_data(event)
        for event in split_events(stream["examples"]["complete"]["value"].encode())
    ]
    assert done == b"[DONE]"
    assert [chunk.model_validate_json(data).model for data in chunks] == ["a"] * len(chunks)
    *_, last = split_events(stream["examples"]["broken off by an error"]["value"].encode())
    assert (
        replies.ErrorReply.model_validate_json(extract_event_data(last)).error.code == "worker_lost"
    )


def test_every_error_that_we_raise_has_a_sample():
    assert {type(sample) for sample in SAMPLE_ERRORS} == tree()
    assert len(SAMPLE_ERRORS) == len(tree())


@pytest.mark.parametrize("path", POSTS)
def test_each_status_of_the_error_tree_is_described_with_its_bodies(path):
    responses = build_document([])["paths"][path]["post"]["responses"]
    for sample in SAMPLE_ERRORS:
        if isinstance(sample, NEVER_WITH_A_BODY) or (
            isinstance(sample, errors.UnknownUrl) and path in HAD_BY_ALL
        ):
            continue
        described = responses[str(sample.status)]["content"]["application/json"]["examples"]
        assert described[sample.code or sample.type]["value"] == orjson.loads(sample.encode_body())


def test_headers_that_steer_a_retry_are_described_where_they_come():
    responses = build_document([])["paths"]["/v1/completions"]["post"]["responses"]
    assert {
        status for status, reply in responses.items() if "retry-after" in reply.get("headers", ())
    } == {"429", "503"}
    assert "x-should-retry" in responses["504"]["headers"]
    assert all(
        "x-request-id" in reply["headers"]
        for status, reply in responses.items()
        if status[0] in "45"
    )
    assert set(responses["200"]["headers"]) == {"x-request-id", "server-timing"}


@pytest.mark.parametrize(("path", "method"), ALL)
def test_a_key_is_asked_for_except_where_health_is_told(path, method):
    operation = build_document([])["paths"][path][method]
    open_to_all = path in ("/healthz", "/readyz")
    assert ({"key": []} in operation["security"]) is not open_to_all
    assert ("401" in operation["responses"]) is not open_to_all
    told = [
        status
        for status, reply in operation["responses"].items()
        if "www-authenticate" in reply.get("headers", ())
    ]
    assert told == ([] if open_to_all else ["401"])


@pytest.mark.parametrize(
    ("schema", "known"),
    [
        (requests.ChatCompletionRequest, chat_create_params.CompletionCreateParamsBase),
        (requests.CompletionRequest, completion_create_params.CompletionCreateParamsBase),
        (requests.EmbeddingRequest, embedding_create_params.EmbeddingCreateParams),
    ],
)
def test_every_field_that_the_openai_sdk_knows_is_described(schema, known):
    fields = schema.model_json_schema()["properties"]
    assert set(known.__annotations__) - set(fields) == set()
    assert all(field.get("description") for field in fields.values())


@pytest.mark.parametrize("path", POSTS)
def test_further_fields_are_allowed(path):
    whole = build_document([])
    reference = whole["paths"][path]["post"]["requestBody"]["content"]["application/json"][
        "schema"
    ]["$ref"]
    assert (
        whole["components"]["schemas"][reference.rpartition("/")[2]]["additionalProperties"] is True
    )
