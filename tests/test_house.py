"""What a reader relies on in this repository, checked: sizes, names, and that what is written down
is what the code says.
"""

import ast
import re
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path

import pytest

from app import errors
from app.config.api_keys_file import KeyEntry
from app.config.model_entry import ModelEntry
from app.config.models_file import load_embedded_models
from app.config.settings import SECTIONS, load_settings
from app.errors import GatewayError

TOP = Path(__file__).parents[1]
CODE = sorted((TOP / "app").rglob("*.py"))
MOST_LINES = 300
TARGETS = (
    "help install run run-kafka test test-all chaos bench bench-compare check format "
    "deps env up down logs restart build clean"
)
FIRST_IN_ENV_EXAMPLE = [
    *(f"FIRST_OPENAI_{part}" for part in ("TOKEN", "MODEL_NAME", "HOST")),
    *(f"SECOND_OPENAI_{part}" for part in ("TOKEN", "MODEL_NAME", "HOST")),
    "BOOTSTRAP_SERVERS",
]


def read(name: str) -> str:
    return (TOP / name).read_text()


def variables() -> dict[str, str]:
    """The settings' variables and their defaults."""
    return {
        item.metadata["name"]: item.metadata["default"]
        for section in SECTIONS
        for item in fields(section)
    }


def env_example() -> list[tuple[str, str, bool]]:
    """Name, value, and whether the line counts as it stands, of each variable in .env.example."""
    found = re.findall(r"^(#?)([A-Z_]+)=(.*)$", read(".env.example"), re.MULTILINE)
    return [(name, value, not mark) for mark, name, value in found]


def used_in_deployment() -> set[str]:
    """The variables that the Makefile and the compose files take from .env."""
    compose = "".join(path.read_text() for path in TOP.glob("docker-compose*.yml"))
    handed_on = re.findall(r"^ +([A-Z_]+): *$", compose, re.MULTILINE)
    return {
        *re.findall(r"\$\{([A-Z_]+)", compose),
        *handed_on,
        *re.findall(r"from_env,([A-Z_]+)", read("Makefile")),
    }


def error_kinds(kind: type[GatewayError] = GatewayError) -> Iterator[type[GatewayError]]:
    for below in kind.__subclasses__():
        yield below
        yield from error_kinds(below)


def table_rows(document: str) -> list[list[str]]:
    """The cells of each table row of a document, without their backticks; heads and rules left
    out.
    """
    lines = [line for line in read(document).splitlines() if line.startswith("| ")]
    cells = [
        [cell.strip().replace("`", "") for cell in line.strip("| ").split(" | ")] for line in lines
    ]
    return [row for row in cells if row[0] not in ("status", "field")]


