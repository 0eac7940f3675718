"""The keys file: who may call, and how much. `python -m app.admin keys` writes it, gateways read
it.

It holds hashes, never keys. A key is random and long, so a plain SHA-256 of it can be neither
guessed nor turned back.
"""

import hashlib
import os
import tempfile
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, field_validator

from app.config.yaml_file import describe_entry, parse_entries
from app.errors import SettingsError

EXAMPLE = "keys: [{id: one, tenant: research, hash: SHA-256 OF THE KEY, rpm: 60}]"

_NAME_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$"
_FILE_HEADER = (
    "# Written by python -m app.admin keys, which keeps no comments; "
    "docs/operating/keys.md says what may stand here.\n"
)
_DUMPER = getattr(yaml, "CSafeDumper", yaml.SafeDumper)  # ten times as fast, where PyYAML has it


class KeyEntry(BaseModel):
    """One key: whose it is, and what it may. None: no limit."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    id: str = Field(pattern=_NAME_PATTERN)
    tenant: str = Field(pattern=_NAME_PATTERN)
    hash: str = Field(pattern=r"^[0-9a-f]{64}$", repr=False)
    models: tuple[str, ...] = ()  # ids or aliases; without it all
    rpm: int | None = Field(default=None, ge=1)  # requests a minute, of the tenant with each model
    tpm: int | None = Field(default=None, ge=1)  # tokens a minute, likewise
    concurrent: int | None = Field(default=None, ge=1)  # requests at once, likewise
    priority: Literal["low", "normal", "high"] = "normal"
    expires: datetime | None = None  # UTC, unless it says otherwise

    @field_validator("models")
    @classmethod
    def _refuse_empty_models(cls, models: tuple[str, ...]) -> tuple[str, ...]:
        """A list that came out empty, of a variable that was not set, is not to open every
        model.
        """
        if not models:
            raise ValueError("at least one model; without the list the key may use all")
        return models

    @field_validator("expires")
    @classmethod
    def _set_expires_timezone(cls, expires: datetime | None) -> datetime | None:
        return expires and assume_utc(expires)


def assume_utc(time: datetime) -> datetime:
    """The same, in UTC unless it says otherwise."""
    return time if time.tzinfo else time.replace(tzinfo=UTC)


def hash_key(key: bytes) -> str:
    """What the file holds of a key."""
    return hashlib.sha256(key).hexdigest()


def read_keys_file(path: Path) -> bytes:
    """The file as it is. Raises SettingsError."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise _file_error(path, f"it cannot be read ({error.strerror})") from None


def parse_keys(content: bytes, path: Path) -> tuple[KeyEntry, ...]:
    """The entries in a file's content. Raises SettingsError, naming the line or the entry but not
    what stands there.
    """
    try:
        entries = tuple(parse_entries(content, "key", KeyEntry))
    except ValueError as error:
        raise _file_error(path, str(error)) from None
    _refuse_duplicates(entries, path)
    return entries


def write_keys(path: Path, entries: Iterable[KeyEntry]) -> None:
    """Replaces the file at once: who reads it finds the old entries or the new ones, whole. Raises
    OSError.
    """
    path = path.resolve()  # a link stays a link
    described = [entry.model_dump(mode="python", exclude_defaults=True) for entry in entries]
    content = _FILE_HEADER + yaml.dump(
        {"keys": [_convert_tuples(entry) for entry in described]}, Dumper=_DUMPER, sort_keys=False
    )
    # a gateway may run as another user
    mode = path.stat().st_mode & 0o777 if path.exists() else 0o644
    with tempfile.NamedTemporaryFile(
        "w", dir=path.parent, prefix=f".{path.name}.", delete=False
    ) as new:
        try:
            new.write(content)
            new.flush()
            os.fsync(new.fileno())
            os.chmod(new.name, mode)
            os.replace(new.name, path)
        except BaseException:
            os.unlink(new.name)
            raise


def _convert_tuples(entry: dict[str, Any]) -> dict[str, Any]:
    return {
        name: list(value) if isinstance(value, tuple) else value for name, value in entry.items()
    }


def _refuse_duplicates(entries: Iterable[KeyEntry], path: Path) -> None:
    for member in ("id", "hash"):
        seen: set[str] = set()
        for number, entry in enumerate(entries, 1):
            value = getattr(entry, member)
            if value in seen:
                raise _file_error(
                    path,
                    f"{describe_entry('key', number, entry.id)}: another key has the same {member}",
                )
            seen.add(value)


def _file_error(path: Path, fault: str) -> SettingsError:
    return SettingsError(f"API_KEYS_FILE: {path}: {fault}; for example {EXAMPLE}")
