"""About how many tokens a request costs, while nobody knows, and how many it has cost in the
end.
"""

import re

from app.gateway.http.asgi import RawHeaders
from app.inference.submission import Submission
from app.openai_api.bodies import is_text_content_type
from app.openai_api.sse import count_events

_BYTES_PER_TOKEN = 4
_TOKENS_PER_FILE = 1000  # an image or the like inside the body
_FILE_PATTERN = re.compile(rb'"data:[^"]{100,}"')
# inside a text the quotes are escaped
_MAX_TOKENS_PATTERN = re.compile(rb'"max_(?:completion_|output_)?tokens"\s*:\s*(\d{1,9})')


class TokenEstimate:
    """Of one request. `initial_tokens`: the body's size, and the most that it asks for; a form is
    one file.
    """

    __slots__ = ("_is_file", "_is_stream", "_prompt_tokens", "_reply_tokens", "initial_tokens")

    def __init__(self, submission: Submission) -> None:
        body, is_form = submission.body, bool(submission.content_type)
        file_bytes = (
            [len(body)] if is_form else [len(found[0]) for found in _FILE_PATTERN.finditer(body)]
        )
        max_tokens_match = None if is_form else _MAX_TOKENS_PATTERN.search(body)
        self._prompt_tokens = (len(body) - sum(file_bytes)) // _BYTES_PER_TOKEN + len(
            file_bytes
        ) * _TOKENS_PER_FILE
        self._is_stream = submission.stream
        self._reply_tokens = 0
        self._is_file = False
        self.initial_tokens = max(
            1, self._prompt_tokens + (int(max_tokens_match[1]) if max_tokens_match else 0)
        )

    def add_reply_headers(self, headers: RawHeaders) -> None:
        """The reply: sound or an image is a file, whatever its size."""
        if not is_text_content_type(dict(headers).get(b"content-type", b"").decode("latin-1")):
            self._is_file = True
            self._reply_tokens += _TOKENS_PER_FILE

    def add_reply_data(self, data: bytes) -> None:
        """Count a piece of the reply; of a stream it holds whole events, each of which is about a
        token.
        """
        if not self._is_file:
            self._reply_tokens += (
                count_events(data) if self._is_stream else len(data) // _BYTES_PER_TOKEN
            )

    def count_final_tokens(self, line: dict[str, object], status: int) -> int | None:
        """From a request's access line and status; None: it is another's, which was joined (202),
        so the estimate stays.
        """
        if status >= 400 or "request_id" not in line:
            return 0  # refused, or failed without a token
        if usage := [
            line[name]
            for name in ("prompt_tokens", "completion_tokens")
            if isinstance(line.get(name), int)
        ]:
            return sum(usage)  # type: ignore[arg-type]
        line["tokens_estimated"] = True
        return None if status == 202 else self._prompt_tokens + self._reply_tokens
