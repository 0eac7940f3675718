"""The keys file, watched: what is changed is in force, what does not work changes nothing."""

import asyncio
import logging
from dataclasses import replace
from pathlib import Path

import pytest

from app.config.api_keys_file import KeyEntry, hash_key, write_keys
from app.config.settings import load_settings
from app.errors import InvalidApiKey, SettingsError
from app.gateway.access.api_keys_watcher import ApiKeysWatcher
from app.gateway.access.authentication import Authenticator
from tests.unit.scene import until

BROKEN = "keys: [{id: a"


class Site:
    def __init__(self, path: Path) -> None:
        self.path = path
        self.write("sk-one")
        self.keys = Authenticator(replace(load_settings({}).gateway, api_keys_file=str(path)))
        self.file = ApiKeysWatcher(str(path), self.keys)

    def write(self, *keys: str) -> None:
        write_keys(
            self.path,
            [KeyEntry(id=key, tenant=f"tenant-{key}", hash=hash_key(key.encode())) for key in keys],
        )

    def opens(self, key: str) -> bool:
        try:
            self.keys.authenticate({"headers": [(b"authorization", f"Bearer {key}".encode())]})
        except InvalidApiKey:
            return False
        return True

    @property
    def in_force(self) -> list[float]:
        """What /metrics says of the file."""
        return [sample.value for gauge in self.file.collect() for sample in gauge.samples]


@pytest.fixture
def site(tmp_path) -> Site:
    return Site(tmp_path / "keys.yaml")


async def test_the_keys_are_good_from_the_start(site):
    assert site.opens("sk-one")
    assert not site.opens("sk-two")


async def test_a_changed_file_is_in_force_after_a_look(site, caplog):
    caplog.set_level(logging.INFO)
    site.write("sk-two", "sk-three")
    await site.file.reload_if_changed()
    assert [site.opens(key) for key in ("sk-one", "sk-two", "sk-three")] == [False, True, True]
    assert [record.message for record in caplog.records] == [
        f"{site.path} has changed: 2 keys are in force"
    ]


async def test_a_file_that_has_not_changed_is_not_read_as_new(site, caplog):
    caplog.set_level(logging.INFO)
    site.write("sk-one")
    await site.file.reload_if_changed()
    assert caplog.records == []


async def test_a_broken_file_changes_nothing_and_is_said_once(site, caplog):
    site.path.write_text(BROKEN)
    for _ in range(3):
        await site.file.reload_if_changed()
    assert site.opens("sk-one")
    (line,) = caplog.records
    assert line.levelno == logging.ERROR
    assert "is no YAML" in line.message
    assert "of before stay" in line.message


async def test_a_file_that_is_repaired_is_in_force_again(site):
    site.path.write_text(BROKEN)
    await site.file.reload_if_changed()
    site.write("sk-two")
    await site.file.reload_if_changed()
    assert site.opens("sk-two")


async def test_a_file_that_is_gone_changes_nothing_and_one_that_comes_back_counts(site, caplog):
    for _ in range(2):
        site.path.unlink()
        await site.file.reload_if_changed()
        await site.file.reload_if_changed()
        assert site.opens("sk-one")
        site.write("sk-one")
        await site.file.reload_if_changed()
    assert [record.levelno for record in caplog.records if "cannot be read" in record.message] == [
        logging.ERROR
    ] * 2


async def test_metrics_say_whether_the_file_as_it_stands_is_in_force(site):
    assert site.in_force == [1]
    for fault in (lambda: site.path.write_text(BROKEN), site.path.unlink):
        fault()
        for _ in range(2):
            await site.file.reload_if_changed()
            assert site.in_force == [0]
        site.write("sk-one")
        await site.file.reload_if_changed()
        assert site.in_force == [1]


async def test_a_running_watch_finds_the_change(site, monkeypatch):
    monkeypatch.setattr("app.gateway.access.api_keys_watcher._POLL_SECONDS", 0.01)
    watching = asyncio.create_task(site.file.watch())
    site.write("sk-two")
    await until(lambda: site.opens("sk-two"))
    watching.cancel()


async def test_a_watch_outlives_a_typo_so_that_a_key_revoked_later_is_out(
    site, monkeypatch, caplog
):
    monkeypatch.setattr("app.gateway.access.api_keys_watcher._POLL_SECONDS", 0.01)
    watching = asyncio.create_task(site.file.watch())
    site.path.write_text(site.path.read_text() + "  expires: 2026-02-30\n")
    await until(lambda: caplog.records)
    assert "line 6 has a value that cannot be" in caplog.records[0].message
    assert site.opens("sk-one")
    site.write("sk-two")
    await until(lambda: not site.opens("sk-one"))
    watching.cancel()


async def test_a_watch_outlives_what_nobody_has_thought_of_and_says_it(site, monkeypatch, caplog):
    monkeypatch.setattr("app.gateway.access.api_keys_watcher._POLL_SECONDS", 0.01)
    monkeypatch.setattr("app.gateway.access.api_keys_watcher.parse_keys", unthought_of)
    watching = asyncio.create_task(site.file.watch())
    site.write("sk-two")
    await until(lambda: caplog.records)
    assert "unthought of" in caplog.text
    assert site.in_force == [0]
    monkeypatch.undo()
    site.write("sk-three")
    await until(lambda: site.opens("sk-three"))
    assert site.in_force == [1]
    watching.cancel()


def unthought_of(*_: object) -> None:
    raise RuntimeError("unthought of")


async def test_without_a_file_there_is_nothing_to_watch():
    keys = Authenticator(load_settings({"ALLOW_ANONYMOUS": "1"}).gateway)
    none = ApiKeysWatcher("", keys)
    await none.watch()
    assert list(none.collect()) == []
    assert keys.authenticate({"headers": []}).tenant == "anonymous"


@pytest.mark.parametrize(
    "content", [None, BROKEN, "keys: [{id: a}]", "keys: [{expires: 2026-02-30}]"]
)
def test_at_the_start_a_file_that_does_not_work_is_refused(tmp_path, content):
    path = tmp_path / "keys.yaml"
    if content is not None:
        path.write_text(content)
    with pytest.raises(SettingsError, match=r"API_KEYS_FILE: .*keys\.yaml"):
        ApiKeysWatcher(str(path), Authenticator(load_settings({}).gateway))
