"""The pages in docs/ say what the code says: the checks, the settings, the records, and their links
to each other.
"""

import json
import re
from dataclasses import fields
from pathlib import Path

import pytest

from app.config.settings import SECTIONS
from app.openai_api.bodies import ANY_PATH, CHECKS
from app.openai_api.endpoints import ENDPOINTS
from app.protocol.heartbeats import GatewayHeartbeat, ModelRegistration, WorkerHeartbeat
from app.protocol.records import ControlRecord, Headers, ReplyRecord, RequestRecord
from app.protocol.reply_state import CLAIM, FINAL
from app.telemetry.exposition import metrics_text
from app.telemetry.metrics import DECLARATIONS

TOP = Path(__file__).parents[2]
PAGES = [TOP / "README.md", *sorted((TOP / "docs").rglob("*.md"))]
# Not ours: docker compose reads them itself.
OF_COMPOSE = {"COMPOSE_FILE", "COMPOSE_PROFILES", "COMPOSE_PROJECT_NAME"}
# Kafka's words, no settings.
OF_PYTHON = {"SSL_CERT_FILE"}
OF_KAFKA = {"SASL_PLAINTEXT", "SASL_SSL"}
# Behind "=" it is a value.
_VARIABLE = re.compile(r"(?<![=\w])([A-Z][A-Z0-9]*(?:_[A-Z0-9]+)+)(_\*)?")


def name_of(page: Path) -> str:
    return page.relative_to(TOP).as_posix()


def read(name: str) -> str:
    return (TOP / name).read_text()


def table(text: str, first_cell: str) -> list[list[str]]:
    """The rows of the table whose head begins with that cell, without backticks."""
    lines = iter(text.splitlines())
    assert any(line.startswith(f"| {first_cell} |") for line in lines), (
        f"no table with {first_cell}"
    )
    next(lines)  # the rule below the head
    rows = []
    for line in lines:
        if not line.startswith("|"):
            break
        rows.append([cell.strip().replace("`", "") for cell in line.strip("| ").split(" | ")])
    return rows


def settings() -> set[str]:
    """Every variable that something of ours reads, and what looks like one: the application, the
    scripts, make and compose.
    """
    names = {item.metadata["name"] for section in SECTIONS for item in fields(section)}
    names |= set(re.findall(r"^#?([A-Z_]+)=", read(".env.example"), re.MULTILINE))
    scripts = "".join(
        read(name) for name in ("nginx/start.sh", "scripts/kafka.sh", "scripts/test_servers.sh")
    )
    names |= set(re.findall(r'environ\.get\("(\w+)"', read("bench/__main__.py")))
    return (
        names | set(re.findall(r"\$\{([A-Z_]+)[:-]", scripts)) | OF_COMPOSE | OF_KAFKA | OF_PYTHON
    )


def anchors(page: Path) -> set[str]:
    """The headings of a page as the fragments of links to them."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def header_names(*all_headers: Headers) -> set[str]:
    return {name for headers in all_headers for name, _ in headers}


def objects(text: str) -> list[dict[str, object]]:
    """The JSON objects that stand on a line of their own."""
    return [json.loads(line) for line in text.splitlines() if line.startswith('{"')]


def test_the_page_of_checks_is_the_table_of_checks() -> None:
    documented = [(row[0], row[1], row[3]) for row in table(read("docs/validation.md"), "path")]
    assert documented == [
        ("any" if row.path == ANY_PATH else row.path, row.field, row.reason) for row in CHECKS
    ]


def test_the_page_of_endpoints_lists_the_table_of_endpoints() -> None:
    assert [row[0] for row in table(read("docs/endpoints.md"), "path")] == list(ENDPOINTS)


def test_the_page_of_checks_names_what_stands_in_for_a_field() -> None:
    rows = table(read("docs/validation.md"), "path")
    for row, check in zip(rows, CHECKS, strict=True):
        assert ("not looked at if" in row[2]) == bool(check.unless_field)
        assert (check.unless_field or "") in row[2]


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_setting_that_a_page_names_exists(page: Path) -> None:
    known = settings()
    named = _VARIABLE.findall(page.read_text())
    unknown = {
        name
        for name, rest in named
        if not (rest and any(other.startswith(f"{name}_") for other in known))
    } - known
    assert unknown == set()


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_a_link_to_a_part_of_a_page_finds_it(page: Path) -> None:
    links = re.findall(r"\]\(([^)#:]*)#([^)]+)\)", page.read_text())
    targets = [(page.parent / target if target else page, anchor) for target, anchor in links]
    assert [anchor for target, anchor in targets if anchor not in anchors(target)] == []


def test_every_page_is_in_the_index() -> None:
    index = TOP / "docs/README.md"
    linked = {
        (index.parent / link).resolve() for link in re.findall(r"\]\(([^)#:]+)", index.read_text())
    }
    assert {page for page in PAGES if page != index} <= linked


def test_every_metric_is_documented_as_it_is_declared() -> None:
    documented = [tuple(row) for row in table(read("docs/operating/metrics.md"), "metric")]
    declared = [
        (metric.name, metric.kind, ", ".join(metric.labels), metric.documentation.replace("`", ""))
        for metric in DECLARATIONS
    ]
    assert documented == declared


async def test_every_metric_is_at_metrics_under_its_name() -> None:
    named = dict(re.findall(r"^# TYPE (\S+) (\S+)$", metrics_text().decode(), re.MULTILINE))
    # a gateway's collector has those
    counted = {metric.name: metric.kind for metric in DECLARATIONS if metric.kind != "gauge"}
    assert {
        name: kind for name, kind in named.items() if not name.startswith("process_")
    } == counted


def test_every_header_that_is_written_is_in_the_wire_format() -> None:
    request = RequestRecord(
        "0", "m", "/p", b"", True, 0, 0, 0, 0, "t", "h", (("a", "b"),), "p", True
    )
    final = ReplyRecord(
        "0",
        "o",
        FINAL,
        status=200,
        outcome="completed",
        code="c",
        by_gateway=True,
        notes=(("a", "b"),),
    )
    claim = ReplyRecord("0", "o", CLAIM, supersedes="w", deaths=1, dead=("w",))
    written = header_names(
        request.encode_headers(),
        final.encode_headers(),
        claim.encode_headers(),
        ControlRecord("0", ControlRecord.CANCEL).encode_headers(),
    )
    explained = set(re.findall(r"`([a-z-]+)(?:: [a-z]+)?`", read("docs/wire-format.md")))
    assert written - explained == set()


@pytest.mark.parametrize(
    ("kind", "member"),
    [(WorkerHeartbeat, "worker"), (GatewayHeartbeat, "gateway"), (ModelRegistration, "owned_by")],
)
def test_the_examples_of_heartbeats_and_cards_have_the_members_that_are_written(
    kind: type, member: str
) -> None:
    found = [example for example in objects(read("docs/wire-format.md")) if member in example]
    assert found
    for example in found:
        assert list(example) == [item.name for item in fields(kind)]
