"""What the broker alone adds to a request: one record there and one back between two processes, and
nothing else.

python -m bench.hops [--rounds N] [--pause MS]

Kafka's own client on both sides, no event loop, no HTTP: the least that a request at concurrency 1
can cost over this broker on this machine. With a pause, in which the asker is busy, all others have
gone to sleep, as they do while a real request is being handled: to be woken costs more than the
work. Read from the environment: BOOTSTRAP_SERVERS.
"""

import argparse
import asyncio
import secrets
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from confluent_kafka import Consumer, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic

from bench.figures import Percentiles, percentiles
from bench.kafka import broker
from bench.processes import ROOT, BenchError, end_in_order, status_of

_WARM_UP = 1000
_BODY = b"x" * 400
_PATIENCE = 30.0  # seconds for one record


class End:
    """Writes to one partition of a topic and reads from another one's, with the settings that a low
    latency asks for.
    """

    def __init__(self, servers: str, written: str, read: str) -> None:
        self._written = written
        self._producer = Producer(
            {
                "bootstrap.servers": servers,
                "enable.idempotence": True,
                "acks": "all",
                "linger.ms": 0,
            }
        )
        settings = {
            "bootstrap.servers": servers,
            "group.id": read,
            "auto.offset.reset": "earliest",
            "enable.auto.commit": False,
        }
        self._consumer = Consumer(settings)
        self._consumer.assign([TopicPartition(read, 0, 0)])

    def send(self) -> None:
        self._producer.produce(self._written, _BODY, partition=0)
        self._producer.poll(0)

    def receive(self) -> None:
        """Raises BenchError where none comes."""
        message = self._consumer.poll(_PATIENCE)
        if message is None or message.error():
            raise BenchError(f"no record came: {message.error() if message else 'timeout'}")

    def close(self) -> None:
        self._producer.flush(_PATIENCE)
        self._consumer.close()


def echo(servers: str, prefix: str, rounds: int) -> None:
    """The other process: one record back for each."""
    end = End(servers, f"{prefix}.back", f"{prefix}.there")
    for _ in range(rounds):
        end.receive()
        end.send()
    end.close()


def ask(servers: str, prefix: str, rounds: int, pause: float) -> Percentiles:
    """`pause`: seconds of work before each round."""
    end, taken = End(servers, f"{prefix}.there", f"{prefix}.back"), []
    for _ in range(rounds):
        began = time.perf_counter()
        while (now := time.perf_counter()) - began < pause:
            pass
        end.send()
        end.receive()
        taken.append(time.perf_counter() - now)
    end.close()
    return percentiles(taken[min(_WARM_UP, rounds // 2) :])


def measured(servers: str, prefix: str, rounds: int, pause: float) -> Percentiles:
    names = [f"{prefix}.there", f"{prefix}.back"]
    admin = AdminClient({"bootstrap.servers": servers})
    for future in admin.create_topics([NewTopic(name, 1) for name in names]).values():
        future.result()
    other = [sys.executable, "-m", "bench.hops", "--echo", servers, prefix, "--rounds", str(rounds)]
    with subprocess.Popen(other, cwd=ROOT, stdin=subprocess.DEVNULL) as process:
        try:
            return ask(servers, prefix, rounds, pause)
        except BaseException:
            process.kill()
            raise


async def run(options: argparse.Namespace) -> int:
    end_in_order()
    prefix = f"hops-{secrets.token_hex(4)}"
    with tempfile.TemporaryDirectory() as directory:
        async with broker(Path(directory), prefix) as kafka:
            for pause in (0.0, options.pause / 1000):
                found = await asyncio.to_thread(
                    measured, kafka.servers, f"{prefix}.{pause:g}", options.rounds, pause
                )
                print(
                    f"two hops, {pause * 1000:g} ms between: p50 {found.p50:.2f} ms, p90 "
                    f"{found.p90:.2f}, p99 {found.p99:.2f}"
                )
    return 0


def arguments(given: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m bench.hops", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument(
        "--rounds",
        type=int,
        default=4000,
        metavar="N",
        help="the first thousand is no part of it (%(default)s)",
    )
    parser.add_argument(
        "--pause",
        type=float,
        default=1.0,
        metavar="MS",
        help="the asker's work before each round (%(default)s)",
    )
    parser.add_argument("--echo", nargs=2, metavar=("SERVERS", "PREFIX"), help=argparse.SUPPRESS)
    return parser.parse_args(given)


if __name__ == "__main__":
    options = arguments()
    if options.echo:
        echo(options.echo[0], options.echo[1], options.rounds)
        raise SystemExit(0)
    raise SystemExit(status_of(run(options)))
