"""`python -m tests.chaos --duration 300 --seed 7`: mixed load while processes die, and the
reckoning behind it.

One line of totals at the end; exit status 1, and the processes' logs in a directory that it names,
if a promise was broken.
"""

import argparse
import asyncio
import sys
from pathlib import Path
from random import Random

from app.protocol.request_id import Address
from tests.acceptance.reading import Clients
from tests.chaos.audit import Audit, Totals, judge
from tests.chaos.deployment import Deployment, carry_out, deployed
from tests.chaos.ledger import Promise
from tests.chaos.load import PATIENCE, Client
from tests.chaos.log import logged
from tests.chaos.schedule import schedule

CLIENTS = 20


async def run(seed: int, duration: float) -> tuple[Totals, Path | None]:
    """The totals, and where the logs are if a promise was broken."""
    async with deployed() as deployment, Clients(PATIENCE) as clients:
        promises: list[Promise] = []
        try:
            await _under_load(deployment, clients, promises, seed, duration)
            totals = await _reckon(deployment, clients, promises)
            deployment.stack.expect_tracebacks = True  # they are among the faults now
        except BaseException:
            print(f"the logs are in {deployment.keep_logs()}", file=sys.stderr)
            raise
        return totals, None if totals.kept else deployment.keep_logs()


async def _under_load(
    deployment: Deployment, clients: Clients, promises: list[Promise], seed: int, duration: float
) -> None:
    """Returns when the faults are over, the processes are back and the clients have been
    answered.
    """
    faults = schedule(seed, duration, deployment.targets)
    print(*faults, sep="\n", file=sys.stderr)
    done = asyncio.Event()
    async with asyncio.TaskGroup() as group:
        for number in range(CLIENTS):
            client = Client(clients, deployment.front, Random(f"{seed} {number}"), promises)
            group.create_task(client.run(done))
        lasting = group.create_task(asyncio.sleep(duration))
        await carry_out(faults, deployment.victims)
        await lasting
        await deployment.ready()
        done.set()


async def _reckon(deployment: Deployment, clients: Clients, promises: list[Promise]) -> Totals:
    requests = await asyncio.to_thread(logged, deployment.broker.servers)
    known = {id_: _internal(id_) for promise in promises for id_ in promise.ids}
    unknown = {ids[0]: id_ for id_, (_, ids) in requests.items() if id_ not in known.values()}
    audit = Audit(clients, deployment.gateways)
    wanted = {public: id_ for public, id_ in {**known, **unknown}.items() if id_ in requests}
    answers = await asyncio.gather(
        *(audit.look_up(public, requests[id_][0]) for public, id_ in wanted.items())
    )
    tries = (await deployment.upstream.stats()).tries
    totals = Totals(
        logged=len(requests),
        takeovers=sum(tries[id_] - 1 for id_ in requests if id_ in tries),
        faults=audit.faults,
    )
    totals.faults += [
        fault for process in deployment.ours for fault in deployment.stack.faults(process)
    ]
    judge(promises, dict(zip(wanted, answers, strict=True)), totals)
    return totals


def _internal(public_id: str) -> str:
    address = Address.decode(public_id)
    assert address is not None, public_id
    return address.id


def main() -> int:
    parser = argparse.ArgumentParser(
        description="Kills what runs, under load, and reckons up what was promised and kept."
    )
    parser.add_argument("--duration", type=float, default=300, help="seconds of load")
    parser.add_argument(
        "--seed", type=int, default=1, help="the same seed gives the same faults at the same times"
    )
    given = parser.parse_args()
    totals, logs = asyncio.run(run(given.seed, given.duration))
    print(*totals.faults, sep="\n", file=sys.stderr)
    print(f"chaos seed={given.seed} duration={given.duration:g}s: {totals}")
    if logs is not None:
        print(f"the logs are in {logs}")
    return 0 if totals.kept else 1


if __name__ == "__main__":
    sys.exit(main())
