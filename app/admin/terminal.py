"""Text from the log on a terminal."""


def escaped(text: str, *, kept: str = "") -> str:
    """Return a text without what a terminal would obey instead of showing it; `kept`: control characters that stay."""
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() or char in kept else char.encode("unicode_escape").decode("ascii") for char in text)
