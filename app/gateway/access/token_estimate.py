"""About how many tokens a request costs, while nobody knows, and how many it has cost in the
end.
"""

import re

from app.gateway.http.asgi import RawHeaders
from app.inference.submission import Submission
from app.openai_api.bodies import is_text_content_type
from app.openai_api.sse import count_events

_BYTES_A_TOKEN = 4
_TOKENS_A_FILE = 1000  # an image or the like inside the body
_FILE = re.compile(rb'"data:[^"]{100,}"')
# inside a text the quotes are escaped
_MOST = re.compile(rb'"max_(?:completion_|output_)?tokens"\s*:\s*(\d{1,9})')


class TokenEstimate:
    """Of one request. `before`: the body's size, and the most that it asks for; a form is one
    file.
    """

    __slots__ = ("_is_file", "_prompt", "_seen", "_stream", "before")

    def __init__(self, submission: Submission) -> None:
        body, is_form = submission.body, bool(submission.content_type)
        files = [len(body)] if is_form else [len(found[0]) for found in _FILE.finditer(body)]
        most = None if is_form else _MOST.search(body)
        self._prompt = (len(body) - sum(files)) // _BYTES_A_TOKEN + len(files) * _TOKENS_A_FILE
        self._stream = submission.stream
        self._seen = 0
        self._is_file = False
        self.before = max(1, self._prompt + (int(most[1]) if most else 0))

    def begins(self, headers: RawHeaders) -> None:
        """The reply: sound or an image is a file, whatever its size."""
        if not is_text_content_type(dict(headers).get(b"content-type", b"").decode("latin-1")):
            self._is_file = True
            self._seen += _TOKENS_A_FILE

    def saw(self, data: bytes) -> None:
        """Count a piece of the reply; of a stream it holds whole events, each of which is about a
        token.
        """
        if not self._is_file:
            self._seen += count_events(data) if self._stream else len(data) // _BYTES_A_TOKEN

    def after(self, line: dict[str, object], status: int) -> int | None:
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
        return None if status == 202 else self._prompt + self._seen
