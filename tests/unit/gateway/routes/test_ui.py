"""The files of the page /ui over HTTP: all there, nothing from elsewhere, and nothing that could
run what a model writes.
"""

import re
from urllib.parse import urljoin

import httpx2
import pytest
from fastapi import FastAPI

from app.gateway.routes.ui import INDEX_FILE, MEDIA_TYPES, UI_DIRECTORY, routes

ASSETS = sorted(path.name for path in UI_DIRECTORY.iterdir() if path.name != INDEX_FILE)
MOST_LINES = 300


@pytest.fixture
async def client():
    application = FastAPI(openapi_url=None, docs_url=None, redoc_url=None, routes=routes())
    async with httpx2.AsyncClient(
        transport=httpx2.ASGITransport(application), base_url="http://gateway"
    ) as client:
        yield client


def read(name):
    return (UI_DIRECTORY / name).read_text()


def policy(response):
    """The directives of its Content-Security-Policy."""
    parts = [part.split() for part in response.headers["content-security-policy"].split(";")]
    return {name: values for name, *values in parts}


async def test_the_page_and_all_that_it_loads_are_served_here(client):
    page = await client.get("/ui")
    assert (page.status_code, page.headers["content-type"]) == (200, "text/html; charset=utf-8")
    loaded = re.findall(r'<(?:link|script)\b[^>]*(?:href|src)="([^"]+)"', page.text)
    assert len(loaded) >= 3
    for name in loaded:
        assert (await client.get(urljoin("http://gateway/ui", name))).status_code == 200


def test_a_module_imports_what_is_there_and_by_name_what_that_exports():
    imported = [
        (name, *found)
        for name in ASSETS
        for found in re.findall(r'import \{([^}]+)\} from "\./([^"]+)"', read(name))
    ]
    assert imported
    for name, names, other in imported:
        exported = set(
            re.findall(r"export (?:async )?(?:const|class|function\*?) (\w+)", read(other))
        )
        assert {one.strip() for one in names.split(",")} <= exported, name


@pytest.mark.parametrize("name", ASSETS)
async def test_a_file_has_its_type_and_is_asked_for_again_each_time(client, name):
    reply = await client.get(f"/ui/{name}")
    assert reply.status_code == 200
    assert reply.headers["content-type"].split(";")[0] == MEDIA_TYPES["." + name.rpartition(".")[2]]
    assert reply.headers["cache-control"] == "no-cache"
    again = await client.get(f"/ui/{name}", headers={"if-none-match": reply.headers["etag"]})
    assert (again.status_code, again.content, again.headers["etag"]) == (
        304,
        b"",
        reply.headers["etag"],
    )
    changed = await client.get(f"/ui/{name}", headers={"if-none-match": '"of before"'})
    assert (changed.status_code, changed.content) == (200, reply.content)


@pytest.mark.parametrize("path", ["/ui", "/ui/main.js"])
async def test_the_policy_lets_the_page_load_and_send_nothing_elsewhere(client, path):
    reply = await client.get(path)
    found = policy(reply)
    assert found["default-src"] == ["'none'"]
    assert {
        value for name, values in found.items() if name.endswith("-src") for value in values
    } == {"'none'", "'self'"}
    assert found["require-trusted-types-for"] == ["'script'"]
    assert found["frame-ancestors"] == found["base-uri"] == found["form-action"] == ["'none'"]
    assert reply.headers["x-frame-options"] == "DENY"
    assert reply.headers["referrer-policy"] == "no-referrer"


@pytest.mark.parametrize("name", [INDEX_FILE, *ASSETS])
def test_a_file_names_nothing_of_the_internet_and_stays_short(name):
    text = read(name)
    assert len(text.splitlines()) <= MOST_LINES
    # a namespace; where a comment points
    known = ("http://www.w3.org/2000/svg", "https://html.spec.whatwg.org/")
    assert [
        found
        for found in re.findall(r"(?:https?:)?//[\w.]+\.\w[^\s\"']*", text)
        if not found.startswith(known)
    ] == []


@pytest.mark.parametrize("name", [name for name in ASSETS if name.endswith(".js")])
def test_no_module_makes_html_or_code_out_of_text(name):
    assert not re.search(
        r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\b|new Function|srcdoc",
        read(name),
    )


def test_the_page_has_no_script_or_style_of_its_own_which_the_policy_would_refuse():
    page = read(INDEX_FILE)
    assert not re.search(r"<script(?![^>]*\bsrc=)|<style|\bstyle=|\bon\w+=", page)


async def test_below_a_proxys_path_the_page_still_finds_its_files(client):
    for address in re.findall(r'(?:href|src)="([^"#][^"]*)"', (await client.get("/ui")).text):
        assert urljoin("http://proxy/llm/ui", address).startswith("http://proxy/llm/")


@pytest.mark.parametrize("name", ["index.html", "..%2frecent.py", "../recent.py", "nothing.js", ""])
async def test_nothing_else_is_served(client, name):
    assert (await client.get(f"/ui/{name}", follow_redirects=False)).status_code in (404, 307)


async def test_only_get_is_taken(client):
    assert (await client.post("/ui")).status_code == 405
    assert (await client.head("/ui")).status_code == 200
