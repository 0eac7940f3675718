"""Logs: readable lines on a terminal, JSON lines elsewhere, and at most one line a second of a kind
from a library.
"""

import logging
import sys
import time
from functools import lru_cache
from textwrap import indent
from typing import Any

import orjson

from app.config.settings import LogSettings
from app.telemetry.printable import escape_unprintable, escape_unprintable_json

_STANDARD_ATTRIBUTES = frozenset(logging.makeLogRecord({}).__dict__) | {
    "message",
    "asctime",
    "color_message",
    "taskName",
}


class JsonFormatter(logging.Formatter):
    """One JSON object a line: time, level, logger, message, and what `extra=` added (such as
    request_id).
    """

    def format(self, record: logging.LogRecord) -> str:
        line = {
            "time": f"{_format_second(int(record.created))}.{int(record.msecs):03d}Z",
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
            **extra_fields(record),
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        # containers' logs are read on terminals too
        return escape_unprintable_json(orjson.dumps(line, default=str))


@lru_cache(maxsize=4)
def _format_second(unix_seconds: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(unix_seconds))


class TextFormatter(logging.Formatter):
    """Format a record as a line for a person; `extra=` members stand as name=value behind the
    message.
    """

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)-7s %(name)s: %(message)s", "%H:%M:%S")

    def formatMessage(self, record: logging.LogRecord) -> str:
        line = " ".join(
            [
                super().formatMessage(record),
                *(f"{name}={value}" for name, value in extra_fields(record).items()),
            ]
        )
        # what a client sends makes no line of its own, and looks like what it is
        return escape_unprintable(line)

    def formatException(self, ei: Any) -> str:
        """Return a traceback, indented: a message in it may be of several lines, and none of them
        begins like a log line.
        """
        return indent(escape_unprintable(super().formatException(ei), keep="\n"), "  ")


def extra_fields(record: logging.LogRecord) -> dict[str, object]:
    return {
        name: value for name, value in record.__dict__.items() if name not in _STANDARD_ATTRIBUTES
    }


class Throttle(logging.Filter):
    """Lets one line of a kind through in so many seconds; lines of a kind have their format and
    first argument in common.
    """

    def __init__(self, interval_seconds: float = 1.0) -> None:
        super().__init__()
        self._interval_seconds = interval_seconds
        self._last_logged_at: dict[str, float] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        first = record.args[0] if isinstance(record.args, tuple) and record.args else ""
        kind = f"{record.levelno} {record.msg} {first if isinstance(first, str) else ''}"
        if len(self._last_logged_at) > 1000:
            self._last_logged_at.clear()
        if record.created - self._last_logged_at.get(kind, 0.0) < self._interval_seconds:
            return False
        self._last_logged_at[kind] = record.created
        return True


_uvicorn_throttle = Throttle()  # it has a line for each client that speaks no HTTP


def set_up(settings: LogSettings, min_level: str = "") -> None:
    """Takes over the root logger and uvicorn's; access lines are our own, so uvicorn's are off.

    `min_level`: a level for commands that talk to a person and log only what goes wrong.
    """
    # Who logged and from where is in no line of ours; finding it out costs more than the line.
    # https://docs.python.org/3/howto/logging.html#optimization
    logging._srcfile = None
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False
    handler = logging.StreamHandler(sys.stderr)
    as_text = settings.format == "text" or (not settings.format and sys.stderr.isatty())
    handler.setFormatter(TextFormatter() if as_text else JsonFormatter())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(min_level or settings.level.upper())
    for name in ("uvicorn", "uvicorn.error"):
        logging.getLogger(name).handlers[:] = []
        logging.getLogger(name).propagate = True
        logging.getLogger(name).addFilter(_uvicorn_throttle)
    logging.getLogger("uvicorn.access").disabled = True
