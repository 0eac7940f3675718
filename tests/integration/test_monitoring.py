"""What Prometheus itself says of its files (promtool is part of Debian's prometheus)."""

import subprocess
from pathlib import Path

import pytest

pytestmark = pytest.mark.servers
FOLDER = Path(__file__).parents[2] / "deploy" / "monitoring"


def promtool(*arguments: str, folder: Path = FOLDER) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        ["promtool", *arguments], cwd=folder, capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize(("kind", "file"), [("config", "prometheus.yml"), ("rules", "alerts.yml")])
def test_prometheus_takes_the_file(kind: str, file: str) -> None:
    said = promtool("check", kind, file)
    assert said.returncode == 0, said.stderr


RULES = f"""
rule_files: [{FOLDER / "alerts.yml"}]
evaluation_interval: 15s
tests:
  - interval: 15s
    input_series:
      - series: llm_gateway_queue_depth{{model="m", instance="a"}}
        values: 3x40
      - series: llm_gateway_queue_depth{{model="m", instance="b"}}
        values: 3x40
      - series: llm_gateway_workers{{model="m", instance="a"}}
        values: 1x20 0x20
      - series: llm_gateway_workers{{model="m", instance="b"}}
        values: 1x20 0x20
      - series: llm_gateway_requests_total{{model="m", status="200", outcome="completed"}}
        values: 0+80x40
      - series: llm_gateway_requests_total{{model="m", status="502", outcome="failed"}}
        values: 0+10x40
      - series: llm_gateway_requests_total{{model="m", status="200", outcome="failed"}}
        values: 0+10x40
      - series: llm_gateway_requests_total{{model="n", status="429", outcome="refused"}}
        values: 0+10x40
      - series: llm_gateway_queue_seconds_bucket{{model="m", le="10"}}
        values: 0+1x40
      - series: llm_gateway_queue_seconds_bucket{{model="m", le="60"}}
        values: 0+9x40
      - series: llm_gateway_queue_seconds_bucket{{model="m", le="+Inf"}}
        values: 0+9x40
      - series: llm_gateway_dead_letters_total{{model="m"}}
        values: 0x10 1x30
      - series: llm_gateway_keys_file_in_force{{job="gateway", instance="a"}}
        values: 1x10 0x30
      - series: llm_gateway_keys_file_in_force{{job="gateway", instance="b"}}
        values: 1x40
      - series: up{{job="worker", instance="never-up"}}
        values: 0x40
      - series: up{{job="worker", instance="gone"}}
        values: 1x10 0x30
      - series: up{{job="gateway", instance="never-up"}}
        values: 0x40
    alert_rule_test:
      - {{alertname: NoWorker, eval_time: 5m}}
      - alertname: NoWorker
        eval_time: 8m
        exp_alerts:
          - exp_labels: {{model: m, severity: critical}}
            exp_annotations: {{summary: "Requests wait for m, and no worker serves it."}}
      - alertname: Errors
        eval_time: 8m
        exp_alerts:
          - exp_labels: {{model: m, severity: critical}}
            exp_annotations: {{summary: "20% of the requests for m fail."}}
      - alertname: LongQueue
        eval_time: 8m
        exp_alerts:
          - exp_labels: {{model: m, severity: warning}}
            exp_annotations:
              summary: "One request in twenty waits over 57.19s for m: more workers?"
      - alertname: DeadLetters
        eval_time: 8m
        exp_alerts:
          - exp_labels: {{model: m, severity: warning}}
            exp_annotations:
              summary: "Requests for m lie in the dead letters (docs/operating/dead-letters.md)."
      - alertname: Unreachable
        eval_time: 8m
        exp_alerts:
          - exp_labels: {{job: worker, instance: gone, severity: warning}}
            exp_annotations: {{summary: "worker gone does not answer."}}
          - exp_labels: {{job: gateway, instance: never-up, severity: warning}}
            exp_annotations: {{summary: "gateway never-up does not answer."}}
      - alertname: KeysFileNotInForce
        eval_time: 8m
        exp_alerts:
          - exp_labels: {{job: gateway, instance: a, severity: critical}}
            exp_annotations:
              summary: "a cannot use its keys file as it stands: a key revoked there may still be
                good (docs/operating/keys.md)."
"""


def test_each_alert_is_raised_by_what_it_is_for(tmp_path: Path) -> None:
    (tmp_path / "test.yml").write_text(RULES)
    said = promtool("test", "rules", "test.yml", folder=tmp_path)
    assert said.returncode == 0, said.stdout + said.stderr
