"""A command whose log does not answer ends, and says so."""

import asyncio
from argparse import Namespace

from app.admin.__main__ import run
from app.admin.models import show
from tests.unit.scene import ScriptedBus, settings


class SilentBus(ScriptedBus):
    closed = False

    async def start(self) -> None:
        await asyncio.Event().wait()

    def healthy(self) -> str:
        return "no broker can be reached"

    async def close(self) -> None:
        self.closed = True


async def test_a_log_that_does_not_answer_ends_the_command_with_status_1(capsys):
    bus = SilentBus()
    assert await run(bus, settings(), Namespace(command=show)) == 1
    assert capsys.readouterr().err == "the log: no broker can be reached\n"
    assert bus.closed
