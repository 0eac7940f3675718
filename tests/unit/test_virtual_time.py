"""The clock of the unit tests."""

import asyncio
import threading


async def test_it_jumps_to_what_comes_next():
    await asyncio.sleep(600)
    assert asyncio.get_running_loop().time() == 600


async def test_it_does_not_jump_while_a_thread_has_a_job():
    free = threading.Event()
    job = asyncio.create_task(asyncio.to_thread(free.wait, 60))
    threading.Timer(0.2, free.set).start()
    await asyncio.sleep(600)
    assert job.done()
    assert job.result(), "it ended because it was free to"
