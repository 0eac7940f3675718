"""The built-in demonstration model: it repeats what it is told. Deterministic, one word is one
token.
"""

import asyncio
import re
from collections.abc import Iterator
from typing import Any

import orjson

from app.agent.engines.base import MOST_READ, EngineBroken, Job, Take
from app.agent.engines.echo_reply import Choice, Reply
from app.config.model_entry import ModelEntry
from app.config.settings import WorkerSettings
from app.errors import BadRequest, GatewayError, InvalidBody, UnknownUrl
from app.openai_api.endpoints import find_endpoint

BETWEEN_WORDS = 0.02  # seconds
MAX_N = 128
MAX_ITEMS = 4096  # of messages, of a message's parts, of prompts
MAX_CHOICES = 512  # of all prompts together
MAX_STOPS = 16
MAX_REPLY = 256 * 1024  # characters of all choices together
SLICE = 64 * 1024  # characters whose words are counted in one turn of the event loop

_WORD = re.compile(r"\s*\S+|\s+")  # a word takes the space before it along, as most tokenizers do

_HELP = (
    "I am the built-in demonstration model, which repeats what it is told: for a "
    "real one, set FIRST_OPENAI_HOST and "
    "FIRST_OPENAI_MODEL_NAME (or describe several in MODELS_FILE) and start again."
)


class EchoAnswer:
    """A reply in pieces, with a pause before each but the first."""

    def __init__(
        self, status: int, content_type: str, pieces: Iterator[bytes], pause: float
    ) -> None:
        self.status = status
        self.headers = (("content-type", content_type),)
        self.is_stream = content_type == "text/event-stream"
        self._pieces = pieces
        self._pause = pause
        self._closed = False

    async def read(self, most: int = MOST_READ) -> bytes:
        pieces: list[bytes] = []
        await self.relay(pieces.append)
        return b"".join(pieces)

    async def relay(self, take: Take) -> None:
        for number, piece in enumerate(self._pieces):
            if number:
                await asyncio.sleep(self._pause)
            if self._closed:
                raise EngineBroken("the answer was closed")
            if (pause := take(piece)) is not None:
                await pause

    async def close(self) -> None:
        self._closed = True


class EchoEngine:
    def __init__(
        self, entry: ModelEntry, settings: WorkerSettings, *, pause: float = BETWEEN_WORDS
    ) -> None:
        self._continues = entry.continues is True
        self._pause = pause

    async def start(self) -> None:
        pass

    async def close(self) -> None:
        pass

    async def check(self) -> str:
        return ""

    async def continues(self) -> bool:
        """Only where the entry says so: chats are continued, a text completion's prompt would just
        be repeated.
        """
        return self._continues

    async def call(self, job: Job) -> EchoAnswer:
        try:
            reply = await _reply(job)
        except GatewayError as error:
            return EchoAnswer(
                error.status,
                "application/json",
                iter([find_endpoint(job.path).encode_error_body(error)]),
                0,
            )
        if job.stream:
            return EchoAnswer(200, "text/event-stream", reply.events(), self._pause)
        return EchoAnswer(200, "application/json", iter([orjson.dumps(reply.whole())]), 0)


async def _reply(job: Job) -> Reply:
    """Raises GatewayError kinds, whose status and body become the answer.

    Costs time in proportion to the prompt, in several turns of the event loop, and no more for more
    choices.
    """
    path = job.path.partition("?")[0]
    if path not in ("/chat/completions", "/completions"):
        raise UnknownUrl(
            f"the built-in demonstration model has no {path}, only /chat/completions and "
            f"/completions"
        )
    body = _parsed(job.body)
    chat = path == "/chat/completions"
    prompts, texts = _chat(body) if chat else _completion(body)
    limit, stops, n = _limit(body), _stops(body), _count(body, "n") or 1
    if n > MAX_N:
        raise BadRequest(f"n is at most {MAX_N}", param="n")
    if n * len(texts) > MAX_CHOICES:
        raise BadRequest(f"n times the number of prompts is at most {MAX_CHOICES}", param="n")
    share = MAX_REPLY // (n * len(texts))
    cut = [_cut(text, stops, limit, share) for text in texts]
    options = body.get("stream_options")
    return Reply(
        id=f"{'chatcmpl' if chat else 'cmpl'}-{job.id}",
        model=str(body.get("model", "echo")),
        chat=chat,
        choices=[choice for choice in cut for _ in range(n)],
        prompt_tokens=sum([await _count_words(prompt) for prompt in prompts]),
        include_usage=isinstance(options, dict) and options.get("include_usage") is True,
    )


