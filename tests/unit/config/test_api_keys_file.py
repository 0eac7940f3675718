"""The keys file: what may stand there, and that its faults are told without telling what stands
there.
"""

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import yaml

from app.config.api_keys_file import KeyEntry, hash_key, parse_keys, read_keys_file, write_keys
from app.errors import SettingsError

PATH = Path("keys.yaml")
HASH = hash_key(b"sk-of-a-test")


def entry(**members: Any) -> dict[str, Any]:
    return {"id": "a1", "tenant": "research", "hash": HASH, **members}


def parsed(*entries: Any) -> tuple[KeyEntry, ...]:
    return parse_keys(yaml.safe_dump({"keys": list(entries)}).encode(), PATH)


def fault(content: str | bytes) -> str:
    with pytest.raises(SettingsError) as refused:
        parse_keys(content.encode() if isinstance(content, str) else content, PATH)
    text = str(refused.value)
    assert text.startswith("API_KEYS_FILE: keys.yaml: ")
    assert "for example" in text
    assert "\n" not in text
    return text


def test_an_entry_needs_an_id_a_tenant_and_a_hash_and_limits_nothing_else():
    (only,) = parsed(entry())
    assert (only.id, only.tenant, only.hash) == ("a1", "research", HASH)
    assert (only.models, only.rpm, only.tpm, only.concurrent, only.expires, only.priority) == (
        (),
        None,
        None,
        None,
        None,
        "normal",
    )


def test_an_expiry_is_utc_unless_it_says_otherwise():
    times = [
        "2030-01-02",
        "2030-01-02T03:04:05",
        "2030-01-02T03:04:05Z",
        "2030-01-02T03:04:05+02:00",
    ]
    found = [
        parse_keys(f"keys: [{{id: a, tenant: t, hash: '{HASH}', expires: {time}}}]".encode(), PATH)[
            0
        ].expires
        for time in times
    ]
    at = datetime(2030, 1, 2, 3, 4, 5, tzinfo=UTC)
    assert found == [datetime(2030, 1, 2, tzinfo=UTC), at, at, at.replace(hour=1)]


@pytest.mark.parametrize(
    ("member", "value"),
    [
        ("id", "two words"),
        ("id", 7),
        ("tenant", ""),
        ("tenant", "a:b"),
        ("hash", "sk-1234"),
        ("hash", HASH.upper()),
        ("models", "gpt"),
        ("rpm", 0),
        ("tpm", -1),
        ("concurrent", 1.5),
        ("id", "a\nb"),
        ("priority", "urgent"),
        ("expires", "soon"),
        ("key", "sk-1234"),
    ],
)
def test_a_wrong_member_is_named_with_its_entry_and_without_its_value(member, value):
    text = fault(
        yaml.safe_dump({"keys": [entry(id="first", hash=hash_key(b"x")), entry(**{member: value})]})
    )
    assert "key 2" in text
    assert member in text
    assert "sk-1234" not in text


@pytest.mark.parametrize(
    ("member", "other"), [("id", {"hash": hash_key(b"x")}), ("hash", {"id": "b"})]
)
def test_two_keys_have_no_id_and_no_hash_in_common(member, other):
    assert f"key 2 ({other.get('id', 'a1')!r}): another key has the same {member}" in fault(
        yaml.safe_dump({"keys": [entry(), entry(**other)]})
    )


def test_two_keys_may_share_a_tenant():
    assert len(parsed(entry(), entry(id="b", hash=hash_key(b"x")))) == 2


def test_what_is_no_yaml_is_named_by_its_line_and_not_shown():
    text = fault("keys:\n  - id: a\n   tenant: [sk-secret\n")
    assert "line 3" in text
    assert "sk-secret" not in text


def test_a_name_that_an_entry_has_twice_is_named_by_its_line():
    assert "line 2 has a name that its entry has already" in fault(
        f"keys: [{{id: a, tenant: t, hash: '{HASH}',\n  id: b}}]"
    )


def test_a_list_that_is_none_is_told_so():
    assert "models: expected a list" in fault(yaml.safe_dump({"keys": [entry(models="gpt")]}))


def test_a_list_of_no_models_is_no_leave_to_use_all():
    assert "key 1 ('a1'): models: expected at least one model" in fault(
        yaml.safe_dump({"keys": [entry(models=[])]})
    )


@pytest.mark.parametrize(
    "value",
    ["2026-02-30", "2026-01-01T25:00:00Z", "!!int sk-secret", "!!timestamp sk-secret", '!!int ""'],
)
def test_a_value_that_cannot_be_is_named_by_its_line_and_not_shown(value):
    text = fault(f"keys:\n  - {{id: a, tenant: t}}\n  - id: b\n    expires: {value}\n")
    assert "line 4" in text
    assert value not in text


@pytest.mark.parametrize(
    "content", ["", "[]", "keys:", "keys: {}", "key: []", b"\xff\xfe\xff", b"\x00"]
)
def test_what_has_no_list_of_keys_is_refused(content):
    fault(content)


@pytest.mark.parametrize("raw", ["sk-secret", ["sk-secret"], None, {"sk-secret-but-long" * 9: 1}])
def test_what_is_no_entry_is_refused_by_its_place(raw):
    text = fault(yaml.safe_dump({"keys": [raw]}))
    assert "key 1" in text
    assert len(text) < 400


def test_an_empty_list_is_a_file_without_keys():
    assert parsed() == ()


def test_a_file_that_is_not_there_is_said(tmp_path):
    with pytest.raises(SettingsError, match="cannot be read"):
        read_keys_file(tmp_path / "nowhere.yaml")


def test_what_is_written_is_read_again_as_it_was(tmp_path):
    path = tmp_path / "keys.yaml"
    entries = parsed(
        entry(
            models=["a/b", "c"],
            rpm=1,
            tpm=2,
            concurrent=3,
            priority="low",
            expires="2030-01-02T03:04:05Z",
        ),
        entry(id="123", hash="1" * 64),  # as YAML writes numbers
    )
    write_keys(path, entries)
    assert parse_keys(path.read_bytes(), path) == entries


def test_a_file_is_replaced_at_once_with_its_mode_and_behind_its_link(tmp_path):
    real, link = tmp_path / "real.yaml", tmp_path / "link.yaml"
    write_keys(real, ())
    real.chmod(0o640)
    link.symlink_to(real)
    before = real.stat().st_ino
    write_keys(link, parsed(entry()))
    assert link.is_symlink()
    assert real.stat().st_ino != before  # who has it open goes on reading the old one
    assert real.stat().st_mode & 0o777 == 0o640
    assert sorted(path.name for path in tmp_path.iterdir()) == ["link.yaml", "real.yaml"]


def test_what_cannot_be_written_leaves_the_old_file_and_nothing_beside_it(tmp_path, monkeypatch):
    path = tmp_path / "keys.yaml"
    write_keys(path, parsed(entry()))

    def full(_descriptor: int) -> None:
        raise OSError("no space left")

    monkeypatch.setattr("app.config.api_keys_file.os.fsync", full)
    with pytest.raises(OSError, match="no space"):
        write_keys(path, ())
    assert len(parse_keys(path.read_bytes(), path)) == 1
    assert list(tmp_path.iterdir()) == [path]
