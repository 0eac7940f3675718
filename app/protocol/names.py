"""Names that may be given to models and topics. Each function returns the name, or raises
ValueError with the rule.
"""

import re


def validate_model_name(text: str) -> str:
    """Return a model's name, which may be empty."""
    if text and (text != text.strip() or not text.isprintable()):
        raise ValueError("a name without control characters, and without spaces around it")
    return text


def validate_topic_name(text: str, max_chars: int = 249) -> str:
    """Return a name that Kafka accepts for a topic, which may be empty. `max_chars`: characters."""
    if text and (
        text in (".", "..") or len(text) > max_chars or not re.fullmatch(r"[A-Za-z0-9._-]+", text)
    ):
        raise ValueError(f"a topic's name: letters, digits, '.', '_' and '-', at most {max_chars}")
    return text


def validate_topic_prefix(text: str) -> str:
    """Return a prefix of topic names. The longest that follows it is `.requests.` and 131
    characters for the model.
    """
    return validate_topic_name(text, max_chars=100)
