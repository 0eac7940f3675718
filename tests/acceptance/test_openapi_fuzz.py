"""Requests made from our own OpenAPI document, right ones and wrong ones, in any field: none is
answered by a 5xx.
"""

from typing import Any

import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from schemathesis import Case, GenerationMode

from app.gateway.openapi import build_document
from tests.acceptance.asking import CHAT
from tests.acceptance.processes import PATIENCE
from tests.acceptance.raw import BODY
from tests.acceptance.services import Gateway

EXAMPLES = 20  # for each operation, right and wrong
OPERATIONS = [
    found.ok()
    for found in schemathesis.openapi.from_dict(build_document(["echo"])).get_all_operations()
]
# any text is right in a path
CAN_BE_WRONG = [operation for operation in OPERATIONS if operation.body or operation.query]
CASES = [
    *[pytest.param(one, GenerationMode.POSITIVE, id=f"{one.label}, right") for one in OPERATIONS],
    *[pytest.param(one, GenerationMode.NEGATIVE, id=f"{one.label}, wrong") for one in CAN_BE_WRONG],
]


@pytest.mark.parametrize(("operation", "mode"), CASES)
def test_nothing_that_our_document_describes_is_answered_by_a_5xx(
    echo: Gateway, operation: Any, mode: GenerationMode
) -> None:
    with requests.Session() as session:
        known = accepted_request(echo, session)

        @settings(
            max_examples=EXAMPLES,
            deadline=None,
            database=None,
            suppress_health_check=list(HealthCheck),
        )
        @given(case=operation.as_strategy(generation_mode=mode), real=st.booleans())
        def ask(case: Case, real: bool) -> None:
            if real:
                aim(case, known)
            response = case.call(
                base_url=echo.root,
                session=session,
                headers={"X-Request-Timeout": "10"},
                timeout=PATIENCE,
            )
            assert response.status_code < 500, case.as_curl_command()
            if response.status_code >= 400:
                assert is_an_error(response.json()), case.as_curl_command()

        ask()


def is_an_error(document: dict[str, Any]) -> bool:
    """Whether a body is an error of OpenAI's API, or of Anthropic's."""
    members = set(document["error"])
    if "type" in document:
        members.discard("details")
    return (
        members == {"message", "type", "param", "code"} and document.get("type", "error") == "error"
    )


def aim(case: Case, id_: str) -> None:
    """At a model and a request that are there: else most of what is made up ends at a 404."""
    if isinstance(case.body, dict):
        case.body["model"] = "echo"
    for name, value in (("model", "echo"), ("id", id_)):
        if name in case.path_parameters:
            case.path_parameters[name] = value


def accepted_request(gateway: Gateway, session: requests.Session) -> str:
    """The id of a request that the gateway has."""
    response = session.post(
        gateway.root + CHAT, data=BODY, headers={"Prefer": "respond-async"}, timeout=PATIENCE
    )
    id_: str = response.json()["id"]
    return id_
