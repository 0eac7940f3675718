"""The `openai` SDK against a running server: every kind of request once, with OpenAI and with
AsyncOpenAI.

usage: .venv/bin/python test.py [--base-url http://127.0.0.1:8000/v1] [--model MODEL] [--api-key
KEY]

Prints a line for each; the exit status is 1 if any failed. Without --model it is the first that the
server lists.
"""

import argparse
import asyncio
import sys
from collections.abc import Awaitable, Callable

from openai import APIConnectionError, AsyncOpenAI, OpenAI, OpenAIError
from openai.types.chat import ChatCompletionUserMessageParam

PROMPT = "Count to ten."
MESSAGES: list[ChatCompletionUserMessageParam] = [{"role": "user", "content": PROMPT}]
MAX_TOKENS = 32  # of the text completions, which have no natural end


def list_models(client: OpenAI) -> str:
    return ", ".join(model.id for model in client.models.list())


def chat(client: OpenAI, model: str) -> str:
    completion = client.chat.completions.create(model=model, messages=MESSAGES)
    return completion.choices[0].message.content or ""


def stream_chat(client: OpenAI, model: str) -> str:
    stream = client.chat.completions.create(model=model, messages=MESSAGES, stream=True)
    return "".join(chunk.choices[0].delta.content or "" for chunk in stream if chunk.choices)


def complete(client: OpenAI, model: str) -> str:
    completion = client.completions.create(
        model=model, prompt=PROMPT, max_tokens=MAX_TOKENS, temperature=0
    )
    return completion.choices[0].text


def stream_complete(client: OpenAI, model: str) -> str:
    stream = client.completions.create(
        model=model, prompt=PROMPT, max_tokens=MAX_TOKENS, temperature=0, stream=True
    )
    return "".join(chunk.choices[0].text for chunk in stream if chunk.choices)


async def list_models_async(client: AsyncOpenAI) -> str:
    return ", ".join([model.id async for model in client.models.list()])


async def chat_async(client: AsyncOpenAI, model: str) -> str:
    completion = await client.chat.completions.create(model=model, messages=MESSAGES)
    return completion.choices[0].message.content or ""


async def stream_chat_async(client: AsyncOpenAI, model: str) -> str:
    stream = await client.chat.completions.create(model=model, messages=MESSAGES, stream=True)
    return "".join(
        [chunk.choices[0].delta.content or "" async for chunk in stream if chunk.choices]
    )


async def complete_async(client: AsyncOpenAI, model: str) -> str:
    completion = await client.completions.create(
        model=model, prompt=PROMPT, max_tokens=MAX_TOKENS, temperature=0
    )
    return completion.choices[0].text


async def stream_complete_async(client: AsyncOpenAI, model: str) -> str:
    stream = await client.completions.create(
        model=model, prompt=PROMPT, max_tokens=MAX_TOKENS, temperature=0, stream=True
    )
    return "".join([chunk.choices[0].text async for chunk in stream if chunk.choices])


async def attempt(name: str, request: Callable[[], str | Awaitable[str]]) -> bool:
    """Runs one example and prints its line; whether it brought any text."""
    try:
        answer = request()
        text = answer if isinstance(answer, str) else await answer
        good, said = bool(text), text or "the answer is empty"
    except OpenAIError as error:
        good, said = False, f"{type(error).__name__}: {error}"
    print(f"{'ok' if good else 'FAILED':6}  {name:36}  {said!r}", flush=True)
    return good


async def run(base_url: str, model: str, api_key: str) -> bool:
    """Runs all examples; whether all were good."""
    client = OpenAI(base_url=base_url, api_key=api_key)
    try:
        client.with_options(max_retries=0).models.list()
    except APIConnectionError as error:
        print(
            f"test.py: no server answers at {base_url} ({error.__cause__ or error}); start "
            f"one, or name it with --base-url"
        )
        return False
    except OpenAIError:
        pass  # its line comes below
    good = [await attempt("OpenAI, model list", lambda: list_models(client))]
    if good == [True]:
        model = model or client.models.list().data[0].id
    async with AsyncOpenAI(base_url=base_url, api_key=api_key) as aclient:
        good += [
            await attempt("OpenAI, chat", lambda: chat(client, model)),
            await attempt("OpenAI, chat, stream", lambda: stream_chat(client, model)),
            await attempt("OpenAI, text completion", lambda: complete(client, model)),
            await attempt(
                "OpenAI, text completion, stream", lambda: stream_complete(client, model)
            ),
            await attempt("AsyncOpenAI, model list", lambda: list_models_async(aclient)),
            await attempt("AsyncOpenAI, chat", lambda: chat_async(aclient, model)),
            await attempt("AsyncOpenAI, chat, stream", lambda: stream_chat_async(aclient, model)),
            await attempt("AsyncOpenAI, text completion", lambda: complete_async(aclient, model)),
            await attempt(
                "AsyncOpenAI, text completion, stream",
                lambda: stream_complete_async(aclient, model),
            ),
        ]
    return all(good)


def main() -> int:
    parser = argparse.ArgumentParser(
        description="every kind of request once, with the openai SDK, to a running server"
    )
    parser.add_argument("--base-url", default="http://127.0.0.1:8000/v1")
    parser.add_argument("--model", default="", help="default: the first that the server lists")
    parser.add_argument(
        "--api-key", default="none", help="one of the server's API_KEYS, where it has any"
    )
    options = parser.parse_args()
    return 0 if asyncio.run(run(options.base_url, options.model, options.api_key)) else 1


if __name__ == "__main__":
    sys.exit(main())
