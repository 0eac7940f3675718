"""The compose files on a host that others reach: passwords, privileges, limits, networks, who may
call.
"""

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

TOP = Path(__file__).parents[2]
SERVICES: dict[str, dict[str, Any]] = {
    name: service
    for file in ("docker-compose.k8s.yml", "docker-compose.llm.yml")
    for name, service in yaml.safe_load((TOP / file).read_text())["services"].items()
}
OURS = ["nginx", "main", "main-2", "admin", "qwen-worker", "chatgpt-worker", "models-worker"]
WORKERS = ["qwen-worker", "chatgpt-worker", "models-worker"]
PASSWORDS = [
    ("kafka-ui", "SPRING_SECURITY_USER_PASSWORD", "KAFKA_UI_PASSWORD"),
    ("grafana", "GF_SECURITY_ADMIN_PASSWORD", "GRAFANA_PASSWORD"),
]
TIERS = {
    "front": {"nginx", "main", "main-2"},
    "store": {"redis", "main", "main-2"},
    "models": {"vllm", *WORKERS},
    "monitoring": {"prometheus", "grafana", "main", "main-2", *WORKERS},
    "kafka_network": {"kafka", "kafka-ui", "main", "main-2", "admin", *WORKERS},
}


def run_start(name: str, tmp_path: Path, **environment: str) -> "subprocess.CompletedProcess[str]":
    """Run what a service starts by, with programs in place of the image's that print their
    arguments.
    """
    service = SERVICES[name]
    command = [word.replace("$$", "$") for word in service.get("entrypoint") or service["command"]]
    for program in ("java", "run.sh", "python", "sleep"):
        stand_in = tmp_path / program
        stand_in.write_text(f'#!/bin/sh\necho "started {program} $@"\n')
        stand_in.chmod(0o755)
    command[-1] = command[-1].replace("/run.sh", str(tmp_path / "run.sh"))
    paths = {"PATH": f"{tmp_path}:/usr/bin:/bin"}
    return subprocess.run(
        command, env=paths | environment, capture_output=True, text=True, check=False, timeout=20
    )


def test_kafka_ui_asks_for_a_login_and_changes_nothing() -> None:
    environment = SERVICES["kafka-ui"]["environment"]
    assert environment["AUTH_TYPE"] == "LOGIN_FORM"
    assert environment["SPRING_SECURITY_USER_PASSWORD"] == "${KAFKA_UI_PASSWORD:-}"
    assert environment["KAFKA_CLUSTERS_0_READONLY"] == "${KAFKA_UI_READONLY:-true}"
    assert environment["SERVER_REACTIVE_SESSION_COOKIE_SAMESITE"] == "strict"


@pytest.mark.parametrize(("name", "variable", "setting"), PASSWORDS)
def test_without_its_password_it_does_not_start_and_says_why(
    name: str, variable: str, setting: str, tmp_path: Path
) -> None:
    ended = run_start(name, tmp_path, **{variable: ""})
    assert ended.returncode != 0
    assert setting in ended.stdout
    assert "started" not in ended.stdout
    assert SERVICES[name]["environment"][variable] == f"${{{setting}:-}}"


@pytest.mark.parametrize(("name", "variable", "setting"), PASSWORDS)
def test_with_its_password_it_starts_what_the_image_starts(
    name: str, variable: str, setting: str, tmp_path: Path
) -> None:
    ended = run_start(name, tmp_path, **{variable: "secret"})
    assert ended.returncode == 0
    assert ended.stdout.startswith("started ")
    assert "secret" not in ended.stdout


def test_no_password_has_a_default() -> None:
    text = json.dumps(SERVICES)
    for setting in ("KAFKA_UI_PASSWORD", "GRAFANA_PASSWORD", "REDIS_PASSWORD"):
        assert f"${{{setting}:-}}" in text
        assert text.count(f"${{{setting}") == text.count(f"${{{setting}:-}}")


def test_redis_and_the_gateways_have_the_same_password() -> None:
    command = SERVICES["redis"]["command"]
    assert command[command.index("--requirepass") + 1] == "${REDIS_PASSWORD:-}"
    for name in ("main", "main-2"):
        assert (
            SERVICES[name]["environment"]["REDIS_URL"]
            == "redis://:${REDIS_PASSWORD:-}@redis:6379/0"
        )


def test_no_web_page_of_another_site_reads_prometheus() -> None:
    assert "--web.cors.origin=http://localhost:9090" in SERVICES["prometheus"]["command"]


@pytest.mark.parametrize("name", SERVICES)
def test_a_container_has_no_privileges_and_cannot_get_any(name: str) -> None:
    assert SERVICES[name]["cap_drop"] == ["ALL"]
    assert SERVICES[name]["security_opt"] == ["no-new-privileges:true"]


