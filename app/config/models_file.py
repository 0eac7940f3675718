"""The models as configured: MODELS_FILE, FIRST_OPENAI_* and SECOND_OPENAI_*, and a worker's own
OPENAI_*.
"""

import re
from collections.abc import Iterable
from pathlib import Path

from pydantic import SecretStr

from app.config.model_entry import ECHO, ModelEntry
from app.config.settings import ModelSettings, Settings
from app.config.yaml_file import describe_entry, parse_entries
from app.errors import SettingsError

EXAMPLE = 'models: [{id: qwen, host: "http://127.0.0.1:8011", upstream_model: Qwen/Qwen3-8B}]'

_VARIABLE_NAME = re.compile(r"[A-Z_][A-Z0-9_]*")


def load_embedded_models(settings: Settings) -> list[ModelEntry]:
    """The models of the embedded default: MODELS_FILE's, FIRST_OPENAI_*, SECOND_OPENAI_*; `echo` if
    there are none.

    Raises SettingsError.
    """
    models = settings.models
    entries = _read_models_file(settings) if models.file else []
    for order in ("first", "second"):
        entry = _make_numbered_entry(models, order)
        entries += [entry] if entry else []
    _refuse_duplicate_names(entries, "MODELS_FILE" if models.file else "SECOND_OPENAI_MODEL_NAME")
    return entries or [ECHO]


def load_worker_models(settings: Settings) -> list[ModelEntry]:
    """The models of `python -m app.agent`: the one OPENAI_MODEL_NAME names, or all of MODELS_FILE.
    Raises SettingsError.
    """
    models = settings.models
    if models.file:
        file_entries = _read_models_file(settings)
        entries = [entry for entry in file_entries if models.name in ("", entry.id)]
        if not entries:
            raise SettingsError(
                f"OPENAI_MODEL_NAME: {models.name!r} is not in MODELS_FILE; name one of its ids"
            )
        return entries
    if not models.name:
        raise SettingsError(
            "OPENAI_MODEL_NAME: is not set; for example OPENAI_MODEL_NAME=Qwen/Qwen3-8B"
        )
    return [_make_worker_entry(models)]


def _make_worker_entry(models: ModelSettings) -> ModelEntry:
    if models.name == ECHO.id and not models.host:
        return ECHO
    if not models.host:
        raise SettingsError(
            "OPENAI_HOST: is not set; for example OPENAI_HOST=http://127.0.0.1:8011"
        )
    return ModelEntry(
        id=models.name,
        host=models.host,
        token=SecretStr(models.token),
        continues="auto" if models.continues == "auto" else models.continues == "1",
        topic=models.request_topic,
        group=models.group,
        read_timeout=models.read_timeout,
    )


def _make_numbered_entry(models: ModelSettings, ordinal: str) -> ModelEntry | None:
    name, host = getattr(models, f"{ordinal}_name"), getattr(models, f"{ordinal}_host")
    token = getattr(models, f"{ordinal}_token")
    # an entry of the file may name that variable
    if not (name or host) and (not token or models.file):
        return None
    for part, value, example in (
        ("MODEL_NAME", name, "gpt-4o-mini"),
        ("HOST", host, "https://api.openai.com"),
    ):
        if not value:
            variable = f"{ordinal.upper()}_OPENAI_{part}"
            set_variables = " and ".join(
                f"{ordinal.upper()}_OPENAI_{other}"
                for other, text in (("TOKEN", token), ("MODEL_NAME", name), ("HOST", host))
                if text
            )
            raise SettingsError(
                f"{variable}: is not set, and {set_variables} is; for example {variable}={example}"
            )
    read_timeout = getattr(models, f"{ordinal}_read_timeout")
    return ModelEntry(id=name, host=host, token=SecretStr(token), read_timeout=read_timeout)


def _read_models_file(settings: Settings) -> list[ModelEntry]:
    path = Path(settings.models.file)
    try:
        file_entries = parse_entries(path.read_bytes(), "model", ModelEntry)
    except OSError as error:
        raise _file_error(path, f"it cannot be read ({error.strerror})") from None
    except ValueError as error:
        raise _file_error(path, str(error)) from None
    if not file_entries:
        raise _file_error(path, "it has no models")
    entries = [
        _resolve_entry(entry, number, settings) for number, entry in enumerate(file_entries, 1)
    ]
    _refuse_duplicate_names(entries, "MODELS_FILE")
    return entries


def _resolve_entry(entry: ModelEntry, number: int, settings: Settings) -> ModelEntry:
    """One of the file's models, with its token: the file has the name of a variable, so that no
    secret lies in it.
    """
    path, which = settings.models.file, describe_entry("model", number, entry.id)
    if entry.engine == "http" and not entry.host:
        raise _file_error(path, f"{which} has no host")
    variable = entry.token.get_secret_value()
    token = settings.environment.get(variable, "")
    if variable and not token:
        raise SettingsError(f"MODELS_FILE: {path}: {which}: {_describe_missing_token(variable)}")
    return entry.model_copy(update={"token": SecretStr(token)})


def _describe_missing_token(variable: str) -> str:
    """What is no variable's name may be the secret itself, so it is not shown."""
    if _VARIABLE_NAME.fullmatch(variable):
        return f"token names the variable {variable}, which is not set"
    return (
        "token takes the NAME of a variable of the environment or .env, not the token "
        "itself; for example token: GPT_TOKEN"
    )


def _refuse_duplicate_names(entries: Iterable[ModelEntry], setting: str) -> None:
    seen: set[str] = set()
    for entry in entries:
        for name in (entry.id, *entry.aliases):
            if name in seen:
                raise SettingsError(
                    f"{setting}: the name {name!r} stands for two models; each needs its own"
                )
            seen.add(name)


def _file_error(path: Path | str, fault: str) -> SettingsError:
    """Return the error; where the file as a whole is wrong, with an example of one."""
    example = "" if fault.startswith("model ") else f"; for example {EXAMPLE}"
    return SettingsError(f"MODELS_FILE: {path}: {fault}{example}")
