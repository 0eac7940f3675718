"""Unpacks a request's body by its Content-Encoding (RFC 9110 section 8.4)."""

import asyncio
import zlib

from app.errors import BodyTooLarge, InvalidBody, UnsupportedCoding

_STEP_BYTES = 256 * 1024  # unpacked in one turn of the event loop: about a millisecond
_ZLIB_OR_GZIP = 47  # zlib's window bits: the stream's header says which of the two it is
_KNOWN = frozenset({"gzip", "x-gzip", "deflate"})


async def unpack(body: bytes, coding: str, limit: int) -> bytes:
    """Return the unpacked body, of at most `limit` bytes.

    Raises UnsupportedCoding, InvalidBody for a body that is not so coded, BodyTooLarge.
    """
    name = coding.strip().lower()
    if name in ("", "identity"):
        return body
    if name not in _KNOWN:
        raise UnsupportedCoding(
            f"the body's Content-Encoding {coding!r} is not known; send gzip, deflate or none"
        )
    unpacker = zlib.decompressobj(_ZLIB_OR_GZIP)
    unpacked = bytearray()
    try:
        while True:
            unpacked += unpacker.decompress(body, _STEP_BYTES)
            if len(unpacked) > limit:
                raise BodyTooLarge(
                    f"the unpacked request body is larger than {limit} bytes (MAX_BODY_BYTES)"
                )
            body = unpacker.unconsumed_tail
            if unpacker.eof or not body:
                break
            await asyncio.sleep(0)
        unpacked += unpacker.flush()
    except zlib.error:
        raise InvalidBody(f"The body is not {name}, which its Content-Encoding names.") from None
    if not unpacker.eof:
        raise InvalidBody(f"The body ends in the middle of its {name} stream.")
    if unpacker.unused_data:  # a second gzip member (RFC 1952 section 2.2), or anything else
        raise InvalidBody(f"The body goes on behind the end of its {name} stream; send it as one.")
    return bytes(unpacked)
