import asyncio, time, os
from pathlib import Path
import pytest
from tests.acceptance.asking import chat
from tests.acceptance.processes import until
from tests.acceptance.reading import Clients
from tests.acceptance.stack import Stack
from tests.chaos.broker import Broker
N = int(os.environ.get("GATEWAYS", "6")); CYCLES = int(os.environ.get("CYCLES", "6"))
async def test_segv(tmp_path: Path) -> None:
    broker = Broker(tmp_path)
    await broker.start()
    try:
        async with Stack("segv", BOOTSTRAP_SERVERS=broker.servers, LOG_FORMAT="json", PYTHONFAULTHANDLER="1") as stack, Clients() as clients:
            up = await stack.upstream(gap=0.05)
            await stack.worker("sim", up)
            gws = [await stack.gateway() for _ in range(N)]
            for cycle in range(CYCLES):
                for g in gws:
                    await until(lambda: ok(clients, g), "serves again", 60)
                streams = [clients.post(g, chat(stream=True, max_tokens=100)) for g in gws]
                syncs = [clients.post(g, chat(max_tokens=100, ), X_Request_Timeout="6") for g in gws]
                for s in streams: await s.tokens(2)
                broker.kill()
                stop = False
                async def load(g):
                    while not stop:
                        await clients.post(g, chat(max_tokens=1)).end()
                        await asyncio.sleep(0.2)
                tasks = [asyncio.create_task(load(g)) for g in gws for _ in range(4)]
                await asyncio.sleep(10)
                await broker.start()
                for g in gws:
                    try: await g.ready()
                    except AssertionError as e:
                        print("DEAD", g.name, str(e)[:200])
                        lines = g.log.splitlines()
                        i = next((i for i, l in enumerate(lines) if "Fatal" in l), len(lines) - 20)
                        open(f"/tmp/h/dead-{cycle}-{g.name}.log", "w").write("\n".join(lines[max(0, i-20):]))
                        stop = True; await asyncio.gather(*tasks, return_exceptions=True)
                        return
                stop = True
                await asyncio.gather(*tasks)
                for s in streams + syncs: await s.end()
                dead = [p.name for p in stack.processes if not p.running]
                print("cycle", cycle, "dead", dead, [len(s.told.pieces) for s in streams], flush=True)
                if dead:
                    for p in stack.processes:
                        if p.name in dead: open(f"/tmp/h/dead-{cycle}-{p.name}.log", "w").write(p.log[-12000:])
                    return
    finally:
        broker.clear_away()

async def ok(clients, g):
    return (await clients.post(g, chat(max_tokens=1)).end()).status == 200
