"""A broker for one benchmark: one of its own, with nothing in it, or the one that BOOTSTRAP_SERVERS
names.
"""

import asyncio
import os
import shutil
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from confluent_kafka.admin import AdminClient

from bench.processes import ROOT, BenchError, free_port, session_cpu, session_peak_mib


@dataclass(frozen=True)
class Broker:
    """`pid` is 0 for a broker that was there before: what it costs cannot be told."""

    servers: str
    pid: int = 0

    def cpu(self) -> float:
        """Seconds."""
        return session_cpu(self.pid)

    def peak_mib(self) -> float:
        return session_peak_mib(self.pid)


@asynccontextmanager
async def broker(directory: Path, topic_prefix: str) -> AsyncIterator[Broker]:
    """Ends its own broker and removes its data; from another one it deletes the topics of that
    prefix. Raises BenchError.
    """
    servers = os.environ.get("BOOTSTRAP_SERVERS")
    if servers:
        try:
            yield Broker(servers)
        finally:
            await asyncio.to_thread(_delete_topics, servers, topic_prefix)
        return
    data = directory / "kafka"
    port, controller = free_port(), free_port()
    own = {
        "KAFKA_PORT": str(port),
        "KAFKA_CONTROLLER_PORT": str(controller),
        "KAFKA_DATA": str(data),
    }
    starting = asyncio.create_task(asyncio.to_thread(_script, "start", own))
    try:
        await asyncio.shield(starting)
        yield Broker(f"127.0.0.1:{port}", int((data / "broker.pid").read_text()))
    finally:
        # told to end while it starts: only then is there something to stop
        await asyncio.wait([starting])
        await asyncio.to_thread(_script, "stop", own)
        shutil.rmtree(data, ignore_errors=True)


def _script(command: str, variables: dict[str, str]) -> None:
    # In a session of its own: the terminal's Ctrl-C is for us, and we end the broker.
    done = subprocess.run(
        [ROOT / "scripts/kafka.sh", command],
        env={**os.environ, **variables},
        capture_output=True,
        text=True,
        start_new_session=True,
    )
    if done.returncode:
        raise BenchError(f"scripts/kafka.sh {command}: {done.stderr.strip()}")


def _delete_topics(servers: str, prefix: str) -> None:
    admin = AdminClient({"bootstrap.servers": servers})
    names = [name for name in admin.list_topics(timeout=10).topics if name.startswith(f"{prefix}.")]
    for future in admin.delete_topics(names).values() if names else ():
        future.result()
