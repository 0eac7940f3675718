"""nginx's configuration as its start script makes it, without nginx."""

import json
import os
import re
import subprocess
from dataclasses import fields
from pathlib import Path

import pytest

from app.config.bus_settings import BusSettings

TOP = Path(__file__).parents[2]


def rendered(tmp_path: Path, **environment: str) -> str:
    """nginx's configuration as start.sh makes it, with a program in nginx's place that only says
    its arguments.
    """
    stand_in = tmp_path / "bin" / "nginx"
    stand_in.parent.mkdir()
    stand_in.write_text('#!/bin/sh\necho "$@"\n')
    stand_in.chmod(0o755)
    paths = {"PATH": f"{stand_in.parent}:{os.environ['PATH']}", "RUN_DIR": str(tmp_path / "run")}
    said = subprocess.run(
        [TOP / "nginx" / "start.sh", "-t"],
        env=paths | environment,
        check=True,
        capture_output=True,
        text=True,
    )
    assert said.stdout.split()[-2:] == ["nginx.conf", "-t"]
    return (tmp_path / "run" / "nginx.conf").read_text()


def test_nginx_has_the_limits_of_the_gateways(tmp_path: Path) -> None:
    text = rendered(tmp_path, MAX_BODY_BYTES="1234", REQUEST_TIMEOUT_SECONDS="90.5")
    assert "client_max_body_size 1234;" in text
    assert "proxy_read_timeout 1m90s;" in text


def test_nginx_has_the_gateways_defaults(tmp_path: Path) -> None:
    defaults = {item.metadata["name"]: item.metadata["default"] for item in fields(BusSettings)}
    text = rendered(tmp_path)
    assert f"client_max_body_size {defaults['MAX_BODY_BYTES']};" in text
    assert f"proxy_read_timeout 1m{defaults['REQUEST_TIMEOUT_SECONDS']}s;" in text


@pytest.mark.parametrize(
    ("setting", "expected"),
    [({}, ["512"]), ({"CLIENT_CONNECTIONS": "7"}, ["7"]), ({"CLIENT_CONNECTIONS": "0"}, [])],
)
def test_an_address_may_have_so_many_requests_open(
    tmp_path: Path, setting: dict[str, str], expected: list[str]
) -> None:
    assert re.findall(r"limit_conn clients (\d+);", rendered(tmp_path, **setting)) == expected


def test_a_gateway_by_address_is_used_as_it_is(tmp_path: Path) -> None:
    text = rendered(
        tmp_path, GATEWAYS="127.0.0.1:8001 10.0.0.7:80 [::1]:8002", LISTEN="127.0.0.1:8080"
    )
    servers = re.findall(r"\bserver ([^{};]+ max_fails=0);", text)
    assert servers == [
        f"{address} max_fails=0" for address in ("127.0.0.1:8001", "10.0.0.7:80", "[::1]:8002")
    ]
    assert "resolver" not in text
    assert "listen 127.0.0.1:8080 " in text


def test_a_gateway_by_name_is_looked_up_again_all_the_time(tmp_path: Path) -> None:
    text = rendered(tmp_path)
    assert "server main:8000 resolve max_fails=0;" in text
    assert re.search(r"resolver .*valid=2s;", text)


@pytest.mark.parametrize(
    ("setting", "expected"), [("", []), ("10.0.0.1 172.16.0.0/12", ["10.0.0.1", "172.16.0.0/12"])]
)
def test_only_named_proxies_in_front_say_who_the_client_is(
    tmp_path: Path, setting: str, expected: list[str]
) -> None:
    text = rendered(tmp_path, PROXIES_IN_FRONT=setting)
    assert re.findall(r"set_real_ip_from ([^;]+);", text) == expected
    assert ("real_ip_header X-Forwarded-For;" in text) == bool(expected)


def test_nothing_is_left_to_put_in(tmp_path: Path) -> None:
    assert "${" not in rendered(tmp_path)


def test_nginx_gives_up_an_idle_connection_before_the_gateway_does(tmp_path: Path) -> None:
    dockerfile = (TOP / "Dockerfile").read_text()
    command = json.loads(dockerfile[dockerfile.index('CMD ["uvicorn') + len("CMD ") :])
    gateway = int(command[command.index("--timeout-keep-alive") + 1])
    upstream = rendered(tmp_path).partition("upstream gateways")[2].partition("}")[0]
    (nginx,) = re.findall(r"keepalive_timeout (\d+)s;", upstream)
    assert int(nginx) < gateway
