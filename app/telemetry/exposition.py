"""The metrics as Prometheus reads them."""

from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager

from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.registry import Collector

from app.telemetry.metrics import REGISTRY

CONTENT_TYPE = CONTENT_TYPE_LATEST


def metrics_text() -> bytes:
    """Return every metric of this process, in the format of CONTENT_TYPE."""
    return generate_latest(REGISTRY)


@contextmanager
def registered(collectors: Iterable[Collector]) -> Iterator[None]:
    """Ask these collectors, too, meanwhile."""
    with ExitStack() as stack:
        for collector in collectors:
            REGISTRY.register(collector)
            stack.callback(REGISTRY.unregister, collector)
        yield
