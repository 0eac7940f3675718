"""Every error this project raises by itself, as one tree.

GatewayError                      status  type                    code
├── BadRequest                    400     invalid_request_error   (none)
│   ├── InvalidBody               400     invalid_request_error   invalid_json
│   ├── InvalidForm               400     invalid_request_error   invalid_form
│   ├── UpgradeRefused            400     invalid_request_error   upgrade_refused
│   └── UpstreamLoop              400     invalid_request_error   upstream_loop
├── InvalidApiKey                 401     invalid_request_error   invalid_api_key
├── AnonymousRefused              403     invalid_request_error   anonymous_refused
├── ModelNotAllowed               403     invalid_request_error   model_not_allowed
├── ModelNotFound                 404     invalid_request_error   model_not_found
├── RequestNotFound               404     invalid_request_error   request_not_found
├── UnknownUrl                    404     invalid_request_error   unknown_url
├── MethodNotAllowed              405     invalid_request_error   method_not_allowed
├── BodyTooSlow                   408     invalid_request_error   body_too_slow
├── RequestCancelled              409     invalid_request_error   request_cancelled
├── IdempotencyConflict           409     invalid_request_error   idempotency_key_reused
├── BodyTooLarge                  413     invalid_request_error   body_too_large
├── UnsupportedMedia              415     invalid_request_error   unsupported_media_type
├── UnsupportedCoding             415     invalid_request_error   unsupported_content_encoding
├── QueueFull                     429     rate_limit_error        queue_full
├── TenantQueueFull               429     rate_limit_error        tenant_queue_full
├── RateLimited                   429     rate_limit_error        rate_limit_exceeded
├── HeadersTooLarge               431     invalid_request_error   headers_too_large
├── InternalError                 500     server_error            internal_error
├── DeadLettered                  500     server_error            dead_lettered
├── UpstreamUnreachable           502     server_error            upstream_unreachable
├── UpstreamAuthFailed            502     server_error            upstream_auth_failed
├── UpstreamRedirected            502     server_error            upstream_redirected
├── UpstreamInvalidReply          502     server_error            upstream_invalid_reply
├── WorkerLost                    502     server_error            worker_lost
├── ReplyLogTruncated             502     server_error            reply_log_truncated
├── ReplyTooLarge                 502     server_error            reply_too_large
├── BusUnavailable                503     server_error            bus_unavailable
├── LimitsUnavailable             503     server_error            limits_unavailable
├── ConnectionsFull               503     server_error            connections_full
├── Draining                      503     server_error            draining
├── GatewayDraining               503     server_error            gateway_draining
└── DeadlineExceeded              504     server_error            deadline_exceeded
SettingsError                     the start is refused, with one line
StoreUnavailable                  the store that gateways share does not answer
ClientGone                        the client has closed its connection
UndecodableRecord                 a record that is not in our wire format: poison
BusError
├── BusFull                       the local queue is full: back-pressure, try later
├── RecordTooLarge                a record is larger than its topic takes
└── NotDelivered                  the broker did not acknowledge a record in time
    └── Unconfirmed               it acknowledged later ones only

The body is OpenAI's: https://platform.openai.com/docs/guides/error-codes
"""

import math

import orjson


class GatewayError(Exception):
    """An error that a client sees: an HTTP status and OpenAI's error body."""

    status = 500
    type = "server_error"
    code: str | None = "internal_error"
    extra_headers: tuple[tuple[str, str], ...] = ()
    # x-should-retry, which the openai SDK obeys; None leaves it to the status
    should_retry: bool | None = None

    def __init__(
        self, message: str, *, param: str | None = None, retry_after_seconds: float | None = None
    ) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        self.retry_after_seconds = retry_after_seconds

    def encode_body(self) -> bytes:
        """OpenAI's error object as JSON."""
        return encode_error_body(self.message, self.type, self.param, self.code)

    def build_headers(self) -> tuple[tuple[str, str], ...]:
        """The response headers that go with it."""
        pairs = [("content-type", "application/json")]
        if self.retry_after_seconds is not None:
            pairs.append(("retry-after", str(max(1, math.ceil(self.retry_after_seconds)))))
        if self.should_retry is not None:
            pairs.append(("x-should-retry", "true" if self.should_retry else "false"))
        return (*pairs, *self.extra_headers)


def encode_error_body(message: str, error_type: str, param: str | None, code: str | None) -> bytes:
    """OpenAI's error object as JSON, from its four members."""
    error = {"message": message, "type": error_type, "param": param, "code": code}
    return orjson.dumps({"error": error})


class BadRequest(GatewayError):
    status, type = 400, "invalid_request_error"
    code: str | None = None


class InvalidBody(BadRequest):
    code = "invalid_json"


class InvalidForm(BadRequest):
    code = "invalid_form"


class UpgradeRefused(BadRequest):
    code = "upgrade_refused"
    extra_headers = (("connection", "close"),)  # the next bytes may be the body


class UpstreamLoop(BadRequest):
    code = "upstream_loop"