@pytest.mark.parametrize("name", SERVICES)
def test_a_container_has_limits(name: str) -> None:
    assert SERVICES[name]["pids_limit"] > 0
    if name != "vllm":  # a model takes the memory that it takes
        assert SERVICES[name]["mem_limit"]


@pytest.mark.parametrize("name", [*OURS, "redis", "prometheus"])
def test_a_container_cannot_change_its_own_programs(name: str) -> None:
    assert SERVICES[name]["read_only"] is True


def test_bodies_on_their_way_are_bounded_and_in_memory() -> None:
    assert SERVICES["nginx"]["tmpfs"] == ["/tmp:size=${BODIES_IN_TRANSIT:-512m},mode=1777"]


def test_no_large_body_is_taken_before_its_key() -> None:
    assert SERVICES["nginx"]["environment"]["CHECK_KEY_BEFORE_BODY"] == 1


def test_services_meet_only_those_of_their_tier() -> None:
    joined = {
        tier: {name for name, service in SERVICES.items() if tier in service["networks"]}
        for tier in TIERS
    }
    assert joined == TIERS
    assert {network for service in SERVICES.values() for network in service["networks"]} == set(
        TIERS
    )


def test_redis_has_no_way_out() -> None:
    for file in ("docker-compose.llm.yml", "docker-compose.yml"):
        assert yaml.safe_load((TOP / file).read_text())["networks"]["store"] == {"internal": True}


@pytest.mark.parametrize("name", ["main", "main-2"])
def test_whether_a_key_is_needed_depends_on_where_nginx_is_published(name: str) -> None:
    environment = SERVICES[name]["environment"]
    assert environment["PUBLISHED_HOST"] == "${GATEWAY_HOST:-127.0.0.1}"
    assert environment["ALLOW_ANONYMOUS"] is None  # handed on if it is set by hand
    assert SERVICES["nginx"]["ports"] == ["${GATEWAY_HOST:-127.0.0.1}:${PORT:-8000}:8080"]


@pytest.mark.parametrize("name", WORKERS)
def test_there_is_no_worker_for_a_model_that_is_not_configured(name: str, tmp_path: Path) -> None:
    environment = SERVICES[name]["environment"]
    idle = run_start(name, tmp_path, MODEL_IS_SET="", MODEL_VARIABLE=environment["MODEL_VARIABLE"])
    assert (
        idle.stdout.splitlines()[0]
        == f"no worker: {environment['MODEL_VARIABLE']} is not set in .env"
    )
    assert "python" not in idle.stdout
    # so that Docker does not start it again and again
    assert "started sleep infinity" in idle.stdout
    started = run_start(name, tmp_path, MODEL_IS_SET="x")
    assert started.stdout == "started python -m app.agent\n"


@pytest.mark.parametrize(
    ("name", "order"), [("qwen-worker", "FIRST"), ("chatgpt-worker", "SECOND")]
)
def test_a_model_is_configured_by_any_of_its_variables(name: str, order: str) -> None:
    parts = ("MODEL_NAME", "TOKEN", "HOST")
    expected = "".join(f"${{{order}_OPENAI_{part}:-}}" for part in parts)
    assert SERVICES[name]["environment"]["MODEL_IS_SET"] == expected


def test_a_models_file_is_mounted_where_its_worker_looks_for_it() -> None:
    worker = SERVICES["models-worker"]
    (volume,) = worker["volumes"]
    assert volume["source"] == "${MODELS_FILE:-./models.example.yaml}"
    assert volume["target"] == f"/srv/{worker['environment']['MODELS_FILE']}"
    assert worker["environment"]["MODEL_IS_SET"] == "${MODELS_FILE:-}"


@pytest.mark.parametrize("name", WORKERS)
def test_a_worker_reaches_a_model_server_on_this_machine(name: str) -> None:
    assert SERVICES[name]["extra_hosts"] == ["host.docker.internal:host-gateway"]


def test_a_second_gateway_is_found_under_the_name_of_the_first() -> None:
    assert SERVICES["nginx"]["environment"]["GATEWAYS"] == "main:8000"
    assert SERVICES["main-2"]["networks"]["front"] == {"aliases": ["main"]}
    assert SERVICES["main-2"]["environment"] == SERVICES["main"]["environment"]


def test_keys_are_made_by_a_service_that_may_write_them() -> None:
    admin = SERVICES["admin"]
    assert admin["entrypoint"] == ["python", "-m", "app.admin"]
    assert admin["volumes"] == ["./keys:/srv/keys"]
    assert admin["environment"]["API_KEYS_FILE"] == "${API_KEYS_FILE:-keys/keys.yaml}"
    assert SERVICES["main"]["volumes"] == ["./keys:/srv/keys:ro"]
