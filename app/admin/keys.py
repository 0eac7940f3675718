"""The keys of API_KEYS_FILE: making one, showing what there is, taking one out. Gateways follow
within seconds.
"""

import argparse
import fcntl
import os
import re
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

from pydantic import ValidationError

from app.config.api_keys_file import (
    KeyEntry,
    assume_utc,
    hash_key,
    parse_keys,
    read_keys_file,
    write_keys,
)
from app.config.settings import Settings
from app.errors import SettingsError

# whose absence says what it says in the file
_OPTIONS = ("models", "rpm", "tpm", "concurrent", "priority", "expires")
_UNTIL = (
    "how long it is good, or until when: 90m, 12h, 30d, 2031-01-31, "
    "2031-01-31T18:00:00Z; without it for ever"
)
_UNITS = {"m": "minutes", "h": "hours", "d": "days"}


def expiry(text: str) -> datetime:
    """From now on `90m`, `12h` or `30d`, or a date or a time as in the file, in UTC unless it says
    otherwise; for argparse.
    """
    now = datetime.now(UTC).replace(microsecond=0)
    if found := re.fullmatch(r"([1-9]\d{0,5})([mhd])", text):
        return now + timedelta(**{_UNITS[found[2]]: int(found[1])})
    try:
        until = assume_utc(datetime.fromisoformat(text))
    except ValueError:
        raise argparse.ArgumentTypeError(
            "minutes, hours or days from now (90m, 12h, 30d), or a date or a time "
            "(2031-01-31, 2031-01-31T18:00:00Z)"
        ) from None
    if until <= now:
        raise argparse.ArgumentTypeError(f"{text} has passed")
    return until


def named_models(text: str) -> tuple[str, ...]:
    """`gpt,qwen`; for argparse."""
    names = tuple(name.strip() for name in text.split(",") if name.strip())
    if not names:
        raise argparse.ArgumentTypeError(
            "it names no model; a key that may use all is made without --models"
        )
    return names


def add_commands(rooms: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """`keys new|list|revoke`; each needs no bus."""
    commands = rooms.add_parser("keys", help="who may call").add_subparsers(
        required=True, metavar="new|list|revoke"
    )
    make = commands.add_parser("new", help="make a key and print it, once, as the last word")
    make.set_defaults(offline=new)
    make.add_argument(
        "--tenant",
        required=True,
        help="whose it is; keys of one tenant share its limits and its requests",
    )
    make.add_argument(
        "--id", default="", help="what list, revoke and the logs call it; without it a random one"
    )
    make.add_argument(
        "--models",
        type=named_models,
        metavar="a,b",
        help="the models that it may use; without it all",
    )
    for name, help_ in (
        ("rpm", "requests a minute"),
        ("tpm", "tokens a minute"),
        ("concurrent", "requests at once"),
    ):
        make.add_argument(
            f"--{name}",
            type=int,
            metavar="N",
            help=f"{help_}, with each model; without it no limit",
        )
    make.add_argument("--priority", choices=("low", "normal", "high"), default="normal")
    make.add_argument("--expires", type=expiry, metavar="30d", help=_UNTIL)
    commands.add_parser(
        "list", help="every key with its tenant and limits, never the key itself"
    ).set_defaults(offline=show)
    revoke_ = commands.add_parser("revoke", help="take a key out")
    revoke_.set_defaults(offline=revoke)
    revoke_.add_argument("id")


def new(settings: Settings, arguments: argparse.Namespace) -> int:
    key = f"sk-{secrets.token_hex(24)}"
    entry = _entry(key, arguments)
    with _editing(_path(settings)) as entries:
        if any(other.id == entry.id for other in entries):
            raise SettingsError(
                f"--id: there is a key {entry.id} already; revoke it first or choose another id"
            )
        entries.append(entry)
    print(f"{_line(entry)}\nThe key itself, which is kept nowhere and not shown again: {key}")
    return 0


def show(settings: Settings, _arguments: argparse.Namespace) -> int:
    entries = _read(_path(settings))
    for entry in entries:
        print(_line(entry))
    print(f"{len(entries)} keys")
    return 0


def revoke(settings: Settings, arguments: argparse.Namespace) -> int:
    with _editing(_path(settings)) as entries:
        found = [entry for entry in entries if entry.id == arguments.id]
        for entry in found:
            entries.remove(entry)
    print(f"{arguments.id} is revoked" if found else f"there is no key {arguments.id}")
    return 0 if found else 1


def _entry(key: str, arguments: argparse.Namespace) -> KeyEntry:
    given = {name: value for name in _OPTIONS if (value := getattr(arguments, name)) is not None}
    try:
        return KeyEntry(
            id=arguments.id or secrets.token_hex(4),
            tenant=arguments.tenant,
            hash=hash_key(key.encode()),
            **given,
        )
    except ValidationError as error:
        first = error.errors(include_input=False)[0]
        raise SettingsError(f"--{first['loc'][0]}: {first['msg']}") from None


def _path(settings: Settings) -> Path:
    if not settings.gateway.api_keys_file:
        raise SettingsError("API_KEYS_FILE: is not set; for example API_KEYS_FILE=keys/keys.yaml")
    return Path(settings.gateway.api_keys_file)


def _read(path: Path) -> list[KeyEntry]:
    return list(parse_keys(read_keys_file(path), path)) if path.exists() else []


@contextmanager
def _editing(path: Path) -> Iterator[list[KeyEntry]]:
    """The entries, to be changed; written if they were, by one process at a time."""
    try:
        # the file itself is replaced, so it can hold no lock
        directory = os.open(path.resolve().parent, os.O_RDONLY)
    except OSError as error:
        raise SettingsError(
            f"API_KEYS_FILE: the directory of {path} cannot be read ({error.strerror})"
        ) from None
    try:
        fcntl.flock(directory, fcntl.LOCK_EX)
        entries = _read(path)
        before = list(entries)
        yield entries
        if entries != before:
            write_keys(path, entries)
    except OSError as error:
        raise SettingsError(f"API_KEYS_FILE: {path} cannot be written ({error.strerror})") from None
    finally:
        os.close(directory)


def _line(entry: KeyEntry) -> str:
    limits = [
        f"{name}={getattr(entry, name)}"
        for name in ("rpm", "tpm", "concurrent")
        if getattr(entry, name)
    ]
    models = [f"models={','.join(entry.models)}"] if entry.models else []
    priority = [f"priority={entry.priority}"] if entry.priority != "normal" else []
    return " ".join(
        [f"{entry.id} tenant={entry.tenant}", *models, *limits, *priority, *_expiry(entry)]
    )


def _expiry(entry: KeyEntry) -> list[str]:
    if entry.expires is None:
        return []
    word = "expired" if entry.expires < datetime.now(UTC) else "expires"
    return [f"{word}={entry.expires.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}"]
