"""The servers that ours is measured beside: fetched from PyPI into environments of their own,
started as for production.
"""

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from bench.deployments import Deployment
from bench.processes import BenchError, Process, free_port
from bench.upstream import MODEL

LITELLM = "litellm[proxy]==1.106.2"
VLLM_ROUTER = "vllm-router==0.1.17"
KEY = "sk-bench"  # LiteLLM does not start without one

_LITELLM_CONFIGURATION = f"""\
model_list:
  - model_name: {MODEL}
    litellm_params:
      model: openai/{MODEL}
      api_base: UPSTREAM/v1
      api_key: none
litellm_settings:
  set_verbose: false
"""


def programs_of(requirement: str, scratch: Path) -> Path:
    """The folder of programs of its virtual environment."""
    return scratch / requirement.replace("[proxy]", "") / "bin"


async def fetch(requirement: str, scratch: Path) -> None:
    """Makes its virtual environment, if it is not there yet. Raises BenchError."""
    folder = programs_of(requirement, scratch).parent
    complete = folder / ".complete"
    if not complete.exists():
        print(f"fetching {requirement}", flush=True)
        await asyncio.to_thread(_run, [sys.executable, "-m", "venv", "--clear", str(folder)])
        install = ["-m", "pip", "--disable-pip-version-check", "--quiet", "install", requirement]
        await asyncio.to_thread(_run, [str(folder / "bin/python"), *install])
        complete.touch()


def _run(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise BenchError(f"{' '.join(command)}: {done.stderr.strip()[-1000:]}")


@asynccontextmanager
async def litellm(scratch: Path, directory: Path, upstream_url: str) -> AsyncIterator[Deployment]:
    """One worker, no database, errors only in the log."""
    programs = programs_of(LITELLM, scratch)
    port = free_port()
    configuration = directory / "litellm.yaml"
    configuration.write_text(_LITELLM_CONFIGURATION.replace("UPSTREAM", upstream_url))
    command = [
        str(programs / "litellm"),
        "--config",
        str(configuration),
        "--host",
        "127.0.0.1",
        "--port",
        str(port),
    ]
    own = {"LITELLM_LOG": "ERROR", "LITELLM_MASTER_KEY": KEY, "PYTHONPATH": ""}
    async with Process("litellm", [*command, "--num_workers", "1"], directory, own) as process:
        url = f"http://127.0.0.1:{port}"
        await process.ready(f"{url}/health/liveliness")
        yield Deployment(url, {"litellm": process}, KEY)


@asynccontextmanager
async def vllm_router(
    scratch: Path, directory: Path, upstream_url: str
) -> AsyncIterator[Deployment]:
    """In front of one server there is nothing to choose: the cheapest policy."""
    programs = programs_of(VLLM_ROUTER, scratch)
    port, metrics = free_port(), free_port()
    command = [
        str(programs / "vllm-router"),
        "--worker-urls",
        upstream_url,
        "--policy",
        "round_robin",
        "--log-level",
        "error",
    ]
    ports = [
        "--host",
        "127.0.0.1",
        "--port",
        str(port),
        "--prometheus-port",
        str(metrics),
        "--prometheus-host",
        "127.0.0.1",
    ]
    async with Process("vllm-router", [*command, *ports], directory, {"PYTHONPATH": ""}) as process:
        url = f"http://127.0.0.1:{port}"
        await process.ready(f"{url}/readiness")
        yield Deployment(url, {"vllm-router": process})
