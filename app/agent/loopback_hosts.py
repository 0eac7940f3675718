"""Warn of an upstream on localhost inside a container, where localhost is the container itself."""

import logging
from collections.abc import Iterable
from ipaddress import ip_address
from pathlib import Path
from urllib.parse import urlsplit

from app.config.model_entry import ModelEntry

logger = logging.getLogger("app.agent")

# Docker and Podman make these files. Kubernetes has neither, and there a model server beside the
# worker in its pod is rightly on localhost.
CONTAINER_MARKS = (Path("/.dockerenv"), Path("/run/.containerenv"))


def warn_of_loopback_hosts(
    entries: Iterable[ModelEntry], marks: Iterable[Path] = CONTAINER_MARKS
) -> None:
    """Log a line for each model whose host is loopback, if this process is in a container."""
    if not any(mark.exists() for mark in marks):
        return
    for entry in entries:
        if _is_loopback(name := urlsplit(entry.host).hostname or ""):
            logger.warning(
                "model %s: its host is %s, which is this container itself; the machine that runs "
                "it is host.docker.internal",
                entry.id,
                name,
            )


def _is_loopback(name: str) -> bool:
    try:
        return ip_address(name).is_loopback
    except ValueError:
        return name == "localhost"