@pytest.mark.parametrize("path", CODE, ids=lambda path: str(path.relative_to(TOP)))
def test_a_file_is_short_enough_to_be_read_at_once(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= MOST_LINES


def test_every_setting_is_in_the_example_with_its_default() -> None:
    shown = {
        name: value
        for name, value, counts in env_example()
        if not counts or name not in FIRST_IN_ENV_EXAMPLE
    }
    expected = {
        name: default for name, default in variables().items() if name not in FIRST_IN_ENV_EXAMPLE
    }
    assert {name: value for name, value in shown.items() if name in variables()} == expected


def test_the_example_begins_with_what_people_have_and_sets_nothing_else() -> None:
    assert [name for name, _, _ in env_example()][
        : len(FIRST_IN_ENV_EXAMPLE)
    ] == FIRST_IN_ENV_EXAMPLE
    set_by_copying = {name: value for name, value, counts in env_example() if counts}
    expected = {**dict.fromkeys(FIRST_IN_ENV_EXAMPLE, ""), "BOOTSTRAP_SERVERS": "localhost:9093"}
    assert set_by_copying == expected


def test_the_warning_stands_beside_what_lets_everybody_in() -> None:
    for name in (".env.example", "docker-compose.llm.yml"):
        (above,) = re.findall(r"((?:^ *# .*\n)+) *#?ALLOW_ANONYMOUS[=:]", read(name), re.MULTILINE)
        assert "WARNING" in above


def test_every_field_of_the_keys_file_is_documented() -> None:
    assert [row[0] for row in table_rows("docs/operating/keys.md")] == list(KeyEntry.model_fields)


def test_the_example_names_nothing_that_nobody_reads() -> None:
    others = {name for name, _, _ in env_example()} - set(variables())
    assert others <= used_in_deployment()


def test_no_variable_stands_in_the_example_twice() -> None:
    names = [name for name, _, _ in env_example()]
    assert sorted(names) == sorted(set(names))


def test_every_variable_of_the_example_is_explained_above_it() -> None:
    blocks = re.findall(r"((?:^#?[A-Z_]+=.*\n)+)", read(".env.example"), re.MULTILINE)
    explained = re.findall(r"^# .+\n((?:^#?[A-Z_]+=.*\n)+)", read(".env.example"), re.MULTILINE)
    assert explained == blocks


def test_every_error_is_documented_as_it_is() -> None:
    documented = [tuple(row[:3]) for row in table_rows("docs/errors.md")]
    raised = [(str(kind.status), kind.type, kind.code or "none (null)") for kind in error_kinds()]
    assert sorted(documented) == sorted(raised)


def test_the_tree_of_errors_shows_each_below_its_parent() -> None:
    drawn, above = {}, ["Exception"]
    tree = (errors.__doc__ or "").split("\n\n")[1]
    for branch, name in re.findall(r"^([│├└─ ]*)(\w+)", tree, re.MULTILINE):
        depth = len(branch) // 4
        drawn[name] = above[depth]
        above[depth + 1 :] = [name]
    kinds = [
        kind
        for kind in vars(errors).values()
        if isinstance(kind, type) and issubclass(kind, Exception)
    ]
    assert drawn == {kind.__name__: kind.__bases__[0].__name__ for kind in kinds}


def test_every_field_of_the_models_file_is_documented() -> None:
    assert [row[0] for row in table_rows("docs/models.md")] == list(ModelEntry.model_fields)


def example_models(text: str, tmp_path: Path, **environment: str) -> list[ModelEntry]:
    (tmp_path / "models.yaml").write_text(text)
    return load_embedded_models(
        load_settings({"MODELS_FILE": str(tmp_path / "models.yaml"), **environment})
    )


def test_the_example_of_a_models_file_works_as_it_is(tmp_path: Path) -> None:
    entries = example_models(read("models.example.yaml"), tmp_path)
    assert [(entry.id, entry.engine) for entry in entries] == [
        ("Qwen/Qwen3-8B", "http"),
        ("echo", "echo"),
    ]


def test_the_commented_part_of_the_example_works_with_its_token(tmp_path: Path) -> None:
    text = re.sub(r"^  # (- id|  \w+:)", r"  \1", read("models.example.yaml"), flags=re.MULTILINE)
    entries = example_models(text, tmp_path, SECOND_OPENAI_TOKEN="secret")
    assert [entry.id for entry in entries] == ["Qwen/Qwen3-8B", "echo", "gpt"]
    assert entries[2].token.get_secret_value() == "secret"


def test_every_target_of_the_makefile_has_a_line_in_its_help() -> None:
    targets = re.findall(r"^([a-z][a-z-]*):(?!=)", read("Makefile"), re.MULTILINE)
    explained = re.findall(r"^([a-z-]+):.*## \S", read("Makefile"), re.MULTILINE)
    assert targets == explained
    assert " ".join(targets) == TARGETS


@pytest.mark.parametrize(
    "document", ["README.md", *(str(path.relative_to(TOP)) for path in TOP.glob("docs/**/*.md"))]
)
def test_a_documents_links_lead_somewhere(document: str) -> None:
    links = re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", read(document))
    assert [link for link in links if not (TOP / document).parent.joinpath(link).exists()] == []


def test_kafkas_driver_is_imported_only_where_the_name_of_the_room_says_so() -> None:
    importers = {
        path.relative_to(TOP / "app").as_posix()
        for path in CODE
        if "confluent_kafka" in imported(path)
    }
    assert importers
    assert [name for name in importers if not re.fullmatch(r"bus/kafka/\w+\.py", name)] == []


def imported(path: Path) -> set[str]:
    """The top-level names of the packages that a file imports, anywhere in it."""
    nodes = list(ast.walk(ast.parse(path.read_text())))
    whole = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    parts = {node.module or "" for node in nodes if isinstance(node, ast.ImportFrom)}
    return {name.partition(".")[0] for name in whole | parts}
