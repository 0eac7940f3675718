"""Swagger UI and the document over HTTP, with nothing fetched from elsewhere."""

import re
from urllib.parse import urljoin

import httpx2
import pytest
from fastapi import FastAPI

from app.gateway.openapi import build_document
from app.gateway.routes.docs import ASSET_MEDIA_TYPES, routes


@pytest.fixture
def models():
    return []


@pytest.fixture
async def client(models):
    application = FastAPI(
        openapi_url=None,
        docs_url=None,
        redoc_url=None,
        routes=routes(lambda _: tuple(models), build_document),
    )
    async with httpx2.AsyncClient(
        transport=httpx2.ASGITransport(application), base_url="http://gateway"
    ) as client:
        yield client


async def test_all_that_the_page_loads_is_served_here(client):
    page = await client.get("/docs")
    assert page.status_code == 200
    assert page.headers["content-type"].startswith("text/html")
    assert not re.search(r"https?:|//\w", page.text.replace("<!--", "").replace("-->", ""))
    loaded = re.findall(r"""(?:href|src)="([^"]+)"|url: '([^']+)'""", page.text)
    addresses = {urljoin("http://gateway/docs", one or other) for one, other in loaded}
    assert addresses == {
        "http://gateway/openapi.json",
        *(f"http://gateway/docs/{name}" for name in ASSET_MEDIA_TYPES),
    }
    for address in addresses:
        assert (await client.get(address)).status_code == 200


async def test_below_a_proxys_path_the_page_still_finds_its_assets(client):
    page = (await client.get("/docs")).text
    for address in re.findall(r"""(?:href|src)="([^"]+)"|url: '([^']+)'""", page):
        assert urljoin("http://proxy/llm/docs", "".join(address)).startswith("http://proxy/llm/")


@pytest.mark.parametrize(("name", "kind"), ASSET_MEDIA_TYPES.items())
async def test_assets_have_their_type_and_may_be_kept(client, name, kind):
    reply = await client.get(f"/docs/{name}")
    assert reply.headers["content-type"].split(";")[0] == kind
    assert "max-age" in reply.headers["cache-control"]
    assert len(reply.content) > 500


@pytest.mark.parametrize("name", ["__init__.py", "..%2f..%2fmain.py", "nothing.js"])
async def test_nothing_else_of_the_package_is_served(client, name):
    assert (await client.get(f"/docs/{name}")).status_code == 404


async def test_the_page_sends_nothing_to_an_online_validator(client):
    assert '"validatorUrl": null' in (await client.get("/docs")).text


async def test_the_document_names_the_models_of_the_moment(client, models):
    assert "`echo`" in (await client.get("/openapi.json")).json()["info"]["description"]
    models.append("new-one")
    reply = await client.get("/openapi.json")
    assert reply.headers["content-type"] == "application/json"
    assert "`new-one`" in reply.json()["info"]["description"]


async def test_the_document_is_made_once_for_each_set_of_models():
    made = []

    def make(names):
        made.append(tuple(names))
        return build_document(names)

    shown = {"models": ("a",)}
    application = FastAPI(
        openapi_url=None,
        docs_url=None,
        redoc_url=None,
        routes=routes(lambda _: shown["models"], make),
    )
    async with httpx2.AsyncClient(
        transport=httpx2.ASGITransport(application), base_url="http://gateway"
    ) as client:
        first = await client.get("/openapi.json")
        assert (
            await client.get("/openapi.json", headers={"if-none-match": first.headers["etag"]})
        ).status_code == 304
        shown["models"] = ()
        other = await client.get("/openapi.json")
        assert other.headers["etag"] != first.headers["etag"]
        assert "`a`" not in other.text
    assert made == [("a",), ()]


async def test_only_get_is_taken(client):
    assert (await client.post("/docs")).status_code == 405
    assert (await client.head("/docs")).status_code == 200
