"""The compose files and the images, read as files: what needs no container engine to see."""

import json
import re
from dataclasses import fields
from importlib.resources import files
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from app.config.bus_settings import BusSettings
from app.config.gateway_settings import GatewaySettings
from app.config.settings import AdminSettings, LogSettings, TraceSettings, WorkerSettings
from app.telemetry.metrics import DECLARATIONS

TOP = Path(__file__).parents[2]
ALL, KAFKA, LLM = "docker-compose.yml", "docker-compose.k8s.yml", "docker-compose.llm.yml"
FROM_KAFKA = {"kafka", "kafka-ui"}
MONITORING = {"prometheus", "grafana"}
WORKERS = ["qwen-worker", "chatgpt-worker"]
GATEWAYS = ["main", "main-2"]
FROM_LLM = {"nginx", *GATEWAYS, "admin", "redis", *WORKERS, "models-worker", "vllm", *MONITORING}


def compose(file: str) -> dict[str, Any]:
    content: dict[str, Any] = yaml.safe_load((TOP / file).read_text())
    return content


def kafka() -> dict[str, Any]:
    service: dict[str, Any] = compose(KAFKA)["services"]["kafka"]
    return service


def llm(name: str) -> dict[str, Any]:
    service: dict[str, Any] = compose(LLM)["services"][name]
    return service


def default_of(text: str) -> str:
    """What compose makes of a value while none of its variables is set."""
    return re.sub(r"\$\{\w+(?::-([^}]*))?\}", lambda variable: variable[1] or "", text)


@pytest.mark.parametrize("file", [ALL, KAFKA, LLM])
def test_a_compose_file_follows_the_compose_specification(file: str) -> None:
    schema = (
        files("check_jsonschema")
        .joinpath("builtin_schemas", "vendor", "compose-spec.json")
        .read_text()
    )
    jsonschema.validate(compose(file), json.loads(schema))


def test_the_files_have_their_services() -> None:
    assert set(compose(KAFKA)["services"]) == FROM_KAFKA
    assert set(compose(LLM)["services"]) == FROM_LLM
    assert set(compose(ALL)["services"]) == FROM_KAFKA | FROM_LLM


def test_the_whole_only_says_what_waits_for_what() -> None:
    for name, service in compose(ALL)["services"].items():
        assert service["extends"] == {"file": KAFKA if name in FROM_KAFKA else LLM, "service": name}
        assert set(service) <= {"extends", "depends_on"}


def test_what_is_extended_depends_on_nothing_because_docker_compose_1_refuses_that() -> None:
    assert not [
        name
        for file in (KAFKA, LLM)
        for name, service in compose(file)["services"].items()
        if "depends_on" in service
    ]


@pytest.mark.parametrize("name", [*GATEWAYS, "kafka-ui", *WORKERS, "models-worker"])
def test_what_needs_the_broker_waits_until_it_is_healthy(name: str) -> None:
    assert compose(ALL)["services"][name]["depends_on"]["kafka"] == {"condition": "service_healthy"}


def test_containers_are_named_where_there_is_one_of_them() -> None:
    services = compose(KAFKA)["services"] | compose(LLM)["services"]
    named = {
        name: service["container_name"]
        for name, service in services.items()
        if "container_name" in service
    }
    gateways = {"main": "llm_api_gw", "main-2": "llm_api_gw_2"}
    assert named == {"kafka": "llm_api_gw_kafka", "kafka-ui": "llm_api_gw_kafka_ui", **gateways}


def test_the_network_is_kafkas_and_the_application_joins_it() -> None:
    own = {"name": "kafka_network"}
    assert compose(KAFKA)["networks"] == {"kafka_network": own}
    assert compose(ALL)["networks"]["kafka_network"] == own
    assert compose(LLM)["networks"]["kafka_network"] == own | {"external": True}


def test_the_broker_is_kafka_9092_inside_and_localhost_9093_outside() -> None:
    environment = kafka()["environment"]
    assert environment["KAFKA_PROCESS_ROLES"] == "broker,controller"
    assert (
        default_of(environment["KAFKA_ADVERTISED_LISTENERS"])
        == "INSIDE://kafka:9092,OUTSIDE://localhost:9093"
    )
    assert [default_of(port) for port in kafka()["ports"]] == ["127.0.0.1:9093:9093"]


