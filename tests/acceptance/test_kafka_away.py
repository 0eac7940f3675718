"""exploration"""
import asyncio, time, collections
from pathlib import Path
import httpx2, pytest
from tests.acceptance.asking import CHAT, chat
from tests.acceptance.processes import get_json, until
from tests.acceptance.reading import Clients, ends
from tests.acceptance.stack import Stack
from tests.chaos.broker import Broker
pytestmark = pytest.mark.servers

async def test_outage(tmp_path: Path) -> None:
    broker = Broker(tmp_path)
    await broker.start()
    try:
        async with Stack("away", BOOTSTRAP_SERVERS=broker.servers, LOG_FORMAT="json") as stack:
            stack.expect_tracebacks = True
            up = await stack.upstream(gap=0.2)
            workers = [await stack.worker("sim", up) for _ in range(2)]
            gateway = await stack.gateway()
            async with Clients() as clients, gateway.http() as http:
                streams = [clients.post(gateway, chat(stream=True, max_tokens=150)) for _ in range(8)]
                syncs = [clients.post(gateway, chat(max_tokens=100)) for _ in range(8)]
                for s in streams: await s.tokens(3)
                t0 = time.monotonic()
                log0 = {p.name: len(p.log.splitlines()) for p in stack.processes}
                broker.kill()
                seen = []
                ready = []
                stop = False
                async def one():
                    t = time.monotonic()
                    r = await http.post(CHAT, json=chat(max_tokens=1))
                    seen.append((round(t - t0,1), r.status_code, round(time.monotonic() - t, 2), r.headers.get("retry-after"), r.text[:90] if r.status_code != 200 else ""))
                async def load():
                    ts = []
                    while not stop:
                        ts.append(asyncio.create_task(one()))
                        await asyncio.sleep(0.1)
                    await asyncio.gather(*ts)
                async def watch():
                    while not stop:
                        ready.append((round(time.monotonic() - t0,1), await get_json(f"{gateway.root}/readyz")))
                        await asyncio.sleep(0.5)
                tasks = [asyncio.create_task(load()), asyncio.create_task(watch())]
                await asyncio.sleep(5)
                late_gw = await stack.gateway(ready=False)
                late_worker = await stack.worker("sim", up, ready=False)
                await asyncio.sleep(10)
                print("START", time.monotonic() - t0)
                await broker.start()
                print("LISTENS", time.monotonic() - t0)
                await until(lambda: ready and ready[-1][1][0] == 200 and ready[-1][0] > 15, "ready again")
                print("READY", time.monotonic() - t0)
                await late_gw.ready(); print("late gw ready", time.monotonic() - t0)
                await late_worker.ready(); print("late worker ready", time.monotonic() - t0)
                await asyncio.sleep(3)
                stop = True
                await asyncio.gather(*tasks)
                told = await ends(streams); print([(t.status, len(t.pieces), t.events[-1] if t.events else t.body, t.cut) for t in told])
                told = await ends(syncs); print([(t.status, t.body[:100], t.cut) for t in told])
                async with late_gw.http() as h2:
                    print((await h2.post(CHAT, json=chat(max_tokens=1))).status_code)
            last = None
            for x in seen:
                print(x)
            for x in ready:
                if x[1] != last: print(x)
                last = x[1]
            for p in stack.processes:
                lines = p.log.splitlines()[log0.get(p.name, 0):]
                print("=====", p.name, len(lines), sum('"app.access"' in l for l in lines))
                for l in lines:
                    if '"app.access"' not in l: print("   ", l[:300])
            print(await up.stats())
    finally:
        broker.clear_away()
