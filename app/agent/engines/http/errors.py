"""What goes wrong between us and an upstream, in a few words without its address."""

import os
import ssl

NO_CONNECTION = "no connection in time"
NO_BYTE = "no byte in time"
NO_REPLY = "it closed the connection without a reply"
CUT_SHORT = "its reply was cut short or is garbled"


class UpstreamError(Exception):
    """No reply, or no whole one. The text is for people."""


class Silent(UpstreamError):
    """No byte came for as long as the model's entry allows."""


class Unreadable(UpstreamError):
    """A reply came that cannot be passed on. It is not asked for again: the upstream has done its
    work.
    """


class TooLarge(Unreadable):
    """The head or the trailers of a reply are larger than a worker takes."""


class Stale(UpstreamError):
    """The upstream had closed a kept-alive connection: the request may be sent again on another."""


def reason(error: BaseException) -> str:
    match error:
        case TimeoutError():
            return NO_CONNECTION
        case OSError(errno=int(number)) if number > 0:
            return os.strerror(number)
        case OSError(strerror=str(words)):  # name resolution has numbers of its own
            return words
    return str(error)


def no_tls(error: OSError) -> str:
    """Why a connection that is open does not become a secured one."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate is refused ({error.verify_message})"
    return f"no TLS with it ({error!r})"
