"""Which keys of our own are too easily guessed."""

_MIN_KEY_CHARS = 16  # characters
_MIN_DISTINCT_CHARS = 5  # different ones
_PLACEHOLDERS = (
    *(
        "changeme",
        "changethis",
        "replaceme",
        "replacethis",
        "placeholder",
        "password",
        "yourkey",
        "yourapikey",
        "yoursecret",
    ),
    *(
        "apikeyhere",
        "keyhere",
        "secretkey",
        "mysecret",
        "insertkey",
        "exampleapikey",
        "examplekey",
        "dummykey",
        "0123456789abcdef",
    ),
)


def find_key_weakness(key: str) -> str:
    """Why a key of our own can be guessed; empty if nothing is seen."""
    if len(key) < _MIN_KEY_CHARS:
        return f"is shorter than {_MIN_KEY_CHARS} characters"
    letters = "".join(char for char in key.lower() if char.isalnum())
    if len(set(letters)) < _MIN_DISTINCT_CHARS or any(word in letters for word in _PLACEHOLDERS):
        return "is a placeholder"
    return ""
