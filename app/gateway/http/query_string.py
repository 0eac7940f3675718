"""A request's query string, on its way to the upstream: without the keys that some clients put
there.
"""

import re
from urllib.parse import unquote_plus

from app.errors import BadRequest

# As `Authorization` does, a key that the client sends stays here: what goes on is read by others,
# in the record's `path` too.
_SECRET_PARAMETERS = frozenset(
    {
        "key",
        "api_key",
        "api-key",
        "apikey",
        "x-api-key",
        "token",
        "access_token",
        "auth_token",
        "auth",
        "authorization",
    }
    | {"secret", "client_secret", "password", "subscription-key", "sig", "signature"}
)


def strip_secret_parameters(query: str) -> str:
    """The query as it is, but for the parameters whose names say that they are secret."""
    return "&".join(
        part for part in query.split("&") if _parse_parameter_name(part) not in _SECRET_PARAMETERS
    )


def refuse_model_parameter(query: str) -> None:
    """Raise BadRequest for a query that names a model.

    The body names it, and some servers prefer the query: Go's Request.FormValue does for a form.
    """
    if any(_parse_parameter_name(part) == "model" for part in re.split("[&;]", query)):
        raise BadRequest("model: the body names it; leave it out of the query.", param="model")


def _parse_parameter_name(part: str) -> str:
    return unquote_plus(part.partition("=")[0]).strip().lower()
