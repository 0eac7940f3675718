"""Unpacks a request's body by its Content-Encoding (RFC 9110 section 8.4)."""

import asyncio
import zlib

from app.errors import BodyTooLarge, InvalidBody, UnsupportedCoding

_MAX_STEP_BYTES = 256 * 1024  # unpacked in one turn of the event loop: about a millisecond
_ZLIB_OR_GZIP_WBITS = 47  # zlib's window bits: the stream's header says which of the two it is
_SUPPORTED_CODINGS = frozenset({"gzip", "x-gzip", "deflate"})


async def decompress_body(body: bytes, content_coding: str, max_bytes: int) -> bytes:
    """Return the unpacked body, of at most `max_bytes` bytes.

    Raises UnsupportedCoding, InvalidBody for a body that is not so coded, BodyTooLarge.
    """
    name = content_coding.strip().lower()
    if name in ("", "identity"):
        return body
    if name not in _SUPPORTED_CODINGS:
        raise UnsupportedCoding(
            f"the body's Content-Encoding {content_coding!r} is not known; send gzip, "
            f"deflate or none"
        )
    decompressor = zlib.decompressobj(_ZLIB_OR_GZIP_WBITS)
    decompressed = bytearray()
    try:
        while True:
            decompressed += decompressor.decompress(body, _MAX_STEP_BYTES)
            if len(decompressed) > max_bytes:
                raise BodyTooLarge(
                    f"the unpacked request body is larger than {max_bytes} bytes (MAX_BODY_BYTES)"
                )
            body = decompressor.unconsumed_tail
            if decompressor.eof or not body:
                break
            await asyncio.sleep(0)
        decompressed += decompressor.flush()
    except zlib.error:
        raise InvalidBody(f"The body is not {name}, which its Content-Encoding names.") from None
    if not decompressor.eof:
        raise InvalidBody(f"The body ends in the middle of its {name} stream.")
    if decompressor.unused_data:  # a second gzip member (RFC 1952 section 2.2), or anything else
        raise InvalidBody(f"The body goes on behind the end of its {name} stream; send it as one.")
    return bytes(decompressed)
