"""Variables that look like settings and are none: each is named once at the start, with the one
that was probably meant.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import fields
from difflib import get_close_matches

from app.config.settings import SECTIONS

# every variable that begins so is meant for this program
_PREFIXES = ("FIRST_OPENAI_", "SECOND_OPENAI_")
_SIMILARITY_CUTOFF = 0.88  # difflib's ratio; a letter too few, too many or another one
# Variables of other programs that resemble ours: the OpenAI SDKs', OpenTelemetry's, the compose
# files'.
_FOREIGN_VARIABLES = frozenset(
    (
        *(
            "API_KEY",
            "OPENAI_API_KEY",
            "OPENAI_API_BASE",
            "OPENAI_BASE_URL",
            "OPENAI_ORG_ID",
            "OPENAI_PROJECT_ID",
            "OPENAI_LOG",
        ),
        *("OTEL_EXPORTER_OTLP_PROTOCOL", "OTEL_EXPORTER_OTLP_TIMEOUT", "OTEL_RESOURCE_ATTRIBUTES"),
        *("GATEWAY_HOST", "KAFKA_UI_PASSWORD"),
    )
)


def list_setting_names() -> frozenset[str]:
    """Return the names of all settings."""
    return frozenset(item.metadata["name"] for section in SECTIONS for item in fields(section))


def find_misspelt_settings(environment: Mapping[str, str]) -> list[str]:
    """Return one line for each variable that is no setting, and resembles one."""
    setting_names = list_setting_names()
    return [
        f"{name}: there is no such setting; did you mean {meant}?"
        for name in sorted(environment)
        if name not in setting_names and name not in _FOREIGN_VARIABLES
        for meant in _suggest_setting(name, setting_names)
    ]


def _suggest_setting(name: str, setting_names: Iterable[str]) -> Iterator[str]:
    """Return the setting that was probably meant, at most one: `name` with an end, a letter away,
    or of the same prefix.
    """
    if not name.isupper() or "_" not in name:
        return
    longer = sorted(other for other in setting_names if other.startswith(f"{name}_"))
    close = get_close_matches(name, setting_names, n=1, cutoff=_SIMILARITY_CUTOFF)
    prefix = next((prefix for prefix in _PREFIXES if name.startswith(prefix)), "")
    alike = get_close_matches(
        name,
        [other for other in setting_names if prefix and other.startswith(prefix)],
        n=1,
        cutoff=0,
    )
    yield from (longer or close or alike)[:1]
