"""Which keys of our own are too easily guessed."""

_SHORTEST_KEY = 16  # characters
_FEWEST_LETTERS = 5  # different ones
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


def weakness(key: str) -> str:
    """Why a key of our own can be guessed; empty if nothing is seen."""
    if len(key) < _SHORTEST_KEY:
        return f"is shorter than {_SHORTEST_KEY} characters"
    letters = "".join(char for char in key.lower() if char.isalnum())
    if len(set(letters)) < _FEWEST_LETTERS or any(word in letters for word in _PLACEHOLDERS):
        return "is a placeholder"
    return ""
