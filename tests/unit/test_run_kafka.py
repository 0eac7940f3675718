"""Which worker processes `make run-kafka` starts for which configuration."""

from app.models_config import for_worker
from app.settings import load
from scripts.run_kafka import worker_environments


def served(environment: dict[str, str]) -> list[list[str]]:
    """The models of each worker process, as the worker itself reads its environment."""
    own = worker_environments(load(environment).models)
    return [[entry.id for entry in for_worker(load({**environment, **worker}))] for worker in own]


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
    workers = [for_worker(load({**environment, **own})) for own in worker_environments(load(environment).models)]
    assert [(entry.id, entry.host, entry.token.get_secret_value()) for (entry,) in workers] == [
        ("qwen", "http://one", "first"),
        ("gpt", "http://two", ""),
    ]
    cards = [entry.card("llm", 0) for (entry,) in workers]
    assert [(card.topic, card.group) for card in cards] == [
        ("llm.requests.qwen", "llm.qwen"),
        ("llm.requests.gpt", "llm.gpt"),
    ]


def test_one_worker_serves_the_whole_models_file_beside_the_two_models(tmp_path) -> None:
    file = tmp_path / "models.yaml"
    file.write_text("models: [{id: a, host: 'http://a'}, {id: b, host: 'http://b'}]")
    second = {"SECOND_OPENAI_MODEL_NAME": "gpt", "SECOND_OPENAI_HOST": "http://two"}
    assert served({"MODELS_FILE": str(file), **second}) == [["a", "b"], ["gpt"]]
