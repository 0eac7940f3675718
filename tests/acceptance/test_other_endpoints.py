"""Embeddings, and paths that the gateway does not know but a model's upstream may."""

import httpx2
import pytest
from openai import AsyncOpenAI

from tests import numbered
from tests.acceptance.conftest import Site

INPUTS = [f"text {number}" for number in range(2048)]
VECTORS = [numbered.vector(number) for number in range(2048)]
REPLY_RECORD = 512 * 1024  # bytes: a longer reply is several records


@pytest.mark.parametrize("encoding", ["base64", "float"])
async def test_2048_embeddings_arrive_in_one_reply(http: httpx2.AsyncClient, encoding: str) -> None:
    body = {"model": "sim", "input": INPUTS, "encoding_format": encoding}
    response = await http.post("/v1/embeddings", json=body)
    assert len(response.content) > REPLY_RECORD
    assert response.json() == numbered.embeddings(body)


async def test_the_sdk_reads_2048_embeddings(sdk: AsyncOpenAI) -> None:
    by_default = await sdk.embeddings.create(model="sim", input=INPUTS)
    as_floats = await sdk.embeddings.create(model="sim", input=INPUTS, encoding_format="float")
    assert [item.embedding for item in by_default.data] == [item.embedding for item in as_floats.data] == VECTORS


async def test_what_lives_at_the_upstreams_root_is_found_there(site: Site, http: httpx2.AsyncClient) -> None:
    reranked = await http.post("/v1/rerank", json={"model": "sim", "query": "q", "documents": ["a", "b"]})
    counted = await http.post("/api/v1/tokenize", json={"model": "sim", "prompt": "one two three"})
    assert [result["index"] for result in reranked.json()["results"]] == [1, 0]
    assert counted.json()["count"] == 3
    assert [seen.path for seen in (await site.upstream.stats()).requests[-2:]] == ["/rerank", "/tokenize"]


async def test_a_path_that_the_upstream_has_not_is_its_own_404(http: httpx2.AsyncClient) -> None:
    response = await http.post("/v1/moderations", json={"model": "sim", "input": "x"})
    assert (response.status_code, response.content) == (404, b"404: Not Found")


async def test_a_query_string_reaches_the_upstream(site: Site, http: httpx2.AsyncClient) -> None:
    response = await http.post("/v1/embeddings?api-version=2&x=a%20b", json={"model": "sim", "input": "x"})
    assert response.status_code == 200
    assert (await site.upstream.last()).path == "/v1/embeddings?api-version=2&x=a%20b"


async def test_a_response_streams_events_with_their_names(http: httpx2.AsyncClient) -> None:
    body = {"model": "sim", "input": "hello", "stream": True, "max_output_tokens": 3}
    response = await http.post("/v1/responses", json=body)
    assert response.content == b"".join(numbered.response_events(body, 3))


async def test_the_sdk_reads_a_streamed_response(sdk: AsyncOpenAI) -> None:
    stream = await sdk.responses.create(model="sim", input="hello", stream=True, max_output_tokens=3)
    found = [event async for event in stream]
    assert [event.type for event in found] == [
        "response.created",
        *["response.output_text.delta"] * 3,
        "response.completed",
    ]
    assert "".join(event.delta for event in found if event.type == "response.output_text.delta") == numbered.tokens(3)
