"""Variables that look like settings and are none: each is named once at the start, with the one
that was probably meant.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import fields
from difflib import get_close_matches

from app.config.settings import SECTIONS

# every variable that begins so is meant for this program
_PREFIXES = ("FIRST_OPENAI_", "SECOND_OPENAI_")
_ALIKE = 0.88  # difflib's ratio; a letter too few, too many or another one
# Variables of other programs that resemble ours: the OpenAI SDKs', OpenTelemetry's, the compose
# files'.
_OTHERS = frozenset(
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


def known_settings() -> frozenset[str]:
    """Return the names of all settings."""
    return frozenset(item.metadata["name"] for section in SECTIONS for item in fields(section))


def misspelt(environment: Mapping[str, str]) -> list[str]:
    """Return one line for each variable that is no setting, and resembles one."""
    known = known_settings()
    return [
        f"{name}: there is no such setting; did you mean {meant}?"
        for name in sorted(environment)
        if name not in known and name not in _OTHERS
        for meant in _meant(name, known)
    ]


def _meant(name: str, known: Iterable[str]) -> Iterator[str]:
    """Return the setting that was probably meant, at most one: `name` with an end, a letter away,
    or of the same prefix.
    """
    if not name.isupper() or "_" not in name:
        return
    longer = sorted(other for other in known if other.startswith(f"{name}_"))
    close = get_close_matches(name, known, n=1, cutoff=_ALIKE)
    prefix = next((prefix for prefix in _PREFIXES if name.startswith(prefix)), "")
    alike = get_close_matches(
        name, [other for other in known if prefix and other.startswith(prefix)], n=1, cutoff=0
    )
    yield from (longer or close or alike)[:1]