def test_the_broker_without_containers_has_the_same_settings() -> None:
    script = (TOP / "scripts" / "kafka.sh").read_text()
    by_hand = dict(re.findall(r"^([a-z.]+)=([^\s$]+)$", script, re.MULTILINE))
    composed = {
        name.removeprefix("KAFKA_").lower().replace("_", "."): value
        for name, value in kafka()["environment"].items()
    }
    both = {name for name in composed if name in by_hand and "listener" not in name}
    assert {name: str(composed[name]) for name in both} == {name: by_hand[name] for name in both}
    assert {name for name in composed if name.startswith(("group.", "broker."))} <= both


def test_a_groups_session_may_be_as_short_as_the_workers_set_it() -> None:
    environment = kafka()["environment"]
    assert environment["KAFKA_GROUP_CONSUMER_SESSION_TIMEOUT_MS"] <= 10_000
    assert environment["KAFKA_GROUP_CONSUMER_MIN_SESSION_TIMEOUT_MS"] <= 3_000
    assert environment["KAFKA_GROUP_CONSUMER_MIN_HEARTBEAT_INTERVAL_MS"] <= 250


def test_the_page_of_the_broker_is_at_port_8080_of_this_machine() -> None:
    assert compose(KAFKA)["services"]["kafka-ui"]["ports"] == ["127.0.0.1:8080:8080"]


def test_only_nginx_is_published_for_others_and_only_if_it_is_told_to() -> None:
    published = {
        name: service["ports"]
        for name, service in compose(LLM)["services"].items()
        if "ports" in service
    }
    assert [default_of(port) for port in published.pop("nginx")] == ["127.0.0.1:8000:8080"]
    assert set(published) == {*GATEWAYS, *MONITORING}  # all but main only with their profile
    assert published["main"] == [f"127.0.0.1:{llm('main')['environment']['ADMIN_PORT']}:9464"]
    assert all(port.startswith("127.0.0.1:") for ports in published.values() for port in ports)


def test_prometheus_asks_the_gateway_and_every_worker_at_the_port_where_their_metrics_are() -> None:
    scraped = yaml.safe_load((TOP / "deploy/monitoring/prometheus.yml").read_text())[
        "scrape_configs"
    ]
    asked = {
        (name, dns["port"])
        for job in scraped
        for dns in job["dns_sd_configs"]
        for name in dns["names"]
    }
    served = ("main", *WORKERS, "models-worker")
    assert asked == {(name, llm(name)["environment"]["ADMIN_PORT"]) for name in served}


def test_what_monitoring_mounts_is_there() -> None:
    mounted = [
        volume.split(":")[0]
        for name in MONITORING
        for volume in llm(name)["volumes"]
        if volume.startswith("./")
    ]
    assert mounted
    assert [path for path in mounted if not (TOP / path).exists()] == []


@pytest.mark.parametrize("file", ["alerts.yml", "grafana/dashboards/llm-gateway.json"])
def test_what_looks_at_metrics_names_those_that_there_are(file: str) -> None:
    named = set(
        re.findall(r"\b(?:llm_gateway|gen_ai)_\w+", (TOP / "deploy/monitoring" / file).read_text())
    )
    declared = {metric.name: metric.kind for metric in DECLARATIONS}
    known = set(declared) | {"gen_ai_request_model"}
    known |= {
        f"{name}_{end}"
        for name, kind in declared.items()
        if kind == "histogram"
        for end in ("bucket", "sum", "count")
    }
    assert named
    assert named <= known


@pytest.mark.parametrize("name", WORKERS)
def test_a_worker_is_defined_as_people_define_theirs(name: str) -> None:
    worker = llm(name)
    assert worker["build"] == {"context": ".", "dockerfile": "app/agent/Dockerfile"}
    assert worker["deploy"] == {"mode": "replicated", "replicas": 1}
    people_have = [
        "OPENAI_TOKEN",
        "OPENAI_MODEL_NAME",
        "OPENAI_HOST",
        "KAFKA_REQUEST_TOPIC",
        "KAFKA_RESPONSE_TOPIC",
    ]
    assert {*people_have, "BOOTSTRAP_SERVERS", "GROUP_ID"} <= set(worker["environment"])
    assert default_of(worker["environment"]["BOOTSTRAP_SERVERS"]) == "kafka:9092"


def test_each_file_says_in_its_first_line_what_it_holds() -> None:
    for file, words in {
        ALL: "everything",
        KAFKA: "Kafka infrastructure",
        LLM: "the application",
    }.items():
        assert (TOP / file).read_text().startswith(f"# {file}: {words}")