class InvalidApiKey(GatewayError):
    status, type, code = 401, "invalid_request_error", "invalid_api_key"
    extra_headers = (("www-authenticate", "Bearer"),)  # RFC 9110 section 11.6.1


class AnonymousRefused(GatewayError):
    status, type, code = 403, "invalid_request_error", "anonymous_refused"


class ModelNotAllowed(GatewayError):
    status, type, code = 403, "invalid_request_error", "model_not_allowed"


class ModelNotFound(GatewayError):
    status, type, code = 404, "invalid_request_error", "model_not_found"


class RequestNotFound(GatewayError):
    status, type, code = 404, "invalid_request_error", "request_not_found"


class UnknownUrl(GatewayError):
    status, type, code = 404, "invalid_request_error", "unknown_url"


class MethodNotAllowed(GatewayError):
    status, type, code = 405, "invalid_request_error", "method_not_allowed"


class BodyTooSlow(GatewayError):
    status, type, code = 408, "invalid_request_error", "body_too_slow"
    extra_headers = (("connection", "close"),)


class RequestCancelled(GatewayError):
    status, type, code, should_retry = 409, "invalid_request_error", "request_cancelled", False


class IdempotencyConflict(GatewayError):
    status, type, code, should_retry = 409, "invalid_request_error", "idempotency_key_reused", False


class BodyTooLarge(GatewayError):
    status, type, code = 413, "invalid_request_error", "body_too_large"


class UnsupportedMedia(GatewayError):
    status, type, code = 415, "invalid_request_error", "unsupported_media_type"


class UnsupportedCoding(GatewayError):
    status, type, code = 415, "invalid_request_error", "unsupported_content_encoding"
    extra_headers = (("accept-encoding", "gzip, deflate"),)


class QueueFull(GatewayError):
    status, type, code = 429, "rate_limit_error", "queue_full"


class TenantQueueFull(GatewayError):
    status, type, code = 429, "rate_limit_error", "tenant_queue_full"


class RateLimited(GatewayError):
    status, type, code = 429, "rate_limit_error", "rate_limit_exceeded"


class HeadersTooLarge(GatewayError):
    status, type, code = 431, "invalid_request_error", "headers_too_large"


class InternalError(GatewayError):
    status, type, code = 500, "server_error", "internal_error"


class DeadLettered(GatewayError):
    # It has ended three workers: sent again, it would end three more.
    status, type, code, should_retry = 500, "server_error", "dead_lettered", False


class UpstreamUnreachable(GatewayError):
    status, type, code = 502, "server_error", "upstream_unreachable"


class UpstreamAuthFailed(GatewayError):
    # The client's own key is good: a 401 would send its user to look for the fault there.
    status, type, code, should_retry = 502, "server_error", "upstream_auth_failed", False


class UpstreamRedirected(GatewayError):
    status, type, code, should_retry = 502, "server_error", "upstream_redirected", False


class UpstreamInvalidReply(GatewayError):
    # The model has done its work for this reply, and would do it again for the next one.
    status, type, code, should_retry = 502, "server_error", "upstream_invalid_reply", False


class WorkerLost(GatewayError):
    status, type, code, should_retry = 502, "server_error", "worker_lost", True


class ReplyLogTruncated(GatewayError):
    status, type, code = 502, "server_error", "reply_log_truncated"


class ReplyTooLarge(GatewayError):
    # The same request would most likely have the same reply, at the price of another run.
    status, type, code, should_retry = 502, "server_error", "reply_too_large", False


class BusUnavailable(GatewayError):
    status, type, code = 503, "server_error", "bus_unavailable"


class LimitsUnavailable(GatewayError):
    status, type, code = 503, "server_error", "limits_unavailable"


class ConnectionsFull(GatewayError):
    status, type, code = 503, "server_error", "connections_full"


class Draining(GatewayError):
    status, type, code = 503, "server_error", "draining"
    extra_headers = (("connection", "close"),)


class GatewayDraining(GatewayError):
    status, type, code = 503, "server_error", "gateway_draining"


class DeadlineExceeded(GatewayError):
    # Retrying what took longer than its deadline only doubles the load, so the SDK is told not to.
    status, type, code, should_retry = 504, "server_error", "deadline_exceeded", False


class SettingsError(Exception):
    """A setting that does not work; the message names the variable, the fault and an example."""


class StoreUnavailable(Exception):
    """The shared store does not answer. The text may name its address; `client_message` is for
    clients.
    """

    client_message = "Redis is out of reach or does not answer in time"


class ClientGone(Exception):
    """The client has closed its connection."""


class UndecodableRecord(Exception):
    """A record that is not in the published wire format (docs/wire-format.md)."""


class BusError(Exception):
    """The bus could not do what was asked."""


class BusFull(BusError):
    """The local send queue is full. Back-pressure: hold what you have and send it later."""


class RecordTooLarge(BusError):
    """A record is larger than its topic takes; nothing was written."""


class NotDelivered(BusError):
    """The broker did not acknowledge a record in time. The record may still be in the log."""


class Unconfirmed(NotDelivered):
    """The broker acknowledged only later records. This one may or may not be in the log."""
