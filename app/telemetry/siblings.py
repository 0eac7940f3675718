"""The metrics of all processes that share a port (`uvicorn --workers`): each tells its own on a
Unix socket beside the others'.

Whichever of them is asked for /metrics answers for all, with the label `pid`, so that no counter
falls back from one scrape to the next because another process answered it.
"""

import asyncio
import logging
import os
import tempfile
from asyncio import StreamReader, StreamWriter
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager, suppress
from pathlib import Path

from prometheus_client import Metric, generate_latest
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector, CollectorRegistry

_ANSWER_SECONDS = 2.0

logger = logging.getLogger("app.telemetry")


class Siblings:
    """The children of one parent process, this one among them."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._registry = registry
        self._own: Path | None = None  # while the others are heard

    @asynccontextmanager
    async def heard(self) -> AsyncIterator[None]:
        """Meanwhile this process answers the others. Where it cannot, it serves all the same, and
        each tells of itself alone.
        """
        try:
            own = _made_directory() / f"{os.getpid()}.sock"
            own.unlink(missing_ok=True)  # of a process of this number that was killed
            server = await asyncio.start_unix_server(self._answer, own)
        except OSError as error:  # also where no directory for temporary files can be written to
            logger.warning(
                "/metrics is that of one process, as they cannot hear each other: %s", error
            )
            yield
            return
        self._own = own
        try:
            yield
        finally:
            self._own = None
            server.close()
            own.unlink(missing_ok=True)
            with suppress(OSError):
                own.parent.rmdir()  # the last one does

    async def text(self) -> bytes:
        """Every metric of every process, as Prometheus reads it."""
        own = self._own
        if own is None:
            return generate_latest(self._registry)
        others = [path for path in own.parent.glob("*.sock") if path != own]
        found = await asyncio.gather(*(_asked(path) for path in others))
        texts = {path.stem: text for path, text in zip(others, found, strict=True) if text}
        texts[own.stem] = generate_latest(self._registry)
        return await asyncio.to_thread(merged, texts)

    async def _answer(self, _reader: StreamReader, writer: StreamWriter) -> None:
        with suppress(OSError):
            writer.write(generate_latest(self._registry))
            await writer.drain()
        writer.close()


def _made_directory() -> Path:
    """For one parent's children alone. Raises OSError where it is somebody else's, or cannot be
    made.
    """
    directory = Path(tempfile.gettempdir()) / f"llm-gateway-{os.getuid()}-{os.getppid()}"
    directory.mkdir(mode=0o700, exist_ok=True)
    if directory.is_symlink() or directory.stat().st_uid != os.getuid():
        raise PermissionError(f"{directory} is somebody else's")
    return directory


async def _asked(path: Path) -> bytes:
    """Empty where nobody answers any more, or not in time."""
    try:
        async with asyncio.timeout(_ANSWER_SECONDS):
            reader, writer = await asyncio.open_unix_connection(path)
            try:
                return await reader.read()
            finally:
                writer.close()
    except (OSError, TimeoutError):
        return b""


def merged(texts: Mapping[str, bytes]) -> bytes:
    """One text of several, each by its `pid`."""
    families: dict[str, Metric] = {}
    for pid, text in texts.items():
        for family in text_string_to_metric_families(text.decode()):
            ours = families.setdefault(
                family.name, Metric(family.name, family.documentation, family.type)
            )
            for sample in family.samples:
                ours.add_sample(sample.name, {**sample.labels, "pid": pid}, sample.value)
    return generate_latest(_Families(families.values()))


class _Families(Collector):
    def __init__(self, families: Iterable[Metric]) -> None:
        self._families = families

    def collect(self) -> Iterable[Metric]:
        return self._families