def test_each_worker_has_a_model_a_topic_and_a_group_of_its_own() -> None:
    for name in ("OPENAI_MODEL_NAME", "KAFKA_REQUEST_TOPIC", "GROUP_ID"):
        assert len({llm(worker)["environment"][name] for worker in WORKERS}) == len(WORKERS)
    assert not {"OPENAI_MODEL_NAME", "KAFKA_REQUEST_TOPIC", "GROUP_ID"} & set(
        llm("models-worker")["environment"]
    )


@pytest.mark.parametrize(
    ("worker", "prefix"), [("qwen-worker", "FIRST"), ("chatgpt-worker", "SECOND")]
)
def test_a_worker_is_configured_by_its_variables_in_dot_env(worker: str, prefix: str) -> None:
    environment = llm(worker)["environment"]
    for name in ("OPENAI_TOKEN", "OPENAI_MODEL_NAME", "OPENAI_HOST"):
        assert environment[name].startswith(f"${{{prefix}_{name}:-")


def test_the_model_server_on_a_gpu_serves_the_worker_that_points_at_it() -> None:
    vllm, worker = llm("vllm"), llm("qwen-worker")["environment"]
    assert vllm["profiles"] == ["vllm"]
    assert default_of(worker["OPENAI_HOST"]) == "http://vllm:8000"
    assert vllm["command"] == [worker["OPENAI_MODEL_NAME"]]
    assert vllm["environment"]["VLLM_API_KEY"] == worker["OPENAI_TOKEN"]
    assert vllm["deploy"]["resources"]["reservations"]["devices"][0]["capabilities"] == ["gpu"]


def test_images_have_the_versions_that_run_without_containers() -> None:
    broker = re.search(r"^VERSION=(.+)$", (TOP / "scripts" / "kafka.sh").read_text(), re.MULTILINE)
    model_server = re.search(
        r"^vllm==(.+)$", (TOP / "requirements-vllm.in").read_text(), re.MULTILINE
    )
    assert broker is not None
    assert model_server is not None
    assert kafka()["image"] == f"apache/kafka:{broker[1]}"
    assert llm("vllm")["image"] == f"vllm/vllm-openai:v{model_server[1]}"


def names_of(*sections: type) -> set[str]:
    return {item.metadata["name"] for section in sections for item in fields(section)}


@pytest.mark.parametrize(
    ("service", "sections"),
    [
        *(
            (name, (BusSettings, GatewaySettings, LogSettings, AdminSettings, TraceSettings))
            for name in GATEWAYS
        ),
        *(
            (name, (BusSettings, WorkerSettings, LogSettings, AdminSettings, TraceSettings))
            for name in (*WORKERS, "models-worker")
        ),
    ],
)
def test_every_setting_reaches_the_container_that_reads_it(
    service: str, sections: tuple[type, ...]
) -> None:
    chosen_by_compose = {"BUS"}  # kafka, because BOOTSTRAP_SERVERS is set
    assert names_of(*sections) - chosen_by_compose <= set(llm(service)["environment"])


@pytest.mark.parametrize("name", [*GATEWAYS, "nginx", *WORKERS, "models-worker"])
def test_a_container_is_given_a_minute_more_than_its_drain(name: str) -> None:
    drain = {item.metadata["name"]: item.metadata["default"] for item in fields(GatewaySettings)}[
        "DRAIN_SECONDS"
    ]
    assert llm(name)["stop_grace_period"] == f"1m${{DRAIN_SECONDS:-{drain}}}s"


def instructions(dockerfile: str) -> list[str]:
    lines = (TOP / dockerfile).read_text().splitlines()
    return [line for line in lines if line and not line.startswith("#")]


@pytest.mark.parametrize("dockerfile", ["Dockerfile", "app/agent/Dockerfile", "nginx/Dockerfile"])
def test_an_image_runs_as_a_user_that_is_visibly_not_root(dockerfile: str) -> None:
    (user,) = [line.split()[1] for line in instructions(dockerfile) if line.startswith("USER ")]
    assert int(user) > 0


def test_gateway_and_worker_share_their_layers() -> None:
    gateway, worker = instructions("Dockerfile"), instructions("app/agent/Dockerfile")
    user = gateway.index("USER 10001")
    assert gateway[: user + 1] == worker[: user + 1]
    assert worker[user + 1 :] == ['CMD ["python", "-m", "app.agent"]']
