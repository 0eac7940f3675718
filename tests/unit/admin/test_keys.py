"""python -m app.admin keys: what it writes, what it prints, and that no key is kept."""

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from app.admin.__main__ import parser
from app.config.api_keys_file import KeyEntry, hash_key, parse_keys
from app.config.settings import load_settings
from app.errors import SettingsError


class Console:
    """An operator at a keys file."""

    def __init__(self, path: Path, output: pytest.CaptureFixture[str]) -> None:
        self.path = path
        self._output = output

    def types(self, *words: str) -> tuple[int, str]:
        """Exit status and output of `keys` with these arguments."""
        arguments = parser().parse_args(["keys", *words])
        status = arguments.offline(load_settings({"API_KEYS_FILE": str(self.path)}), arguments)
        return status, self._output.readouterr().out

    @property
    def entries(self) -> tuple[KeyEntry, ...]:
        return parse_keys(self.path.read_bytes(), self.path)


@pytest.fixture
def console(tmp_path, capsys) -> Console:
    return Console(tmp_path / "keys.yaml", capsys)


def test_a_new_key_is_the_last_word_and_only_its_hash_is_kept(console):
    status, output = console.types("new", "--tenant", "research")
    key = output.split()[-1]
    (entry,) = console.entries
    assert (status, entry.tenant, entry.hash) == (0, "research", hash_key(key.encode()))
    assert key not in console.path.read_text()
    assert len(key) == 51
    assert output.count(key) == 1


def test_each_key_is_another_one(console):
    keys = {console.types("new", "--tenant", "t")[1].split()[-1] for _ in range(5)}
    assert len(keys) == len({entry.id for entry in console.entries}) == 5


def test_a_key_has_the_limits_it_was_made_with(console):
    limits = ["--rpm", "60", "--tpm", "9000", "--concurrent", "4", "--priority", "high"]
    before = datetime.now(UTC)
    console.types(
        "new", "--tenant", "t", "--id", "alice", "--models", "a/b,c", "--expires", "30d", *limits
    )
    (entry,) = console.entries
    assert (entry.id, entry.models, entry.rpm, entry.tpm, entry.concurrent) == (
        "alice",
        ("a/b", "c"),
        60,
        9000,
        4,
    )
    assert entry.priority == "high"
    assert entry.expires is not None
    assert abs(entry.expires - before - timedelta(days=30)) < timedelta(minutes=1)


def test_the_list_shows_everything_but_keys_and_hashes(console):
    key = console.types(
        "new", "--tenant", "research", "--id", "one", "--rpm", "60", "--models", "m"
    )[1].split()[-1]
    console.types("new", "--tenant", "sales", "--id", "two")
    status, output = console.types("list")
    assert (status, output.splitlines()) == (
        0,
        ["one tenant=research models=m rpm=60", "two tenant=sales", "2 keys"],
    )
    assert key not in output
    assert console.entries[0].hash not in output


def test_the_list_says_which_keys_have_expired(console):
    hash_ = hash_key(b"x")
    console.path.write_text(f"keys: [{{id: old, tenant: t, hash: '{hash_}', expires: 2020-01-01}}]")
    assert "old tenant=t expired=2020-01-01T00:00:00Z" in console.types("list")[1]


def test_a_revoked_key_is_gone_and_the_others_stay(console):
    for id_ in ("one", "two"):
        console.types("new", "--tenant", "t", "--id", id_)
    assert console.types("revoke", "one") == (0, "one is revoked\n")
    assert [entry.id for entry in console.entries] == ["two"]


def test_a_key_that_is_not_there_cannot_be_revoked(console):
    assert console.types("revoke", "one") == (1, "there is no key one\n")
    assert not console.path.exists()


@pytest.mark.parametrize(
    ("words", "option"),
    [
        (["--tenant", "a b"], "--tenant"),
        (["--tenant", "t", "--rpm", "0"], "--rpm"),
        (["--tenant", "t", "--id", "-"], "--id"),
    ],
)
def test_what_cannot_stand_in_the_file_is_refused_by_its_option(console, words, option):
    with pytest.raises(SettingsError, match=f"^{option}: "):
        console.types("new", *words)
    assert not console.path.exists()


@pytest.mark.parametrize("text", ["", ",", " , "])
def test_models_that_come_out_empty_are_no_leave_to_use_all(console, text, capsys):
    with pytest.raises(SystemExit) as refused:
        console.types("new", "--tenant", "t", "--models", text)
    assert refused.value.code == 2
    assert "--models: it names no model" in capsys.readouterr().err
    assert not console.path.exists()


def test_an_id_stands_for_one_key(console):
    console.types("new", "--tenant", "t", "--id", "one")
    with pytest.raises(SettingsError, match="there is a key one already"):
        console.types("new", "--tenant", "t", "--id", "one")
    assert len(console.entries) == 1


@pytest.mark.parametrize(
    "text",
    ["30", "0d", "-1d", "1w", "d", "1.5h", "9999999d", "", "2031-02-30", "2031-01-31T25:00:00Z"],
)
def test_an_expiry_is_so_many_minutes_hours_or_days_or_a_time(console, text, capsys):
    with pytest.raises(SystemExit):
        console.types("new", "--tenant", "t", f"--expires={text}")
    assert "(90m, 12h, 30d), or a date" in capsys.readouterr().err


@pytest.mark.parametrize(
    "text",
    ["2999-01-31", "2999-01-31T18:00:00", "2999-01-31T18:00:00Z", "2999-01-31T18:00:00.5+02:00"],
)
def test_an_expiry_may_be_a_date_or_a_time_as_in_the_file(console, text):
    console.types("new", "--tenant", "t", "--expires", text)
    by_hand = parse_keys(
        f"keys: [{{id: a, tenant: t, hash: '{hash_key(b'x')}', expires: {text}}}]".encode(),
        console.path,
    )
    assert console.entries[0].expires == by_hand[0].expires is not None


@pytest.mark.parametrize("text", ["2020-01-31", "2020-01-31T18:00:00Z"])
def test_a_key_that_would_have_expired_already_is_not_made(console, text, capsys):
    with pytest.raises(SystemExit):
        console.types("new", "--tenant", "t", "--expires", text)
    assert f"{text} has passed" in capsys.readouterr().err
    assert not console.path.exists()


def test_a_broken_file_is_left_as_it_is(console):
    console.path.write_text("keys: [{id: a")
    for words in (["new", "--tenant", "t"], ["list"], ["revoke", "a"]):
        with pytest.raises(SettingsError, match="is no YAML"):
            console.types(*words)
    assert console.path.read_text() == "keys: [{id: a"


def test_without_a_file_in_the_settings_the_command_says_which():
    arguments = parser().parse_args(["keys", "list"])
    with pytest.raises(SettingsError, match=r"^API_KEYS_FILE: .*for example"):
        arguments.offline(load_settings({}), arguments)


def test_operators_at_the_same_time_lose_nothing(tmp_path):
    path = tmp_path / "keys.yaml"

    def new(_: int) -> str:
        command = [sys.executable, "-m", "app.admin", "keys", "new", "--tenant", "t"]
        environment = {"API_KEYS_FILE": str(path), "PYTHONPATH": str(Path(__file__).parents[3])}
        return subprocess.run(
            command, env=environment, cwd=tmp_path, capture_output=True, text=True, check=True
        ).stdout.split()[-1]

    with ThreadPoolExecutor(4) as pool:
        keys = list(pool.map(new, range(4)))
    assert {entry.hash for entry in parse_keys(path.read_bytes(), path)} == {
        hash_key(key.encode()) for key in keys
    }
