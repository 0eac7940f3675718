"""Which worker processes `make run-kafka` starts for which configuration."""

import subprocess
import sys

from app.config.models_file import load_worker_models
from app.config.settings import load_settings
from scripts.run_kafka import programs, worker_environments


def served(environment: dict[str, str]) -> list[list[str]]:
    """The models of each worker process, as the worker itself reads its environment."""
    own = worker_environments(load_settings(environment).models)
    return [
        [entry.id for entry in load_worker_models(load_settings({**environment, **worker}))]
        for worker in own
    ]


def test_with_nothing_configured_one_worker_serves_the_demonstration_model() -> None:
    assert served({}) == [["echo"]]


def test_each_of_the_two_models_has_a_worker_with_its_own_upstream_topic_and_group() -> None:
    environment = {
        "FIRST_OPENAI_MODEL_NAME": "qwen",
        "FIRST_OPENAI_HOST": "http://one",
        "FIRST_OPENAI_TOKEN": "first",
        "SECOND_OPENAI_MODEL_NAME": "gpt",
        "SECOND_OPENAI_HOST": "http://two",
        "KAFKA_REQUEST_TOPIC": "left.over",
        "GROUP_ID": "left.over",
    }
    workers = [
        load_worker_models(load_settings({**environment, **own}))
        for own in worker_environments(load_settings(environment).models)
    ]
    assert [(entry.id, entry.host, entry.token.get_secret_value()) for (entry,) in workers] == [
        ("qwen", "http://one", "first"),
        ("gpt", "http://two", ""),
    ]
    cards = [entry.make_registration("llm", 0) for (entry,) in workers]
    assert [(card.topic, card.group) for card in cards] == [
        ("llm.requests.qwen", "llm.qwen"),
        ("llm.requests.gpt", "llm.gpt"),
    ]


def test_one_worker_serves_the_whole_models_file_beside_the_two_models(tmp_path) -> None:
    file = tmp_path / "models.yaml"
    file.write_text("models: [{id: a, host: 'http://a'}, {id: b, host: 'http://b'}]")
    second = {"SECOND_OPENAI_MODEL_NAME": "gpt", "SECOND_OPENAI_HOST": "http://two"}
    assert served({"MODELS_FILE": str(file), **second}) == [["a", "b"], ["gpt"]]


def test_the_gateway_has_the_operators_port_and_each_worker_one_of_its_own() -> None:
    environment = {
        "ADMIN_PORT": "9464",
        "FIRST_OPENAI_MODEL_NAME": "a",
        "FIRST_OPENAI_HOST": "http://a",
    }
    environment |= {"SECOND_OPENAI_MODEL_NAME": "b", "SECOND_OPENAI_HOST": "http://b"}
    found = programs(load_settings(environment), ["gateway"])
    assert [(one.name, one.environment.get("ADMIN_PORT")) for one in found] == [
        ("gateway", "9464"),
        ("worker a", "9465"),
        ("worker b", "9466"),
    ]


FLAKY = "import os, sys, time; print('hello', flush=True); time.sleep(0.2); sys.exit(3)"
STEADY = (
    "import signal, sys, time; signal.signal(signal.SIGTERM, lambda *_: "
    "sys.exit(0)); print('up', flush=True); time.sleep(60)"
)


def ran(*programs_: tuple[str, str], until: str) -> tuple[int, list[str]]:
    """Run them in a process of their own until a line has come, then stop it. Return its status and
    its lines.
    """
    listed = ", ".join(
        f"Program({name!r}, [sys.executable, '-c', {code!r}], os.environ)"
        for name, code in programs_
    )
    script = (
        f"import os, sys; from scripts.run_kafka import Program, run; sys.exit(run([{listed}]))"
    )
    process = subprocess.Popen([sys.executable, "-c", script], stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    lines = []
    for line in process.stderr:
        lines.append(line.rstrip())
        if line.startswith(until):
            process.terminate()
    return process.wait(30), lines


def test_a_process_that_ends_is_named_and_started_again_while_the_others_go_on() -> None:
    status, lines = ran(
        ("worker a", FLAKY),
        ("gateway", STEADY),
        until="run-kafka: worker a ended with status 3; started again in 2 s",
    )
    assert status == 0
    assert lines.count("[worker a] hello") == 2
    assert lines.count("[gateway] up") == 1
    assert "run-kafka: worker a ended with status 3; started again in 1 s" in lines


def test_a_process_whose_settings_do_not_work_ends_them_all() -> None:
    status, lines = ran(
        ("gateway", STEADY), ("worker a", "import sys; print('why'); sys.exit(2)"), until="never"
    )
    assert (status, "[worker a] why" in lines) == (1, True)
    assert (
        "run-kafka: worker a cannot work with its settings (see above); stopping the others"
        in lines
    )