async def _count_words(text: str) -> int:
    count = 0
    for start in range(0, len(text), SLICE):
        if start:
            await asyncio.sleep(0)
        piece = text[start : start + SLICE]
        is_inside_word = start > 0 and not text[start - 1].isspace() and not piece[0].isspace()
        count += len(piece.split()) - is_inside_word
    return count


def _parsed(raw: bytes) -> dict[str, Any]:
    try:
        body = orjson.loads(raw)
    except orjson.JSONDecodeError as error:
        raise InvalidBody(f"the body is not JSON: {error}") from None
    if not isinstance(body, dict):
        raise InvalidBody("the body is not a JSON object")
    return body


def _chat(body: dict[str, Any]) -> tuple[list[str], list[str]]:
    """The messages' texts and the one reply to them."""
    messages = body.get("messages")
    if (
        not isinstance(messages, list)
        or not messages
        or not all(isinstance(message, dict) for message in messages)
    ):
        raise BadRequest("messages is a list of at least one message", param="messages")
    _check_items(messages, "messages")
    contents = [_content(message.get("content")) for message in messages]
    said = next(
        (
            text
            for message, text in zip(messages[::-1], contents[::-1], strict=True)
            if message.get("role") == "user"
        ),
        "",
    )
    reply = _answer_to(said)
    if body.get("continue_final_message") is True:
        if messages[-1].get("role") != "assistant":
            raise BadRequest(
                "continue_final_message needs an assistant's message at the end", param="messages"
            )
        reply = _rest(reply, contents[-1])
    return contents, [reply]


def _completion(body: dict[str, Any]) -> tuple[list[str], list[str]]:
    """The prompts and the reply to each."""
    prompt = body.get("prompt")
    prompts = [prompt] if isinstance(prompt, str) else prompt
    if (
        not isinstance(prompts, list)
        or not prompts
        or not all(isinstance(text, str) for text in prompts)
    ):
        raise BadRequest(
            "prompt is a text or a list of texts; the demonstration model reads no token numbers",
            param="prompt",
        )
    _check_items(prompts, "prompt")
    return prompts, [_answer_to(text) for text in prompts]


def _check_items(items: list[Any], name: str) -> None:
    if len(items) > MAX_ITEMS:
        raise BadRequest(f"{name} has more than {MAX_ITEMS} items", param=name)


def _content(content: Any) -> str:
    """A message's text; what is not text in it is named: [image]."""
    if isinstance(content, list):
        _check_items(content, "messages")
        return " ".join(_part(part) for part in content if isinstance(part, dict))
    return content if isinstance(content, str) else ""


def _part(part: dict[str, Any]) -> str:
    kind = str(part.get("type"))
    return (
        str(part.get("text", ""))
        if kind == "text"
        else f"[{'image' if kind == 'image_url' else kind}]"
    )


def _answer_to(said: str) -> str:
    return f"You said: {said}\n\n{_HELP}" if said else _HELP


def _rest(reply: str, so_far: str) -> str:
    """What comes after the text so far; all of it where that text is not the reply's beginning."""
    return reply[len(so_far) :] if reply.startswith(so_far) else f" {reply}"


def _cut(text: str, stops: list[str], limit: int | None, longest: int) -> Choice:
    """Return the text up to a stop, at most `limit` words and `longest` characters of it."""
    short = text[:longest]
    ends = [at for stop in stops if (at := short.find(stop)) >= 0]
    words = _WORD.findall(short[: min(ends)] if ends else short)
    if limit is not None and len(words) > limit:
        return Choice(words[:limit], "length")
    return Choice(words, "stop" if ends or len(text) <= longest else "length")


def _limit(body: dict[str, Any]) -> int | None:
    newer = _count(body, "max_completion_tokens")
    older = _count(body, "max_tokens")
    return newer if newer is not None else older


def _count(body: dict[str, Any], name: str) -> int | None:
    value = body.get(name)
    if value is not None and (type(value) is not int or value < 1):
        raise BadRequest(f"{name} is a whole number, 1 or more", param=name)
    return value


def _stops(body: dict[str, Any]) -> list[str]:
    stop = body.get("stop")
    stops = [stop] if isinstance(stop, str) else stop or []
    if not isinstance(stops, list) or not all(isinstance(text, str) for text in stops):
        raise BadRequest("stop is a text or a list of texts", param="stop")
    if len(stops) > MAX_STOPS:
        raise BadRequest(f"stop is at most {MAX_STOPS} texts", param="stop")
    return [text for text in stops if text]
