"""Embeddings, and paths that the gateway does not know but a model's upstream may."""

import httpx2
import pytest
from openai import AsyncOpenAI, NotFoundError

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
    assert (
        [item.embedding for item in by_default.data]
        == [item.embedding for item in as_floats.data]
        == VECTORS
    )


async def test_what_lives_at_the_upstreams_root_is_found_there(
    site: Site, http: httpx2.AsyncClient
) -> None:
    reranked = await http.post(
        "/v1/rerank", json={"model": "sim", "query": "q", "documents": ["a", "b"]}
    )
    counted = await http.post("/api/v1/tokenize", json={"model": "sim", "prompt": "one two three"})
    assert [result["index"] for result in reranked.json()["results"]] == [1, 0]
    assert counted.json()["count"] == 3
    assert [seen.path for seen in (await site.upstream.stats()).requests[-2:]] == [
        "/rerank",
        "/tokenize",
    ]


async def test_a_path_that_the_upstream_has_not_is_its_own_404(http: httpx2.AsyncClient) -> None:
    response = await http.post("/v1/moderations", json={"model": "sim", "input": "x"})
    assert (response.status_code, response.content) == (404, b"404: Not Found")


async def test_a_query_string_reaches_the_upstream(site: Site, http: httpx2.AsyncClient) -> None:
    response = await http.post(
        "/v1/embeddings?api-version=2&x=a%20b", json={"model": "sim", "input": "x"}
    )
    assert response.status_code == 200
    assert (await site.upstream.last()).path == "/v1/embeddings?api-version=2&x=a%20b"


async def test_a_response_streams_events_with_their_names(http: httpx2.AsyncClient) -> None:
    body = {"model": "sim", "input": "hello", "stream": True, "max_output_tokens": 3}
    response = await http.post("/v1/responses", json=body)
    assert response.content == b"".join(numbered.response_events(body, 3))


async def test_the_sdk_reads_a_streamed_response(sdk: AsyncOpenAI) -> None:
    stream = await sdk.responses.create(
        model="sim", input="hello", stream=True, max_output_tokens=3
    )
    found = [event async for event in stream]
    assert [event.type for event in found] == [
        "response.created",
        *["response.output_text.delta"] * 3,
        "response.completed",
    ]
    assert "".join(
        event.delta for event in found if event.type == "response.output_text.delta"
    ) == numbered.tokens(3)


# some bytes like a form's own
SPEECH = ("speech.wav", b"RIFF\r\n--\r\n" + bytes(range(256)) * 3500, "audio/wav")


@pytest.mark.parametrize("model", ["sim", "nick/name"])
async def test_the_sdk_has_a_file_transcribed(sdk: AsyncOpenAI, site: Site, model: str) -> None:
    heard = await sdk.audio.transcriptions.create(
        model=model, file=SPEECH, language="en", timestamp_granularities=["word"]
    )
    assert heard.text == f"{numbered.file(*SPEECH[:2])} of sim"
    seen = await site.upstream.last()
    assert seen.path == "/v1/audio/transcriptions"
    assert seen.headers["content-type"].startswith("multipart/form-data; boundary=")
    assert b'name="timestamp_granularities[]"\r\n\r\nword\r\n' in seen.body


async def test_a_transcription_streams(sdk: AsyncOpenAI) -> None:
    stream = await sdk.audio.transcriptions.create(model="sim", file=SPEECH, stream=True)
    assert [event.type async for event in stream] == [
        "transcript.text.delta",
        "transcript.text.done",
    ]


async def test_the_same_form_sent_again_with_its_key_is_not_run_again(
    sdk: AsyncOpenAI, site: Site
) -> None:
    """Each time the SDK makes up another boundary."""
    before, key = (await site.upstream.stats()).started, {"Idempotency-Key": "a-form"}
    for _ in range(2):
        heard = await sdk.audio.transcriptions.create(model="sim", file=SPEECH, extra_headers=key)
        assert heard.text.startswith("speech.wav: ")
    assert (await site.upstream.stats()).started == before + 1


async def test_a_form_without_a_model_is_refused_with_its_place(http: httpx2.AsyncClient) -> None:
    refused = await http.post(
        "/v1/audio/transcriptions", files={"file": SPEECH}, data={"language": "en"}
    )
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, "model")


async def test_the_sdk_is_told_that_files_and_responses_are_not_kept(sdk: AsyncOpenAI) -> None:
    for asked in (
        sdk.files.create(file=SPEECH, purpose="assistants"),
        sdk.responses.retrieve("resp_1"),
    ):
        with pytest.raises(NotFoundError, match="This gateway keeps no files"):
            await asked


async def test_speech_arrives_byte_for_byte(sdk: AsyncOpenAI) -> None:
    spoken = await sdk.audio.speech.create(model="nickname", voice="alloy", input="hello")
    assert spoken.content == numbered.sound("hello")
    assert spoken.response.headers["content-type"] == "audio/mpeg"
