"""Our own errors as bodies of Anthropic's API: https://docs.anthropic.com/en/api/errors"""

import orjson

from app.errors import GatewayError

VERSION_HEADER = b"anthropic-version"  # every client of that API sends it

_ERROR_TYPES_BY_STATUS = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    409: "conflict_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
    504: "timeout_error",
}


def error_type(status: int) -> str:
    """Return Anthropic's word for an HTTP status of 400 or above."""
    return _ERROR_TYPES_BY_STATUS.get(status) or (
        "invalid_request_error" if status < 500 else "api_error"
    )


def encode_error_body(error: GatewayError) -> bytes:
    """Return the error as JSON. The SDK shows `details.error_code` as the exception's
    `error_code`.
    """
    error_object: dict[str, object] = {
        "type": error_type(error.status),
        "message": error.message,
        "param": error.param,
        "code": error.code,
    }
    if error.code:
        error_object["details"] = {"error_code": error.code}
    return orjson.dumps({"type": "error", "error": error_object})
